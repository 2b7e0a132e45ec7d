"""A process without file handles blames itself, never a server, and loses nothing."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import read_records
from tests.loopback import Loopback, serve
from tests.servers.test_client import Clock, pool
from tests.servers.test_servers import questions
from tgi_stack.backends.servers.endpoints import SHORT_TO_STOP
from tgi_stack.errors import MachineError
from tgi_stack.rows.ledger import part_path

# Takes all handles that are left once rows are answered, and gives them back after some seconds.
GREEDY = """
import os, sys, threading, time
import tgi_stack.backends.servers.connect as connect
connect._open_files = lambda: 0
part, for_s = sys.argv.pop(1), float(sys.argv.pop(1))

def greedy():
    held = []
    while not (os.path.exists(part) and os.stat(part).st_size):
        time.sleep(0.02)
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        time.sleep(for_s)
    for handle in held:
        os.close(handle)

threading.Thread(target=greedy, daemon=True).start()
import cli
cli.app(sys.argv[1:], prog_name="fastqwen")
"""


def run(
    server: Loopback, folder: Path, most: int, program: list[str], rows: int
) -> subprocess.CompletedProcess[str]:
    path, out = questions(folder, rows), folder / "o.jsonl"
    options = ["--endpoint", server.url, "--model", "tiny", "--no-cache", "--llm-batch-size", "1"]
    return subprocess.run(
        [sys.executable, *program, "probs", str(path), "-o", str(out), *options],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("most", [24, 40])
def test_few_handles_are_used_and_said(tmp_path: Path, most: int) -> None:
    with serve("vllm", delay_s=0.1) as server:
        done = run(server, tmp_path, most, ["-m", "cli"], 60)
    assert done.returncode == 0, done.stderr
    assert f"may open {most} files" in done.stderr
    assert "is gone" not in done.stderr
    assert len(read_records(tmp_path / "o.jsonl")) == 60


def test_too_few_handles_are_refused_first(tmp_path: Path) -> None:
    with serve("vllm") as server:
        done = run(server, tmp_path, 17, ["-m", "cli"], 5)
    assert done.returncode == 3
    assert "ulimit -n" in done.stderr
    assert server.posts == 0


@pytest.mark.slow
@pytest.mark.parametrize("for_s", [1, 60], ids=["come back", "stay away to the end"])
def test_handles_that_go_are_no_dead_server(tmp_path: Path, for_s: int) -> None:
    with serve("vllm", delay_s=0.1) as server:
        part = part_path(tmp_path / "o.jsonl")
        done = run(server, tmp_path, 48, ["-c", GREEDY, str(part), str(for_s)], 600)
    assert done.returncode == 0, done.stderr
    assert "is gone" not in done.stderr
    assert len(read_records(tmp_path / "o.jsonl")) == 600


def test_no_handle_at_all_ends_the_run() -> None:
    made = pool(2, Clock())
    (first, _) = made.endpoints
    for _ in range(SHORT_TO_STOP):
        made.short_of_handles(first, "Too many open files")
    assert all(endpoint.state == "up" for endpoint in made.endpoints)
    assert all(endpoint.limit.allowed == 1 for endpoint in made.endpoints)
    with pytest.raises(MachineError, match="ulimit -n"):
        made.short_of_handles(first, "Too many open files")


@pytest.mark.slow
@pytest.mark.parametrize("most", [8, 10, 12, 14])
def test_too_few_handles_are_refused_with_a_line(tmp_path: Path, most: int) -> None:
    with serve("vllm") as server:
        done = run(server, tmp_path, most, ["-m", "cli"], 3)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "ulimit -n 1024" in done.stderr.splitlines()[-1]
    assert server.posts == 0
