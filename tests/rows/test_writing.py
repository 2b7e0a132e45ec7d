"""Nothing that is read is written over, nothing is replaced by accident, a changed input is noticed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Fastqwen, write_rows
from tgi_stack.errors import DiskError, LockedError, UsageError
from tgi_stack.jobs.sinks import open_sink
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.rows.ledger import Checked, UnorderedFile
from tgi_stack.rows.opening import open_source
from tgi_stack.settings import load
from tgi_stack.types import Identity
from tgi_stack.writing import Given, refuse_inputs, replaced

IDENTITY = Identity("torch", "tiny", "shipped", "none", "fp32", "d1", "v")


@pytest.mark.parametrize("link", ["same", "hard", "soft"])
@pytest.mark.parametrize("written", ["", ".tmp", ".lock"])
def test_an_input_under_any_name_is_safe(tmp_path: Path, link: str, written: str) -> None:
    out = tmp_path / "out"
    there = Path(f"{out}{written}")
    there.write_text("precious")
    given = there
    if link != "same":
        given = tmp_path / "other"
        (given.hardlink_to if link == "hard" else given.symlink_to)(there)
    with pytest.raises(UsageError, match=r"over the input .* \(--qrels\)"):
        refuse_inputs("-o", out, [Given("--qrels", given)])


def test_a_file_is_replaced_only_with_leave(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(UsageError, match="--overwrite"), replaced("--trec", path, overwrite=False):
        pass
    with contextlib.suppress(RuntimeError), replaced("--trec", path, overwrite=True) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replaced("--trec", path, overwrite=True) as file:
        file.write(b"new")
        with pytest.raises(LockedError, match="process"), replaced("--trec", path, overwrite=True):
            pass
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_is_said_by_name(tmp_path: Path) -> None:
    full = Path("/dev/full")
    with (
        pytest.raises(DiskError, match="/dev/full: No space left"),
        replaced("-o", full, overwrite=True) as f,
    ):
        f.write(b"x")


def test_an_unordered_output_has_one_writer(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    first = UnorderedFile(out, overwrite=False)
    with pytest.raises(LockedError, match=r"process \d+ on"):
        UnorderedFile(out, overwrite=False)
    first.begin(IDENTITY, Checked(1, strict=True))
    first.write(1, {"id": "a", "status": "ok"})
    assert not out.exists()
    first.finish({})
    first.close({})
    assert out.read_text() == '{"id":"a","status":"ok"}\n'
    assert os.listdir(tmp_path) == ["o.jsonl"]


def test_what_comes_meanwhile_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    sink = UnorderedFile(out, overwrite=False)
    sink.begin(IDENTITY, Checked(1, strict=True))
    sink.write(1, {"id": "a", "status": "ok"})
    out.write_text("of another")
    with pytest.raises(UsageError, match=r"is there by now; move it away, then rename .*\.tmp"):
        sink.finish({})
    sink.close({})
    assert out.read_text() == "of another"
    assert Path(f"{out}.tmp").read_text() == '{"id":"a","status":"ok"}\n'
    with pytest.raises(UsageError, match="by now; to write it anew: --overwrite"):  # noqa: SIM117
        with replaced("--trec", tmp_path / "trec", overwrite=False):
            (tmp_path / "trec").write_text("of another")
    assert (tmp_path / "trec").read_text() == "of another"


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskError, match="file"), replaced("--trec", tmp_path / "file" / "t", overwrite=True):
        pass


@pytest.mark.parametrize(
    ("name", "unordered", "message"),
    [
        ("o.parquet", True, "streams JSON lines"),
        ("o", True, "a file without a suffix"),
        ("o", False, "a file without a suffix"),
        ("folder.jsonl", False, "is no file"),
        ("folder.jsonl", True, "is no file"),
        ("pipe.jsonl", False, "is no file"),
    ],
)
def test_a_name_that_no_sink_writes(tmp_path: Path, name: str, unordered: bool, message: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    source = open_source(str(write_rows(tmp_path / "r.jsonl", {"id": "a"})))
    spec = JobSpec("probs", load({"unordered": unordered, "overwrite": True}, {}), tmp_path)
    with pytest.raises(UsageError, match=message):
        open_sink(spec, source, tmp_path / name, [])


@pytest.mark.parametrize("suffix", ["", ".tmp", ".lock", ".part.jsonl", ".part.jsonl.tmp", ".run.json.tmp"])
@pytest.mark.parametrize("option", ["input", "tokenizer", "model", "prompt_file"])
def test_no_input_stands_where_is_written(tmp_path: Path, option: str, suffix: str) -> None:
    (tmp_path / "model").mkdir()
    read = {"input": "r.jsonl", "tokenizer": "t.json", "model": "model/w", "prompt_file": "p"}[option]
    for name in ("r.jsonl", "t.json", "model/w", "p"):
        (tmp_path / name).write_text('{"id":"a"}')
    os.link(tmp_path / read, tmp_path / f"o.jsonl{suffix}")
    given = {"tokenizer": str(tmp_path / "t.json"), "model": str(tmp_path / "model")}
    settings = load({"overwrite": True, "prompt_file": str(tmp_path / "p"), **given}, {})
    source = open_source(str(tmp_path / "r.jsonl"))
    with pytest.raises(UsageError, match="would write over the input"):
        open_sink(JobSpec("rerank", settings, tmp_path), source, tmp_path / "o.jsonl", [])
    assert (tmp_path / read).read_text() == '{"id":"a"}'


@pytest.mark.parametrize("name", ["", ".", "/", "..", "folder"])
def test_a_folder_is_no_name_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    source = open_source(str(write_rows(tmp_path / "r.jsonl", {"id": "a"})))
    with pytest.raises(UsageError, match="is no file"):
        open_sink(JobSpec("probs", load({}, {}), tmp_path), source, Path(name), [])
    with pytest.raises(UsageError, match="is no file"), replaced("--trec", Path(name), overwrite=True):
        pass


def test_a_name_of_an_open_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "o"
    code = "from tgi_stack.writing import replaced; from pathlib import Path\n"
    code += "with replaced('--trec', Path('/dev/stdout'), overwrite=True) as f: f.write(b'x')"
    with path.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert path.read_text() == "x"
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize(
    "written", ["out.jsonl.run.json", "fastqwen.toml", "parts/b.jsonl", "parts/run.json"]
)
def test_what_stands_beside_an_output_is_safe(fastqwen: Fastqwen, tmp_path: Path, written: str) -> None:
    (tmp_path / "parts").mkdir()
    record = {"status": "ok", "ranking": [{"id": "a", "score": 1.0}], "positive": ["a"]}
    write_rows(tmp_path / "parts" / "a.jsonl", record | {"id": "1"})
    write_rows(tmp_path / "parts" / "b.jsonl", record | {"id": "2"})
    write_rows(tmp_path / "out.jsonl", record | {"id": "1"})
    there = tmp_path / written
    if not there.exists():
        there.write_text("")
    before = there.read_bytes()
    given = "parts" if written.startswith("parts") else "out.jsonl"
    assert "would write over" in fastqwen("eval", given, "--trec", written, "--overwrite", check=2).stderr
    assert there.read_bytes() == before


def test_a_schema_is_not_written_over(fastqwen: Fastqwen, tmp_path: Path) -> None:
    schema = tmp_path / "form.jsonl"
    schema.write_text('{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}')
    write_rows(tmp_path / "rows.jsonl", {"id": "1", "title": "mug"})
    options = [
        "--schema",
        "form.jsonl",
        "-o",
        "form.jsonl",
        "--overwrite",
        "--endpoint",
        "http://127.0.0.1:9",
    ]
    assert "(--schema)" in fastqwen("summarize", "rows.jsonl", *options, check=2).stderr
