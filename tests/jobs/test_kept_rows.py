"""Whole records that the cache keeps: they are what its answers would give, and nothing else brings them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from cache.store import Store
from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tests.loopback import TOKENIZER, serve
from tgi_stack.answers.tables import STOOD_IN
from tgi_stack.declared.option import declared
from tgi_stack.declared.run import Fields
from tgi_stack.jobs.preparing.kept_rows import KeptRows, RecordCodec, asked_of
from tgi_stack.rows import jsonl
from tgi_stack.rows.reader import Line, RawRow
from tgi_stack.rows.records import written
from tgi_stack.settings import load
from tgi_stack.tiny import TINY
from tgi_stack.types import Identity

ROWS = 90
SCRIPTED = ("--engine", "scripted", "--overwrite", "--preparers", "2")
ITEMS = CATALOGUE / "items.jsonl"
IDENTITY = Identity("scripted", "scripted", "1", "none", "none", "0" * 64, "1")
FLAGS = ["label_mass.low"]
RECORD = {"id": "5", "status": "ok", "exact": True, "from_cache": True, "flags": FLAGS, "attempts": 0}


def sessions(path: Path) -> Path:
    names = [json.loads(line)["id"] for line in ITEMS.read_bytes().splitlines()]
    rows = (
        {
            "id": n,
            "history": names[n % 9 :][:3],
            "candidates": names[10 + n % 20 :][:7],
            "positive": names[12],
        }
        for n in range(ROWS)
    )
    return write_rows(path, *rows)


def questions(path: Path) -> Path:
    rows = ({"id": f"ü{n}", "prompt": f"Question {n}\u2028\n", "num_candidates": 4} for n in range(ROWS))
    return write_rows(path, *rows)


def hits(cached: Fastqwen) -> int:
    return int(json.loads(cached("cache", "info", "--json").stdout)["kinds"]["record"]["hits"])


def forget_records(folder: Path) -> None:
    """Leaves the answers alone."""
    with sqlite3.connect(next(folder.rglob("small/cache.db"))) as database:
        database.execute("DELETE FROM Cache WHERE key >= 'R' AND key < 'S'")


@pytest.mark.parametrize(
    "asked",
    [
        ("probs",),
        pytest.param(("rerank",), marks=pytest.mark.slow),
        pytest.param(("rerank", "--permutations", "3"), marks=pytest.mark.slow),
        pytest.param(("rerank", "--permutations", "2", "--calibrate"), marks=pytest.mark.slow),
        pytest.param(("rerank", "--window", "4"), marks=pytest.mark.slow),
        pytest.param(("rerank", "--mode", "pointwise"), marks=pytest.mark.slow),
        pytest.param(("probs", "--label-prefix", " "), marks=pytest.mark.slow),
    ],
)
def test_kept_records_are_what_answers_give(cached: Fastqwen, tmp_path: Path, asked: tuple[str, ...]) -> None:
    job, *more = asked
    rows = sessions(tmp_path / "s.jsonl") if job == "rerank" else questions(tmp_path / "q.jsonl")
    command = (job, rows, *SCRIPTED, *more, *(("--items", ITEMS) if job == "rerank" else ()))
    cached(*command, "-o", "cold.jsonl")
    assert hits(cached) == 0
    found, means = [], []
    for _ in range(2):
        counts = json.loads(cached(*command, "-o", "warm.jsonl", "--offline", "--json").stdout)
        assert counts["cached"] == ROWS
        means.append(counts.pop("mean_probability_by_position", None))  # summed up in the order of processes
        found.append((counts, Path("warm.jsonl").read_bytes()))
        if len(found) == 1:
            assert hits(cached) == ROWS
            forget_records(tmp_path / "cache")
    assert found[0] == found[1]
    assert means[0] == pytest.approx(means[1])


def test_a_changed_item_is_in_its_rows(cached: Fastqwen, tmp_path: Path) -> None:
    items = [json.loads(line) for line in ITEMS.read_bytes().splitlines()]
    catalogue = write_rows(tmp_path / "items.jsonl", *items)
    command = ("rerank", sessions(tmp_path / "s.jsonl"), *SCRIPTED, "--items", catalogue, "--json")
    cached(*command, "-o", "before.jsonl")
    write_rows(catalogue, *(item | {"title": f"New {item['title']}"} for item in items))
    assert json.loads(cached(*command, "-o", "after.jsonl").stdout)["cached"] == 0
    assert hits(cached) == 0


def test_items_in_another_format_are_others(cached: Fastqwen, tmp_path: Path) -> None:
    """Each format finds lines of the other that it can't read."""
    rows = sessions(tmp_path / "s.jsonl")
    for suffix, ok in ((".jsonl", ROWS), (".csv", 0)):
        items = tmp_path / f"items{suffix}"
        items.write_bytes(b"id,title\n" + ITEMS.read_bytes())
        command = ("rerank", rows, *SCRIPTED, "--items", items, "--skip-bad-rows", "--json")
        done = cached(*command, "-o", "out.jsonl", check=None)
        assert json.loads(done.stdout)["ok"] == ok


def test_rows_without_an_id_are_numbered_anew(cached: Fastqwen, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {n}\n", "num_candidates": 4} for n in range(40)]
    command = ("probs", tmp_path / "q.jsonl", *SCRIPTED)
    write_rows(tmp_path / "q.jsonl", *rows)
    cached(*command, "-o", "before.jsonl")
    write_rows(tmp_path / "q.jsonl", *rows[::-1])
    cached(*command, "-o", "after.jsonl", "--offline")
    found = [json.loads(line)["id"] for line in Path("after.jsonl").read_bytes().splitlines()]
    assert found == [str(number) for number in range(1, 41)]


# -- what they depend on -----------------------------------------------------------------------------------


def told() -> dict[str, Any]:
    return {
        "name": "probs",
        "settings": load({}, {}).model_dump(mode="json"),
        "template": None,
        "form": None,
        "columns": {},
        "items": [],
        "identity": asdict(IDENTITY),
        "profile": {"context": 4096},
        "takes_tokens": True,
        "replaced": False,
        "width": 8,
    }


@pytest.mark.parametrize("part", ["template", "form", "columns", "items", "takes_tokens"])
def test_each_part_of_a_job_has_its_records(part: str) -> None:
    assert asked_of(told() | {part: "another"}) != asked_of(told())


@pytest.mark.parametrize("whose", ["identity", "profile"])
def test_whoever_answers_has_their_own_records(whose: str) -> None:
    for name in told()[whose]:
        changed = told() | {whose: told()[whose] | {name: "another"}}
        assert asked_of(changed) != asked_of(told()), name


def test_settings_that_change_answers_change_records() -> None:
    for name, one in declared(Fields).items():
        changed = told()
        changed["settings"][name] = "another"
        told_as_content = name in ("prompt_file", "schema")
        apart = one.option.changes_answers and not told_as_content
        assert (asked_of(changed) != asked_of(told())) == apart, name
    assert asked_of(told() | {"width": 16}) == asked_of(told())


@pytest.mark.parametrize(
    ("value", "more"),
    [
        ({"id": 5}, {"status": "failed"}),
        ({"id": 5}, {"flags": [STOOD_IN]}),
        ({"id": 5}, {"exact": False}),
        ({"prompt": "its id is its number"}, {}),
        (None, {}),
    ],
)
def test_other_rows_are_not_kept(tmp_path: Path, value: dict[str, Any] | None, more: dict[str, Any]) -> None:
    store, line = Store(tmp_path), Line(b'{"id": 5}\n', "rows.jsonl", 1)
    try:
        kept = KeptRows(store, told())
        kept.keep(line, RawRow(1, value), RECORD | more)
        assert kept.known([line]) == [None]
        kept.keep(line, RawRow(1, {"id": 5}), RECORD | {"from_cache": False, "attempts": 2})
        assert kept.known([line._replace(content=b' {"id": 5}')]) == [written(dict(RECORD))]
    finally:
        store.close()


def test_too_long_records_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 200)
    store, line = Store(tmp_path), Line(b'{"id": 5}\n', "rows.jsonl", 1)
    try:
        kept = KeptRows(store, told())
        kept.keep(line, RawRow(1, {"id": 5}), RECORD | {"long": "x" * 200})
        store.flush()
        assert store.keys("record") == []
        kept.keep(line, RawRow(1, {"id": 5}), RECORD)
        store.flush()
        assert len(store.keys("record")) == 1
    finally:
        store.close()


@pytest.mark.parametrize(
    ("job", "settings", "more", "is_kept"),
    [
        ("rerank", {}, {}, True),
        ("rerank", {}, {"exact": False}, False),
        ("rerank", {"fallback": "bounds"}, {"exact": False}, True),
        ("rerank", {"calibrate": True}, {}, False),
        ("rerank", {"calibrate": True, "fallback": "torch"}, {}, False),
        ("rerank", {"calibrate": True, "fallback": "fail"}, {}, True),
        ("probs", {}, {}, False),
        ("probs", {"fallback": "bounds"}, {}, False),
        ("probs", {}, {"flags": []}, True),
    ],
)
def test_what_servers_may_change_is_not_kept(
    tmp_path: Path, job: str, settings: dict[str, Any], more: dict[str, Any], is_kept: bool
) -> None:
    served = told() | {"name": job, "replaced": True}
    served["settings"] |= settings
    store, line = Store(tmp_path), Line(b'{"id": 5}\n', "rows.jsonl", 1)
    try:
        kept = KeptRows(store, served)
        kept.keep(line, RawRow(1, {"id": 5}), RECORD | more)
        assert (kept.known([line]) != [None]) == is_kept
    finally:
        store.close()


def test_a_line_with_other_spaces_is_another(cached: Fastqwen, tmp_path: Path) -> None:
    row = b'{"id": "a", "prompt": "Question\\n", "num_candidates": 4}\n'
    rows = tmp_path / "q.jsonl"
    rows.write_bytes(row)
    cached("probs", rows, *SCRIPTED, "-o", "before.jsonl")
    rows.write_bytes(b" \t" + row[:-1] + b"\r\n" + b"\x0b" + row + b"\x0c" + row)
    done = cached("probs", rows, *SCRIPTED, "-o", "after.jsonl", "--skip-bad-rows", "--json", check=1)
    counts = json.loads(done.stdout)
    assert (counts["cached"], counts["failures"]) == (1, {"input.malformed": 2})


def test_bounds_are_asked_again(cached: Fastqwen, tmp_path: Path) -> None:
    asked = ({"id": n, "prompt": f"{n}\n", "num_candidates": 26} for n in range(4))
    rows = write_rows(tmp_path / "q.jsonl", *asked)
    command = ("probs", rows, "--overwrite", "--preparers", "2", "--tokenizer", TINY / "vision", "--json")
    falling = -np.arange(TOKENIZER.size) / 16.0  # so that some of the labels are shown
    few = {"reads_ids": False, "max_top_n": TOKENIZER.encode("M")[0]}
    with serve("vllm", logits=lambda ids: falling, model="nobody/has-this", **few) as server:
        use = ("--endpoint", server.url, "--model", "nobody/has-this", "-o", "out.jsonl")
        found = []
        for shown in (server.max_top_n, TOKENIZER.size):
            server.max_top_n = shown
            done = cached(*command, *use, HF_HUB_OFFLINE="1")
            found.append([record["exact"] for record in read_records(Path("out.jsonl"))])
    assert found == [[False] * 4, [True] * 4]
    assert json.loads(done.stdout)["cached"] == 0


def test_pictures_keep_no_records(tmp_path: Path) -> None:
    store = Store(tmp_path)
    try:
        seen = told()
        seen["settings"]["item_images"] = True
        assert KeptRows.of(store, told() | {"name": "summarize"}) is None
        assert KeptRows.of(store, seen) is None
        assert KeptRows.of(None, told()) is None
        assert KeptRows.of(store, told()) is not None
    finally:
        store.close()


# -- what is no record -------------------------------------------------------------------------------------


def line_of(**more: Any) -> bytes:
    return written(RECORD | more).line


BAD_LINES: dict[str, bytes] = {
    "no JSON": b"{\n",
    "no object": b"[]\n",
    "nothing in it": b"{}\n",
    "failed": line_of(status="failed"),
    "new": line_of(from_cache=False),
    "asked": line_of(attempts=1),
    "no id": line_of(id=5),
    "no flags": line_of(flags=[1]),
    "no list of readings": line_of(reads=None),
    "a reading of no numbers": line_of(reads=[{"order": ["a"], "logprobs": ["x"]}] * 2),
    "readings of nothing": line_of(reads=[{"order": [], "logprobs": []}] * 2),
    "no ranking": line_of(ranking=5),
    "a cost of words": line_of(usage="x"),
    "two lines": line_of()[:-2] + b"\n}\n",
    "half a line": line_of()[:-1],
    "spaces": b" " + line_of(),
    "a key twice": b'{"status":"ok",' + line_of()[1:],
    "an integer of 30 digits": line_of()[:-2] + b',"x":' + b"1" * 30 + b"}\n",
    "a line break for some": line_of(x="\u2028").replace(b"\\u2028", "\u2028".encode()),
    "a surrogate": b'{"id":"\\ud800",' + line_of()[10:],
}


def compressed(line: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(line)


PAYLOADS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "not compressed": line_of,
    "cut": lambda: compressed(line_of())[:-3],
    "of 2 GiB, it says": lambda: b"\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x80" + compressed(line_of())[6:],
    "of no size": lambda: compressed(b""),
}


@pytest.mark.parametrize(
    "payload",
    [*(pytest.param(compressed(line), id=name) for name, line in BAD_LINES.items())]
    + [pytest.param(made(), id=name) for name, made in PAYLOADS.items()],
)
def test_what_is_no_record_is_refused(tmp_path: Path, payload: bytes) -> None:
    store, line = Store(tmp_path), Line(b'{"id": 5}\n', "rows.jsonl", 1)
    try:
        kept = KeptRows(store, told())
        store.put("record", kept._key(line), payload)
        assert kept.known([line]) == [None]
        assert store.counts == {"record refused": 1, "record misses": 1, "record hits": 0}
        assert RecordCodec().decode(compressed(line_of())) == written(dict(RECORD))
    finally:
        store.close()
