"""A `datasets.Dataset` as an input of the Python classes, and records as the rows of one."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, read_records, write_rows
from tgi_stack import Reranker, Summarizer, record_schema
from tgi_stack.errors import InputError, UsageError
from tgi_stack.rows.objects.dataset import open_input

datasets = pytest.importorskip("datasets", reason="no datasets: pip install datasets")

Record = dict[str, Any]
IMAGES = sorted((CATALOGUE / "images").iterdir())[:5]
SESSIONS = read_records(CATALOGUE / "sessions.jsonl")
ITEMS = read_records(CATALOGUE / "items.jsonl")
PROMPTS = [
    {"id": n, "prompt": f"Which of {n}?\n", "labels": ["A", "B", "C"][: n % 3 + 1]} for n in range(300)
]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of ours, and one of the package's own."""
    monkeypatch.setenv("FASTQWEN_NO_CACHE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.chdir(tmp_path)


def bare(value: Any) -> Any:
    """Without what is null: a field that a record does not have and one that is null are the same."""
    if isinstance(value, dict):
        return {name: bare(inner) for name, inner in value.items() if inner is not None}
    return [bare(inner) for inner in value] if isinstance(value, list) else value


def by_id(records: Any) -> dict[str, Record]:
    found = {record["id"]: bare(record) for record in records}
    for record in found.values():
        record.pop("times", None)
    return found


def whole_rows(rows: list[Record]) -> list[Record]:
    """Rows of one shape: a table has the columns of its first row."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def test_prompts_are_answered_as_from_a_file(tmp_path: Path) -> None:
    given = datasets.Dataset.from_list(PROMPTS)
    with Reranker(engine="scripted") as reranker:
        expected = by_id(reranker.run_probs(write_rows(tmp_path / "p.jsonl", *PROMPTS)))
        found = list(reranker.run_probs(given))
        chosen = by_id(
            reranker.run_probs(given.shuffle(seed=3).select(range(60)).filter(lambda row: row["id"] % 2))
        )
    assert by_id(found) == expected
    assert len(found) == len(PROMPTS) == 300
    assert chosen == {name: expected[name] for name in chosen}
    assert 10 < len(chosen) < 60


def test_sessions_and_items_are_tables(tmp_path: Path) -> None:
    sessions, items = (datasets.Dataset.from_list(whole_rows(rows)) for rows in (SESSIONS, ITEMS))
    with Reranker(engine="scripted") as reranker:
        expected = by_id(reranker.run(CATALOGUE / "sessions.jsonl", items=CATALOGUE / "items.jsonl"))
        assert by_id(reranker.run(sessions, items=items)) == expected
        assert by_id(reranker.run(sessions, items=[items.select(range(30)), items])) == expected


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """The records of the pictures as a folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for path in IMAGES:
        (folder / path.name).write_bytes(path.read_bytes())
    with Summarizer(engine="scripted", no_cache=True) as summarizer:
        return by_id(summarizer.run(folder))


@pytest.mark.parametrize("form", ["bytes", "struct", "feature", "paths", "decoded"])
def test_pictures_in_every_form(form: str, expected: dict[str, Record]) -> None:
    made = {
        "bytes": [path.read_bytes() for path in IMAGES],
        "struct": [{"bytes": path.read_bytes(), "path": path.name} for path in IMAGES],
        "feature": [{"bytes": path.read_bytes(), "path": path.name} for path in IMAGES],
        "paths": [str(path) for path in IMAGES],
        "decoded": [str(path) for path in IMAGES],
    }[form]
    given = datasets.Dataset.from_dict({"id": [path.name for path in IMAGES], "image": made})
    if form in ("feature", "decoded"):
        given = given.cast_column("image", datasets.Image())
    with Summarizer(engine="scripted") as summarizer:
        found = by_id(summarizer.run(given))
    assert found == expected


@pytest.mark.parametrize("typed", [True, False], ids=["features", "inferred"])
def test_records_are_rows_of_a_dataset(tmp_path: Path, typed: bool) -> None:
    rows: list[Record] = [{"id": path.name, "image": str(path)} for path in IMAGES]
    rows.insert(3, {"id": "torn", "image": str(tmp_path / "not there.jpg")})
    features = datasets.Features.from_arrow_schema(record_schema("summarize")) if typed else None
    with Summarizer(engine="scripted") as summarizer:

        def records() -> Iterator[Record]:
            yield from summarizer.run(datasets.Dataset.from_list(rows))

        table = datasets.Dataset.from_generator(records, features=features)
        expected = by_id(summarizer.run(write_rows(tmp_path / "rows.jsonl", *rows)))
    found = by_id(table)
    assert found == expected
    assert found["torn"]["error"]["type"] == "image.missing"
    if typed:
        assert table.features.arrow_schema.equals(record_schema("summarize"))
    sessions = [{"id": "q", "query": "a mug", "candidates": [path.name for path in IMAGES]}]
    write_rows(tmp_path / "items.jsonl", *expected.values())
    with Reranker(engine="scripted") as reranker:
        (record,) = reranker.run(datasets.Dataset.from_list(sessions), items=table)
        (other,) = reranker.run(write_rows(tmp_path / "q.jsonl", *sessions), items=tmp_path / "items.jsonl")
    assert bare(record) == other


def test_summaries_with_data_are_rows_too(tmp_path: Path) -> None:
    given = datasets.Dataset.from_list([{"id": path.name, "image": str(path)} for path in IMAGES[:3]])
    with Summarizer(engine="scripted", schema="catalogue") as summarizer:
        records = list(summarizer.run(given))
    assert all(isinstance(json.loads(record["data"]), dict) for record in records)
    features = datasets.Features.from_arrow_schema(record_schema("summarize"))
    table = datasets.Dataset.from_generator(lambda: iter(records), features=features)
    assert table["data"] == [record["data"] for record in records]


def test_files_go_on_and_changes_are_refused(tmp_path: Path) -> None:
    given = datasets.Dataset.from_list(PROMPTS)
    with Reranker(engine="scripted", limit=100) as reranker:
        assert reranker.write_probs(given, "o.jsonl")["ok"] == 100
    with Reranker(engine="scripted") as reranker:
        again = datasets.Dataset.from_list(PROMPTS)
        counts = reranker.write_probs(again, "o.jsonl")
        assert (counts["ok"], counts["kept"], counts["pending"]) == (300, 100, 0)
        assert reranker.write_probs(given, "o.jsonl")["kept"] == 300
        with pytest.raises(UsageError, match="was made with input"):
            reranker.write_probs(given.select(range(299)), "o.jsonl")
        expected = by_id(reranker.run_probs(write_rows(tmp_path / "p.jsonl", *PROMPTS)))
    assert by_id(read_records(Path("o.jsonl"))) == expected
    assert [record["id"] for record in read_records(Path("o.jsonl"))] == [str(row["id"]) for row in PROMPTS]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(PROMPTS)}), UsageError, "one split"),
        (datasets.Dataset.from_list(PROMPTS).to_iterable_dataset(), UsageError, "from_generator"),
        (PROMPTS, UsageError, "not of type list"),
        (datasets.Dataset.from_list([{"text": "x"}]), InputError, "no column `prompt`"),
        (datasets.Dataset.from_list([PROMPTS[1], PROMPTS[1]]), InputError, "ids must be unique"),
        (datasets.Dataset.from_list([{"prompt": 3, "labels": ["A"]}]), InputError, "`prompt` is a number"),
    ],
    ids=["splits", "stream", "list", "column", "twice", "type"],
)
def test_what_is_no_input_is_refused(given: Any, error: type[Exception], said: str) -> None:
    with Reranker(engine="scripted") as reranker, pytest.raises(error, match=said):
        list(reranker.run_probs(given))


def test_a_batch_of_pictures_is_held() -> None:
    size, rows = 300_000, 100
    pixels = bytes(range(256)) * (size // 256)

    def drawn() -> Iterator[Record]:
        for number in range(rows):
            yield {"id": f"i{number}", "image": pixels, "other": pixels}

    given = datasets.Dataset.from_generator(drawn)
    source = open_input(given, kind="summarize")
    tracemalloc.start()
    assert sum(1 for _ in source.look()) == sum(1 for _ in source) == rows
    assert len(source.digest()) == 64
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30 * size


def test_the_package_is_not_imported_for_us() -> None:
    code = (
        "import sys; from tgi_stack import Reranker; from tgi_stack.errors import UsageError\n"
        "try: next(Reranker(engine='scripted').run_probs(3))\n"
        "except UsageError: print('datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_job_has_no_columns() -> None:
    with pytest.raises(UsageError, match="no job 'sumarize'"):
        record_schema("sumarize")
