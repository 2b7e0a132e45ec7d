"""An input that several processes look at: they see what one sees, whatever becomes of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Fastqwen, write_rows
from tgi_stack.errors import DiskError, RowError
from tgi_stack.rows.looking import crowd
from tgi_stack.rows.looking.check import check
from tgi_stack.rows.looking.crowd import Crowd, blocks_of
from tgi_stack.rows.looking.seen import Looker, Seen
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.reader import Line, Source, UnreadRow
from tgi_stack.rows.schema import Schema

ROWS = 6 * crowd.BLOCK_ROWS  # more blocks than wait at two processes
GOOD = {"history": ["a"], "candidates": [{"id": "b", "text": "x: y"}, "c"]}
WRONG: list[Any] = [
    {"id": None, **GOOD},
    {**GOOD, "id": "twice", "query": "q"},
    {"id": "é", "candidates": []},
    {"candidates": [3.5], "history": []},
    {"id": "\ud800", **GOOD},
    ["no row"],
]


def rows(count: int) -> Iterator[Any]:
    for n in range(count):
        yield {"id": f"r{n}", **GOOD} if n % 9 else WRONG[n // 9 % len(WRONG)]


@pytest.fixture
def source(tmp_path: Path) -> Callable[[], Source]:
    """The same input, opened anew: rows, wrong ones, blank lines, lines that are no JSON."""
    lines = [json.dumps(row).encode() for row in rows(ROWS)]
    lines[700:700] = [b"", b'{"id": "a", "id": "b"}', b"\xff", b"{", b'{"id": NaN}']
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    return lambda: open_source(str(path), kind="rerank", columns={"id": "id", "query": "asked"})


def told(seen: Seen) -> tuple[Any, ...]:
    number, id, error = seen
    return number, id, None if error is None else (error.type, str(error))


def alone(source: Source) -> tuple[list[tuple[Any, ...]], Looker]:
    looker = Looker(Schema("rerank"), source.wanted)
    return [told(looker.see(raw)) for raw in source.look()], looker


@contextmanager
def by_many(source: Source) -> Iterator[tuple[Crowd, Iterator[Seen], Looker]]:
    looker = Looker(Schema("rerank"), source.wanted)
    many = Crowd(looker, 2)
    try:
        yield many, many.seen(source.look_unread()), looker
    finally:
        many.close()
        assert all(process.poll() is not None for process in many._started)


def test_many_see_what_one_sees(source: Callable[[], Source]) -> None:
    expected, one = alone(source())
    with by_many(source()) as (many, seen, looker):
        assert list(map(told, seen)) == expected
        assert len(many._started) == 2
    assert looker.wanted.unseen == one.wanted.unseen == {"asked"}
    assert looker.wanted.names_seen == one.wanted.names_seen


def test_what_they_saw_is_noted(source: Callable[[], Source]) -> None:
    looked = source()
    with by_many(looked) as (_, seen, _looker):
        list(seen)
    assert sum(1 for _ in looked.rows()) == ROWS + 4
    assert looked._noted is not None
    assert looked._noted.last == ROWS + 5


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_fails_costs_no_row(source: Callable[[], Source], fate: signal.Signals) -> None:
    with by_many(source()) as (many, seen, _):
        first = told(next(seen))
        for process in many._started:
            os.kill(process.pid, fate)
        assert [first, *map(told, seen)] == alone(source())[0]


def test_a_full_pipe_of_a_stopped_process_ends(tmp_path: Path) -> None:
    """Lines of more than a pipe holds: whoever hands them out would wait in the middle."""
    text = "x" * 100_000
    wide = [{"id": f"r{n}", "history": [], "candidates": [{"id": "a", "text": text}]} for n in range(150)]
    path = write_rows(tmp_path / "wide.jsonl", *wide)
    with by_many(open_source(str(path), kind="rerank")) as (many, seen, _):
        first = told(next(seen))
        for process in many._started:
            os.kill(process.pid, signal.SIGSTOP)
        assert [first, *map(told, seen)] == alone(open_source(str(path), kind="rerank"))[0]


def test_an_input_that_is_gone_is_told(source: Callable[[], Source], tmp_path: Path) -> None:
    looked = source()
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DiskError, match="No such file"):
        check(looked, Schema("rerank"))


def test_where_no_process_starts_none_is_needed(
    source: Callable[[], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    with by_many(source()) as (many, seen, _):
        assert list(map(told, seen)) == alone(source())[0]
        assert not many._started


def test_who_stops_looking_leaves_no_process(source: Callable[[], Source]) -> None:
    with by_many(source()) as (many, seen, _):
        next(seen)
        assert many._started


def test_a_row_without_line_keeps_its_place() -> None:
    """One that is too long was never read."""
    wrong = RowError("input.malformed", "too long")
    read = list(blocks_of([UnreadRow(1, wrong), UnreadRow(2, Line(b"{}", "f", 2))]))
    assert [[row.number for row in block] for block in read] == [[1], [2]]


@pytest.mark.slow
def test_a_long_input_is_looked_at_by_many(
    fastqwen: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    class Counted(Crowd):
        def __init__(self, looker: Looker, many: int) -> None:
            super().__init__(looker, many)
            started.append(many)

    monkeypatch.setattr(crowd, "Crowd", Counted)
    monkeypatch.setattr(crowd, "cores", lambda: 3)
    text = "word: " * 300
    long: list[dict[str, Any]] = [
        {"id": f"r{n}", "history": [], "candidates": [{"id": "a", "text": text}, {"id": "b", "text": text}]}
        for n in range(crowd.LEAST_BYTES // (2 * len(text)) + 1)
    ]
    source = write_rows(tmp_path / "rows.jsonl", *long, {"id": "r7", "history": [], "candidates": ["a"]})
    assert source.stat().st_size > crowd.LEAST_BYTES
    ended = fastqwen("rerank", source, "--engine", "scripted", "--dry-run", check=2)
    assert f"id 'r7' stands in row 8 and in row {len(long) + 1}" in ended.stderr
    assert started == [2]
