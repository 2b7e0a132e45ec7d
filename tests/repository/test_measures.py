"""The rules of the tools that measure and compare: what counts, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

import compare_records
import measure_house

CODE = """
from collections.abc import Awaitable, Callable, Sequence

Clock = Callable[[], float]
Names = Sequence[str]


def long(
    clock: Clock, names: Names, *, then: Callable[[int], Awaitable[None]] | None = None
) -> Callable[[], int]:
    def inner(
        wait: "Awaitable[int]", text: Annotated[str, option(help="A Clock")] = "", **rest: Clock
    ) -> int:
        return 1

    return lambda: 1
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    (tmp_path / "tgi_stack" / "jobs").mkdir(parents=True)
    (tmp_path / "cli.py").write_text("pass\n" * 61)
    (tmp_path / "tgi_stack" / "__init__.py").write_text("")
    (tmp_path / "tgi_stack" / "code.py").write_text(CODE)
    for number in range(15):
        (tmp_path / "tgi_stack" / "jobs" / f"m{number}.py").write_text("\n" * (401 if number else 1))
    return tmp_path


def test_callbacks_are_counted_through_their_aliases(house: Path) -> None:
    found = measure_house.functions(house, [Path("tgi_stack/code.py")])
    assert [(one.place.split()[1], one.lines, one.callbacks) for one in found] == [
        ("long", 9, ("clock: Clock", "then: Callable[[int], Awaitable[None]] | None")),
        ("inner", 4, ("wait: 'Awaitable[int]'", "rest: Clock")),
    ]


def test_broken_limits_name_their_place(house: Path) -> None:
    broken = {one.name: (one.value, one.where) for one in measure_house.of_code(house) if not one.holds}
    assert broken == {
        "modules of the fullest folder": (15, "tgi_stack/jobs"),
        "lines of the longest module": (401, "tgi_stack/jobs/m1.py"),
        "lines of cli.py": (61, ""),
        "callback parameters per 100 functions": (200, "4 of them"),
    }


@pytest.mark.parametrize(
    ("page", "counts"),
    [
        ("One two three. Four five!\n", [3, 2]),
        ("A line\nthat goes on: with a colon; and more.\n", [10]),
        ("# A heading\n\n- one item\n- another item\n  of two lines\n1. third\n", [2, 5, 1]),
        ("| a | table |\n|---|---|\n\nIt calls `f(a, b)` - twice.\n", [3]),
        ("Before.\n```\ncode of. no. words.\n```\nAfter it (in brackets.) More.\n", [1, 4, 1]),
        ("e.g. costs two, 0.4 s too\n", [1, 5]),
    ],
)
def test_sentences_leave_code_and_tables_out(page: str, counts: list[int]) -> None:
    assert measure_house.sentences(page) == counts


@pytest.mark.parametrize(
    ("other", "tolerance", "differences"),
    [
        ({"id": "a", "p": 0.5, "n": [1, 2], "version": "2"}, 0.0, []),
        ({"id": "a", "p": 0.500001, "n": [1, 2]}, 1e-5, []),
        ({"id": "a", "p": 0.500001, "n": [1, 2]}, 0.0, [".p: 0.5 before, 0.500001 after"]),
        ({"id": "a", "p": 0.5, "n": [1, 2.0]}, 1e-5, [".n[1]: 2 before, 2.0 after"]),
        ({"id": "a", "p": 0.5, "n": [1]}, 0.0, [".n: 2 values before, 1 values after"]),
        ({"p": 0.5, "n": [1, 2], "q": None}, 0.0, [".id is gone", ".q is new"]),
    ],
)
def test_records_differ_in_more_than_times(other: object, tolerance: float, differences: list[str]) -> None:
    one = {"id": "a", "p": 0.5, "n": [1, 2], "version": "1"}
    assert sorted(compare_records.different(one, other, tolerance, "")) == differences
