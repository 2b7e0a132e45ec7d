"""An output is whole or not there; what a rerun finds decides what it does."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import read_records, write_rows
from tgi_stack.errors import DiskError, LockedError, UsageError
from tgi_stack.rows.ledger import Checked, Ledger, UnorderedFile, part_path
from tgi_stack.rows.manifest import Manifest, manifest_path
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.output import Output
from tgi_stack.types import Identity

IDENTITY = Identity("torch", "tiny", "shipped", "none", "fp32", "d1", "v")


@pytest.fixture
def source(tmp_path: Path) -> Any:
    return open_source(str(write_rows(tmp_path / "in.jsonl", *({"id": str(i)} for i in range(1, 6)))))


def record(number: int, status: str = "ok") -> dict[str, Any]:
    return {"id": str(number), "status": status, "flags": [], "label_mass": 0.5}


def opened(out: Path, source: Any, **options: Any) -> Output:
    asked = {"job": "probs", "--seed": options.pop("seed", None)}
    identity = options.pop("identity", IDENTITY)
    sink = Output(out, asked, source, command=["fastqwen"], **options)
    if sink.finished is None:
        sink.begin(identity, Checked(5, strict=True))
    return sink


def counts(ok: int, failed: int = 0, rows: int = 5) -> dict[str, Any]:
    return {"rows": rows, "input_rows": 5, "ok": ok, "cached": 0, "failed": failed, "pending": 0}


def complete(out: Path, source: Any, failed: tuple[int, ...] = (), rows: int = 5) -> None:
    sink = opened(out, source)
    for number in (3, 1, 5, 2, 4):
        if number <= rows:
            sink.write(number, record(number, "failed" if number in failed else "ok"))
    sink.finish(counts(rows - len(failed), len(failed), rows))
    sink.close(counts(rows - len(failed), len(failed), rows))


def ids(out: Path) -> list[str]:
    return [entry["id"] for entry in read_records(out)]


def test_records_keep_input_order_and_leave_nothing(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "deep" / "out.jsonl"
    complete(out, source)
    assert ids(out) == ["1", "2", "3", "4", "5"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl", "out.jsonl.run.json"]


@contextmanager
def no_handle_left() -> Iterator[None]:
    """All handles that this process may still open are taken, but for those that were kept for files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, hard))
    held = []
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_run_ends_without_a_handle_left(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "out.jsonl"
    sink = opened(out, source)
    for number in range(1, 6):
        sink.write(number, record(number))
    with no_handle_left():
        sink.finish(counts(5))
        sink.close(counts(5))
    assert ids(out) == ["1", "2", "3", "4", "5"]
    assert (found := Manifest.read(out)) is not None
    assert found.is_complete


def test_an_unfinished_run_goes_on_where_it_stopped(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "out.jsonl"
    sink = opened(out, source)
    sink.write(2, record(2))
    sink.write(4, record(4, "failed"))
    sink.close(counts(1, 1))
    again = opened(out, source)
    assert [number in again for number in range(1, 6)] == [False, True, False, False, False]
    for number in (1, 3, 4, 5):
        again.write(number, record(number))
    again.finish(counts(5))
    again.close(counts(5))
    assert ids(out) == ["1", "2", "3", "4", "5"]
    assert {entry["status"] for entry in read_records(out)} == {"ok"}


@pytest.mark.parametrize("torn", [b'{"row":3,"status":"ok","rec', b'{"row":3', b"{", b"\0\0\0\n"])
def test_a_torn_tail_alone_is_cut(  # D11
    tmp_path: Path, source: Any, torn: bytes
) -> None:
    out = tmp_path / "out.jsonl"
    sink = opened(out, source)
    sink.write(1, record(1))
    sink.close(counts(1))
    whole = part_path(out).read_bytes()
    part_path(out).write_bytes(whole + torn)
    again = opened(out, source)
    assert (1 in again, 3 in again) == (True, False)
    again.write(3, record(3))
    again.close(counts(2))
    assert part_path(out).read_bytes().startswith(whole + b'{"row":3,"status":"ok","record":{"id":"3"')


@pytest.mark.parametrize("lost", [0, 1, 37])
def test_what_was_durable_survives_a_loss_of_power(tmp_path: Path, source: Any, lost: int) -> None:  # X14
    """After it a file may be short, or hold zeros where a block never came, and later blocks that did."""
    out = tmp_path / "out.jsonl"
    sink = opened(out, source)
    sink.write(1, record(1))
    durable = part_path(out).stat().st_size
    for number in (2, 3, 4):
        sink.write(number, record(number))
    sink._opened.close()
    sink._lock.release()  # nobody was there to note anything
    content = bytearray(part_path(out).read_bytes())
    content[durable : durable + lost] = bytes(lost)
    part_path(out).write_bytes(content)
    again = opened(out, source)
    done = [number for number in range(1, 6) if number in again]
    assert done == ([1, 2, 3, 4] if lost == 0 else [1])
    for number in {1, 2, 3, 4, 5} - set(done):
        again.write(number, record(number))
    again.finish(counts(5))
    again.close(counts(5))
    assert ids(out) == ["1", "2", "3", "4", "5"]


def test_a_finished_output_has_nothing_left_to_do(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "out.jsonl"
    complete(out, source)
    before = out.stat()
    again = opened(out, source)
    assert again.finished is not None
    assert again.finished["ok"] == 5
    again.close({})
    assert out.stat() == before


def test_failed_rows_of_finished_outputs_are_retried(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "out.jsonl"
    complete(out, source, failed=(2, 4))
    again = opened(out, source)
    assert [number in again for number in range(1, 6)] == [True, False, True, False, True]
    again.close(counts(3, 2))
    assert len(read_records(out)) == 5  # until the new one is whole


def test_a_larger_limit_goes_on(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "out.jsonl"
    complete(out, source, rows=2)
    for limit, finished in ((1, True), (2, True), (3, False), (None, False)):
        sink = opened(out, source, limit=limit)
        assert (sink.finished is not None) is finished
        if not finished:
            assert 2 in sink
            assert 3 not in sink
        sink.close(counts(2, rows=2))
        part_path(out).unlink(missing_ok=True)
        content = json.loads(manifest_path(out).read_text())
        manifest_path(out).write_text(json.dumps(content | {"state": "complete"}))


def test_what_changes_answers_is_refused_by_name(tmp_path: Path, source: Any) -> None:  # D10
    out = tmp_path / "out.jsonl"
    complete(out, source)
    with pytest.raises(UsageError, match=r"--seed null, not 7.*--overwrite"):
        opened(out, source, seed=7)
    part_path(out).touch()
    other = Identity("torch", "other", "shipped", "none", "fp32", "d1", "v")
    with pytest.raises(UsageError, match='answers of model "tiny", not "other"'):
        opened(out, source, identity=other)


def test_an_output_that_somebody_changed_is_refused(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "out.jsonl"
    complete(out, source)
    out.write_bytes(out.read_bytes() + b"\n")
    with pytest.raises(UsageError, match="was changed"):
        opened(out, source)


def test_a_foreign_output_is_not_lost(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    with pytest.raises(UsageError, match="--overwrite"):
        opened(out, source)
    opened(out, source, overwrite=True).close(counts(0))
    assert out.read_text() == "precious"  # until the new one is whole


def test_a_second_run_hears_who_holds_it(tmp_path: Path, source: Any) -> None:  # X15
    out = tmp_path / "out.jsonl"
    first = opened(out, source)
    with pytest.raises(LockedError, match=r"process \d+ on \S+ since"):
        opened(out, source)
    first.close(counts(0))
    opened(out, source).close(counts(0))


@pytest.mark.parametrize("name", ["/dev/full/x.jsonl", "/proc/x.jsonl"])
def test_an_unwritable_place_is_named(name: str, source: Any) -> None:  # X07
    with pytest.raises(DiskError, match=name):
        opened(Path(name), source)


def test_a_full_disk_acknowledges_nothing(tmp_path: Path) -> None:  # D12, X05
    stream = UnorderedFile(Path("/dev/full"), overwrite=True)
    stream.begin(IDENTITY, Checked(1, strict=True))
    with pytest.raises(DiskError, match="No space left"):
        stream.write(1, record(1))


def test_nothing_follows_a_cut_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out.jsonl")
    ledger.write(1, record(1))
    size = part_path(tmp_path / "out.jsonl").stat().st_size
    with files_of_at_most(size + 5), pytest.raises(DiskError, match="File too large"):
        ledger.write(2, record(2))
    with pytest.raises(DiskError, match="File too large"):
        ledger.write(3, record(3))
    ledger.close()
    again = Ledger(tmp_path / "out.jsonl")
    assert [number in again for number in (1, 2, 3)] == [True, False, False]
    again.close()


def test_a_full_disk_is_told_before_anything_opens(tmp_path: Path, source: Any) -> None:
    """Neither a model nor a server is asked for by a run that can't write a byte."""
    out = tmp_path / "out.jsonl"
    with files_of_at_most(0), pytest.raises(DiskError, match=r"out\.jsonl: File too large; no row was asked"):
        Output(out, {"job": "probs"}, source, command=["fastqwen"])
    sink = opened(out, source)
    sink.write(1, record(1))
    sink.close(counts(ok=1))
    there = sorted(tmp_path.iterdir())
    with files_of_at_most(0), pytest.raises(DiskError, match="rows that were finished before are kept"):
        Output(out, {"job": "probs"}, source, command=["fastqwen"])
    assert sorted(tmp_path.iterdir()) == there


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what goes beyond is cut, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_any_number_of_records_in_any_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "out.jsonl")
    order = [(7 * n) % 5003 for n in range(1, 5003)]
    for number in order:
        ledger.write(number, {"id": str(number), "status": "ok", "text": "x" * (number % 900)})
    assert [json.loads(line)["id"] for line in ledger.lines()] == [str(n) for n in range(1, 5003)]
    ledger.close()


def test_parquet_has_one_schema_whatever_the_results(tmp_path: Path, source: Any) -> None:  # D15
    schemas = []
    for name, failed in (("a.parquet", ()), ("b.parquet", (1, 2, 3, 4, 5)), ("c.parquet", (2,))):
        out = tmp_path / name
        complete(out, source, failed=failed)
        schemas.append(pq.read_schema(out))
        assert pq.read_table(out)["id"].to_pylist() == ["1", "2", "3", "4", "5"]
    assert schemas[0] == schemas[1] == schemas[2]
    again = opened(tmp_path / "c.parquet", source)
    assert [number in again for number in (1, 2, 3)] == [True, False, True]
    again.close(counts(4, 1))


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    manifest_path(out).write_text("{")
    with pytest.raises(UsageError, match=r"run\.json is broken"):
        Manifest.read(out)


def test_a_short_index_never_makes_an_output(tmp_path: Path, source: Any) -> None:
    out = tmp_path / "out.jsonl"
    sink = opened(out, source)
    for number in range(1, 6):
        sink.write(number, record(number))
    sink._opened._index.set(3, 0)  # as if a block of it had not been written
    with pytest.raises(DiskError, match="4 of 5 records"):
        sink.finish(counts(5))
    assert not out.exists()
    assert part_path(out).exists()
    sink.close(counts(5))


def test_the_first_fault_of_a_disk_is_said(tmp_path: Path, source: Any, said: list[str]) -> None:
    out = tmp_path / "o.jsonl"
    output = opened(out, source)
    output.write(1, record(1))
    Path(f"{manifest_path(out)}.tmp").mkdir()  # the manifest can't be written any more
    output.close(counts(1))  # raises nothing in place of what ended the run
    assert any("finished rows are kept in" in line for line in said)
    Path(f"{manifest_path(out)}.tmp").rmdir()
    assert 1 in opened(out, source)
