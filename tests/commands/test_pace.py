"""What a job's progress says of its speed."""

from __future__ import annotations

import pytest

from tgi_stack.commands.progress import WINDOW_S, Pace, spoken


def test_the_rate_is_that_of_the_last_seconds() -> None:
    pace = Pace(0.0)
    for second in range(1, 61):
        rate, speed = pace.rates(float(second), 100 * min(second, 30) + 10 * max(0, second - 30), 0)
    assert rate == pytest.approx(10)
    assert speed == 0
    assert len(pace._seen) <= WINDOW_S + 2


def test_the_time_left_does_not_jump() -> None:
    pace = Pace(0.0)
    before = pace.left_s(1.0, 100.0, 100_000)
    after = pace.left_s(1.5, 1.0, 99_950)  # one slow moment
    assert before == pytest.approx(1000)
    assert after == pytest.approx(1000, rel=0.05)
    for second in range(2, 200):
        after = pace.left_s(float(second), 1.0, 99_000)
    assert after is not None
    assert after > 50_000  # a rate that stays is believed


def test_nothing_is_known_of_a_run_that_stands() -> None:
    pace = Pace(0.0)
    assert pace.rates(0.0, 0, 0) == (0.0, 0.0)
    assert pace.left_s(5.0, 0.0, 10) is None


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (240, "4 min"), (7800, "2 h 10 min")])
def test_times_are_spoken(seconds: float, said: str) -> None:
    assert spoken(seconds) == said
