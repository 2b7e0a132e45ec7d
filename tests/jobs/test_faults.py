"""Every system call that writes, killed or failed one after the other by strace.

What is there afterwards is gone on with by the same command, to the same bytes; a row whose line was whole is
not asked again. And disks that are full or read-only, clocks that jump, memory that is short.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Fastqwen, write_rows
from tests.processes import start, wait
from tgi_stack.rows.ledger import part_path
from tgi_stack.rows.looking.per_row import Numbers

ROWS = 5
CALLS = ("write", "fsync", "fdatasync", "rename", "unlink")

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    rows = ({"id": f"row-{i}", "prompt": f"Question {i}\n", "labels": ["A", "B"]} for i in range(ROWS))
    return write_rows(tmp_path / "p.jsonl", *rows)


def command(rows: Path, out: Path) -> list[str]:
    return ["probs", str(rows), "-o", str(out), "--engine", "scripted", "--concurrency", "2", "--quiet"]


def under_strace(arguments: list[str], log: Path, inject: str, trace: Path | None = None) -> int:
    """How the command ends with a fault injected; see strace(1), -e inject. `trace` takes those calls."""
    reader, writer = os.pipe()
    pid = start(arguments, log, gate=reader)
    call = inject.partition(":")[0]
    tracing = ["strace", "-f", "-qq", "-o", str(trace or os.devnull), "-p", str(pid), "-e", f"trace={call}"]
    tracer = subprocess.Popen(
        [*tracing, "-e", f"inject={inject}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    status = Path(f"/proc/{pid}/status")
    while "TracerPid:\t0\n" in status.read_text() and tracer.poll() is None:
        time.sleep(0.002)
    assert tracer.poll() is None, "strace may not trace here"
    os.write(writer, b"x")
    os.close(writer)
    os.close(reader)
    ended = wait(pid)
    tracer.wait()
    return ended


def whole_lines(out: Path) -> set[int]:
    """The rows that a part file holds whole."""
    part = part_path(out)
    lines = part.read_bytes().split(b"\n")[:-1] if part.exists() else []
    return {int(line[len(b'{"row":') : line.index(b",")]) for line in lines}


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_every_call_that_writes(tmp_path: Path, rows: Path, call: str) -> None:  # X01
    reference = tmp_path / "reference.jsonl"
    assert wait(start(command(rows, reference), tmp_path / "log")) == 0
    place = 0
    while True:
        place += 1
        out = tmp_path / f"{place}" / "out.jsonl"
        out.parent.mkdir()
        ended = under_strace(
            command(rows, out), tmp_path / f"{place}.log", f"{call}:signal=KILL:when={place}"
        )
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        kept = whole_lines(out)
        assert wait(start(command(rows, out), tmp_path / f"{place}.again")) == 0
        assert out.read_bytes() == reference.read_bytes()
        assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl", "out.jsonl.run.json"]
        asked_again = {int(line) for line in (tmp_path / f"{place}.again").read_text().split()}
        assert not asked_again & kept
    assert out.read_bytes() == reference.read_bytes()
    assert place > {"write": 2 * ROWS, "fsync": 4, "fdatasync": 1, "rename": 3, "unlink": 1}[call]


@pytest.mark.slow
@needs_strace
@pytest.mark.parametrize(
    ("call", "error"),
    [("write", "ENOSPC"), ("write", "EIO"), ("fsync", "EIO"), ("fdatasync", "EIO"), ("rename", "EROFS")],
)
def test_a_failure_of_every_call_that_writes(
    tmp_path: Path, rows: Path, call: str, error: str
) -> None:  # X05, X06
    reference = tmp_path / "reference.jsonl"
    assert wait(start(command(rows, reference), tmp_path / "log")) == 0
    place, failed = 0, 0
    while True:
        place += 1
        out = tmp_path / f"{place}" / "out.jsonl"
        out.parent.mkdir()
        ended = under_strace(
            command(rows, out), tmp_path / f"{place}.log", f"{call}:error={error}:when={place}"
        )
        failed += ended != 0
        if ended == 0 and place > failed + 4:  # far past the last call; a line to stderr may fail unnoticed
            break
        assert ended in (0, 3)
        if ended == 3:
            assert wait(start(command(rows, out), tmp_path / f"{place}.again")) == 0
        assert out.read_bytes() == reference.read_bytes()
    assert failed >= {"write": 2 * ROWS, "fsync": 3, "fdatasync": 1, "rename": 2}[call]


@needs_strace
def test_a_failed_fsync_is_not_tried_again(tmp_path: Path, rows: Path) -> None:  # X06
    """The kernel drops what it could not write and says so once: a second fsync would lie."""
    out, trace = tmp_path / "out.jsonl", tmp_path / "trace"
    assert under_strace(command(rows, out), tmp_path / "log", "fdatasync:error=EIO:when=1+", trace) == 3
    assert trace.read_text().count("fdatasync(") == 1


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    rows = ({"id": f"row-{i}", "prompt": f"Question {i}\n", "labels": ["A", "B"]} for i in range(2000))
    return write_rows(tmp_path / "many.jsonl", *rows)


def test_a_full_disk_stops_a_resumable_run(  # X05
    fastqwen: Fastqwen, tmp_path: Path, many: Path
) -> None:
    fastqwen(*command(many, tmp_path / "reference.jsonl"))
    with small_disk(tmp_path / "disk", "300k") as disk:
        out = disk / "out.jsonl"
        done = fastqwen(*command(many, out), check=3)
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        kept = whole_lines(out)
        assert 0 < len(kept) < 2000
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        fastqwen(*command(many, out))
        assert out.read_bytes() == (tmp_path / "reference.jsonl").read_bytes()


def test_a_full_folder_for_temporary_files_is_said(  # X05
    fastqwen: Fastqwen, tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "8k") as disk:
        (disk / "filler").write_bytes(bytes(8192))
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        monkeypatch.setattr(Numbers, "ENTRIES", 64)  # as if there were very many rows
        done = fastqwen(*command(many, tmp_path / "out.jsonl"), check=3)
        assert f"temporary files in {disk}: No space left on device" in done.stderr
        monkeypatch.undo()
    fastqwen(*command(many, tmp_path / "out.jsonl"))
    fastqwen("verify", tmp_path / "out.jsonl")


def test_a_disk_that_becomes_read_only_is_said(
    fastqwen: Fastqwen, tmp_path: Path, many: Path
) -> None:  # X06, X07
    with small_disk(tmp_path / "disk", "8m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = fastqwen(*command(many, disk / "out.jsonl"), check=3)
        assert "Read-only file system" in done.stderr
        assert "out.jsonl" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
@pytest.mark.parametrize("jump", ["-1y", "+1y"])
def test_a_clock_that_jumps_changes_nothing(  # X08
    fastqwen: Fastqwen, tmp_path: Path, many: Path, jump: str
) -> None:
    """The wall clock of half of the runs is a year off; monotonic time goes on as it does."""
    fastqwen(*command(many, tmp_path / "reference.jsonl"))
    out = tmp_path / "out.jsonl"
    run = [str(Path(sys.executable).with_name("fastqwen")), *command(many, out), "--limit", "900"]
    subprocess.run(["faketime", "-f", jump, *run], check=True, capture_output=True)
    assert not part_path(out).exists()
    fastqwen(*command(many, out))
    assert out.read_bytes() == (tmp_path / "reference.jsonl").read_bytes()


def test_a_memory_limit_ends_a_resumable_run(tmp_path: Path, many: Path) -> None:  # X10
    """`ulimit -v`: whatever fails first, what is on disk is whole."""
    out = tmp_path / "out.jsonl"
    pid = os.fork()
    if pid == 0:
        try:
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + 2**20, held + 2**20))
            os.waitpid(start(command(many, out), tmp_path / "log"), 0)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert wait(start(command(many, out), tmp_path / "log2")) == 0
    assert len(out.read_bytes().splitlines()) == 2000


def test_the_output_folder_is_removed_mid_run(tmp_path: Path, many: Path) -> None:  # X07
    out = tmp_path / "gone" / "out.jsonl"
    slow = [*command(many, out), "--model", "delay_s=0.01"]
    pid = start(slow, tmp_path / "log")
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_bytes():
        time.sleep(0.005)
    shutil.rmtree(out.parent)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid) in (3, 143)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("many", [12_000, pytest.param(60_000, marks=pytest.mark.soak)])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, many: int) -> None:  # D13
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    peaks = []
    for count in (3_000, many):
        rows = ({"id": f"row-{i}", "prompt": "Which?\n", "labels": ["A", "B"]} for i in range(count))
        path = write_rows(tmp_path / f"{count}.jsonl", *rows)
        program = str(Path(sys.executable).with_name("fastqwen"))
        job = [program, *command(path, tmp_path / f"{count}.out.jsonl")]
        done = subprocess.run(
            [sys.executable, "-c", measure, *job], check=True, capture_output=True, text=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0]


def test_excessive_concurrency_is_capped_with_a_warning(fastqwen: Fastqwen, tmp_path: Path) -> None:  # C02
    rows = write_rows(tmp_path / "p.jsonl", *({"prompt": str(i), "labels": ["A"]} for i in range(20)))
    done = fastqwen("probs", rows, "--engine", "scripted", "--concurrency", "1000000000")
    assert len(done.stdout.splitlines()) == 20
    assert "--concurrency 1,000,000,000 is more than can be open at once here" in done.stderr


def test_few_open_files_are_what_there_is(rows: Path, tmp_path: Path) -> None:
    fastqwen = [
        sys.executable,
        "-m",
        "cli",
        *command(rows, tmp_path / "o.jsonl")[:-1],
        "--concurrency",
        "9999",
    ]
    limits = {resource.RLIMIT_NOFILE: (160, 160)}

    def lower() -> None:
        for what, limit in limits.items():
            resource.setrlimit(what, limit)

    done = subprocess.run(fastqwen, preexec_fn=lower, capture_output=True, text=True, check=True)
    assert "32 it is" in done.stderr
