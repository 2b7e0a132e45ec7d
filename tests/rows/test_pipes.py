"""Pipes: one that nobody writes to ends, and of one that never ends no more is read than is needed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Fastqwen, read_records, write_rows
from tgi_stack import text_files
from tgi_stack.errors import DiskError, InputError
from tgi_stack.rows import formats
from tgi_stack.rows.opening import open_source
from tgi_stack.text_files import TextFileError

ENGINE = ("--engine", "scripted", "--no-cache")
SHORT_S = 0.3


def row(number: int) -> bytes:
    return json.dumps({"id": f"r{number}", "prompt": f"Question {number}\n", "num_candidates": 3}).encode()


def pipe(folder: Path, name: str) -> Path:
    path = folder / name
    os.mkfifo(path)
    return path


def written(path: Path, *parts: bytes, pause_s: float = 0.0) -> threading.Thread:
    """A thread that writes to a pipe, with a pause before each part."""

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as file:
            for part in parts:
                time.sleep(pause_s)
                file.write(part)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "WRITER_S", SHORT_S)
    monkeypatch.setattr(text_files, "SILENT_S", SHORT_S)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("probs", "{rows}", "--config", "{pipe}.toml"),
        ("rerank", "{rows}", "--items", "{pipe}.jsonl"),
        ("probs", "{pipe}.jsonl"),
        ("probs", "{rows}", "--api-key-file", "{pipe}.toml", "--endpoint", "http://127.0.0.1:9"),
        ("eval", "{pipe}.jsonl"),
    ],
)
def test_a_pipe_nobody_writes_to_ends(fastqwen: Fastqwen, tmp_path: Path, arguments: Sequence[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(row(1))
    for name in ("p.toml", "p.jsonl"):
        pipe(tmp_path, name)
    named = [one.format(rows=rows, pipe=tmp_path / "p") for one in arguments]
    engine = ENGINE if arguments[0] in ("probs", "rerank") and "--endpoint" not in arguments else ()
    done = fastqwen(*named, *engine, check=2)
    assert "nobody writes to" in done.stderr
    assert "start its writer first" in done.stderr


def test_a_bundle_is_no_pipe(fastqwen: Fastqwen, tmp_path: Path) -> None:
    path = pipe(tmp_path, "bundle")
    assert "is a pipe" in fastqwen("cache", "import", path, "--cache-dir", tmp_path / "c", check=2).stderr


@pytest.mark.usefixtures("impatient")
def test_a_silent_writer_of_options_ends(tmp_path: Path) -> None:
    path = pipe(tmp_path, "p")
    thread = written(path, b"limit = ", b"1", pause_s=2 * SHORT_S)
    with pytest.raises(TextFileError, match="says nothing"):
        text_files.read_bytes(path)
    thread.join()


@pytest.mark.parametrize(
    "parts", [(), (b"",), (b"limit",), (b"li", b"mit", b" = 1\n"), (bytes(200_000),) * 4]
)
def test_a_pipe_is_read_whole(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    path = pipe(tmp_path, "p")
    thread = written(path, *parts, pause_s=0.02)
    assert text_files.read_bytes(path) == b"".join(parts)
    thread.join()
    assert text_files.read_bytes(path) == b"".join(parts)  # kept


def endless() -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        yield row(number) + b"\n"


class Endless(io.RawIOBase):
    """Rows without end, and how many bytes of them were read."""

    def __init__(self) -> None:
        self.rows, self.left, self.read_bytes = endless(), b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.left:
            self.left = next(self.rows)
        size = min(len(buffer), len(self.left))
        buffer[:size], self.left = self.left[:size], self.left[size:]
        self.read_bytes += size
        return size


def test_no_more_is_read_than_needed() -> None:
    source = Endless()
    found = b"".join(formats.first_rows(io.BufferedReader(source), 3))
    assert found == b"".join(row(number) + b"\n" for number in (1, 2, 3))
    assert source.read_bytes <= len(found) + 2 * io.DEFAULT_BUFFER_SIZE


@given(
    lines=st.lists(st.sampled_from([b"", b" ", b"\t\r", b"\xef\xbb\xbf", b"{}", b" 1", b"x" * 50])),
    rows=st.integers(0, 9),
    end=st.booleans(),
)
def test_first_rows_are_those_of_the_whole(lines: list[bytes], rows: int, end: bool) -> None:
    content = b"\n".join(lines) + b"\n" * end
    found = b"".join(formats.first_rows(io.BufferedReader(io.BytesIO(content)), rows))
    assert content.startswith(found)
    body = [line for line in found.split(b"\n") if line.removeprefix(b"\xef\xbb\xbf").strip()]
    whole = [line for line in content.split(b"\n") if line.removeprefix(b"\xef\xbb\xbf").strip()]
    assert body == whole[:rows]


def test_utf_16_is_read_whole() -> None:
    content = "\n".join(f"ਊ{number}" for number in range(9)).encode("utf-16")
    assert b"".join(formats.first_rows(io.BufferedReader(io.BytesIO(content)), 1)) == content


def run(
    out: Path, limit: int | None, *more: object, lines: int | None = None
) -> subprocess.CompletedProcess[str]:
    """A run over a pipe: without end, or of so many lines."""
    limits = [] if limit is None else ["--limit", str(limit)]
    command = [sys.executable, "-m", "cli", "probs", "-", "-o", str(out), *limits, *ENGINE, *map(str, more)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin is not None
        try:
            for number, line in enumerate(endless(), 1):
                process.stdin.write(line)
                if number == lines or process.poll() is not None:
                    break
            process.stdin.close()
        except (BrokenPipeError, ConnectionError):
            pass
        process.stdin = None
        stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, stdout.decode(), stderr.decode())


@pytest.mark.slow
def test_a_larger_limit_takes_more_of_a_pipe(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    for limit, lines in ((3, None), (3, None), (7, None), (None, 9)):
        done = run(out, limit, lines=lines)
        assert done.returncode == 0, done.stderr
        assert [record["id"] for record in read_records(out)] == [f"r{n + 1}" for n in range(limit or 9)]
    other = tmp_path / "other.jsonl"
    shutil.copy(out, other)
    assert run(other, 5, lines=2).returncode == 2  # without a run.json


@pytest.mark.slow
def test_another_pipe_is_another_input(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    assert run(out, 3).returncode == 0
    before = out.read_bytes()
    manifest = json.loads((tmp_path / "o.jsonl.run.json").read_text())
    manifest["asked"]["input"] = "0" * 64
    (tmp_path / "o.jsonl.run.json").write_text(json.dumps(manifest))
    done = run(out, 7)
    assert done.returncode == 2
    assert "was made with input" in done.stderr
    assert out.read_bytes() == before


def test_the_last_of_a_disk_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "LEFT_FREE_BYTES", 2**62)
    path = pipe(tmp_path, "p.jsonl")
    thread = written(path, row(1))
    assert len(list(open_source(str(path), kind="probs"))) == 1  # a small one is kept
    thread.join()
    monkeypatch.setattr(formats, "LOOK_BYTES", 10)
    thread = written(path, row(1))
    with pytest.raises(DiskError, match="TMPDIR"):
        open_source(str(path), kind="probs")
    thread.join()


@pytest.mark.usefixtures("impatient")
def test_an_input_nobody_writes_is_named(tmp_path: Path) -> None:
    path = pipe(tmp_path, "p.jsonl")
    with pytest.raises(InputError, match=r"p\.jsonl: a pipe that nobody writes to"):
        open_source(str(path), kind="probs")


def test_prompts_of_pipes_are_told_apart(
    fastqwen: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "_piped", {})
    items = [{"id": name, "text": name} for name in ("mug", "hat")]
    rows = write_rows(tmp_path / "rows.jsonl", {"id": "u", "query": "q", "candidates": items})
    for prompt, status in (b"{{history}} {{candidates}}", 0), (b"{{candidates}}: {{history}}", 2):
        reader, writer = os.pipe()  # as `--prompt-file <(...)` gives: its end is all that a second look finds
        os.write(writer, prompt)
        os.close(writer)
        given = ("--prompt-file", f"/dev/fd/{reader}")
        done = fastqwen("rerank", rows, "-o", "out.jsonl", *given, *ENGINE, check=status)
    assert "made with --prompt-file" in done.stderr
