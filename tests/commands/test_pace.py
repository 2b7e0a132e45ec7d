"""What a job's progress says of its speed."""

from __future__ import annotations

import pytest

from tgi_stack.commands.progress import WINDOW_S, Pace, fitted, spoken


def test_the_rate_is_that_of_the_last_seconds() -> None:
    pace = Pace(0.0)
    for second in range(1, 61):
        pace.update(float(second), 100 * min(second, 30) + 10 * max(0, second - 30))
    assert pace.rate == pytest.approx(10)
    assert pace.speed == 0
    assert len(pace._seen) <= WINDOW_S + 2


def test_the_time_left_does_not_jump() -> None:
    pace = Pace(0.0)
    for tenth in range(101):
        pace.update(tenth / 10, 10 * tenth)
    before = pace.left_s(100_000)
    pace.update(10.5, 1000)  # one slow moment
    after = pace.left_s(99_950)
    assert before == pytest.approx(1000, rel=0.02)
    assert after == pytest.approx(1000, rel=0.05)
    for second in range(11, 200):
        pace.update(float(second), 1000 + second)
    after = pace.left_s(99_000)
    assert after is not None
    assert after > 50_000  # a rate that stays is believed


def test_loading_is_no_part_of_the_time_left() -> None:
    pace = Pace(0.0)
    for second in range(60):
        pace.update(float(second), 0)
    for second in range(60, 70):
        pace.update(float(second), 100 * (second - 59))
    assert pace.left_s(1000) == pytest.approx(10, rel=0.2)


def test_nothing_is_known_of_a_run_that_stands() -> None:
    pace = Pace(0.0)
    pace.update(0.0, 0)
    assert (pace.rate, pace.left_s(10)) == (0.0, None)
    pace.update(1.0, 50)
    assert pace.left_s(10) is None  # too soon


def test_first_of_many_at_once_says_nothing() -> None:
    pace = Pace(0.0)
    for second, rows in ((1, 0), (12, 1)):
        pace.update(float(second), rows)
    assert pace.left_s(69, 16) is None
    pace.update(13.0, 16)
    assert pace.left_s(54, 16) is not None


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (240, "4 min"), (7800, "2 h 10 min")])
def test_times_are_spoken(seconds: float, said: str) -> None:
    assert spoken(seconds) == said


def test_lines_drop_what_matters_least() -> None:
    parts = [(0, "5 of 9 rows"), (2, "100 tokens/s"), (1, "3 failed"), (0, "2 s left")]
    assert fitted(parts, 80) == "5 of 9 rows, 100 tokens/s, 3 failed, 2 s left"
    assert fitted(parts, 34) == "5 of 9 rows, 3 failed, 2 s left"
    assert fitted(parts, 12) == "5 of 9 rows,"
