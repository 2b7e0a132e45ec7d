"""`eval` of the same records says the same to the last digit, as JSON lines and as Parquet."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tgi_stack.backends.scripted import Script, ScriptedBackend
from tgi_stack.errors import AnswerError, InputError
from tgi_stack.jobs.pipeline import answered
from tgi_stack.jobs.rerank.job import Rerank
from tgi_stack.rows import jsonl, parquet
from tgi_stack.rows.reader import RawRow
from tgi_stack.scoring import distributions
from tgi_stack.scoring.evaluation import evaluate
from tgi_stack.settings import Settings
from tgi_stack.types import LabelScores, ScoreRequest

WAYS: list[dict[str, Any]] = [
    {},
    {"permutations": 3},
    {"permutations": 2, "calibrate": True},
    {"window": 2, "stride": 1},
    {"window": 3, "permutations": 2},
    {"mode": "pointwise"},
    {"mode": "pointwise", "calibrate": True},
]
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6) | st.integers(-(2**63), 2**63)
# Logarithms of which labels are far apart, tie, or lie at the end of what a double tells apart.
LOGARITHMS = st.sampled_from([0.0, -0.5, -1.0, -700.0]) | st.floats(-30.0, 0.0)
FIRST = ScriptedBackend(Script(), "text")


class Drawn(ScriptedBackend):
    """Answers as hypothesis draws: exact, among labels alone, as bounds, or not at all."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw
        self.max_concurrency = 1
        self.identity, self.profile = FIRST.identity, FIRST.profile

    async def score(self, request: ScoreRequest) -> LabelScores:
        kind = self._draw(st.sampled_from(["vocabulary", "labels", "bounds", "vocabulary", "failed"]))
        if kind == "failed":
            raise AnswerError("server.bad_response", "drawn", attempts=2)
        many = len(request.labels)
        found = distributions.among(self._draw(st.lists(LOGARITHMS, min_size=many, max_size=many)))
        if kind == "labels":
            return LabelScores(found, "labels", None, True, "tgi.grammar", 3)
        found = tuple(value - 0.1 for value in found)
        flags = ("labels.bounded",) if kind == "bounds" else ()
        mass = None if kind == "bounds" else distributions.mass(found)
        return LabelScores(found, "vocabulary", mass, not flags, "drawn", 3, flags)


def row(draw: Callable[[st.SearchStrategy[Any]], Any], number: int) -> RawRow:
    """A row to rank, with or without positives; now and then one that can't be parsed."""
    ids = draw(st.lists(IDS, min_size=1, max_size=5, unique_by=str))
    value: dict[str, Any] = {"id": f"u{number}", "query": f"of row {number}"}
    value |= {"candidates": [{"id": id, "text": f"item {place}"} for place, id in enumerate(ids)]}
    positive = draw(st.none() | st.lists(st.sampled_from([*ids, "absent"]), max_size=3))
    if positive is not None:
        value |= {"positive": positive}
    if draw(st.integers(0, 9)) == 0:
        del value[draw(st.sampled_from(["id", "query"]))]
    return RawRow(number, value)


async def written_records(draw: Callable[[st.SearchStrategy[Any]], Any]) -> list[dict[str, Any]]:
    job = Rerank(Drawn(draw), Settings(**draw(st.sampled_from(WAYS))), {}).job()
    numbers = range(1, 1 + draw(st.integers(1, 4)))
    return [(await answered(job, row(draw, number))).record for number in numbers]


def said(out: Path, **options: Any) -> tuple[str, str, str]:
    """What `eval` prints, what it gives to programs, and its TREC run; or why it gives nothing."""
    run = out.with_suffix(".trec")
    try:
        figures = evaluate(out, [1, 3], trec=run, overwrite=True, **options)
    except InputError as error:
        return str(error).removeprefix(str(out)), "", ""
    console = Console(file=io.StringIO(), width=200)
    for part in figures.printed():
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    programs = json.dumps([figures.as_dict(), asdict(figures.rankings)])
    return console.file.getvalue(), programs, run.read_text("utf-8")


def test_rows_that_are_wrong_keep_their_positives() -> None:
    job = Rerank(FIRST, Settings(), {}).job()
    sound: dict[str, Any] = {"id": 1, "query": "q", "candidates": [{"id": 2, "text": "x"}], "positive": [2]}
    wrongs: list[dict[str, Any]] = [
        {"id": 1.5},
        {"query": 7},
        {"candidates": []},
        {"candidates": ["unknown"]},
        {"positive": 2.5},
    ]
    found = [asyncio.run(answered(job, RawRow(1, sound | wrong))).record for wrong in wrongs]
    assert {record["status"] for record in found} == {"failed"}
    assert [record.get("positive") for record in found] == [["2"]] * 4 + [None]


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_formats_are_evaluated_alike(data: st.DataObject) -> None:
    records = asyncio.run(written_records(data.draw))
    lines = [jsonl.dumps(record) for record in records]
    table = io.BytesIO()
    parquet.write("rerank", table, lines)
    options = {
        "temperature": data.draw(st.none() | st.sampled_from([1e-6, 0.5, 1.0, 3.0])),
        "exclude_failed": data.draw(st.booleans()),
        "drop": data.draw(st.sampled_from([[], ["absent"], records[0].get("positive", ["0"])[:1]])),
    }
    with tempfile.TemporaryDirectory() as folder:
        texts, tables = Path(folder, "o.jsonl"), Path(folder, "o.parquet")
        texts.write_bytes(b"".join(lines))
        tables.write_bytes(table.getvalue())
        assert said(texts, **options) == said(tables, **options)
