"""SIGKILL at random moments, then the same command again: the same bytes, and no finished row asked twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import write_rows
from tests.processes import start, wait
from tgi_stack.rows.ledger import part_path

ROWS = 400


@pytest.fixture
def command(tmp_path: Path) -> Callable[[Path], list[str]]:
    rows = write_rows(
        tmp_path / "p.jsonl",
        *({"id": f"row-{i}", "prompt": f"Question {i}\n", "labels": ["A", "B"]} for i in range(ROWS)),
    )

    def make(out: Path) -> list[str]:
        script = ["--engine", "scripted", "--model", "delay_s=0.002"]
        return ["probs", str(rows), "-o", str(out), *script, "--concurrency", "8", "--quiet"]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("most", [12, pytest.param(300, marks=pytest.mark.soak)])
def test_kills_change_nothing(tmp_path: Path, command: Callable[[Path], list[str]], most: int) -> None:  # X02
    reference = tmp_path / "reference.jsonl"
    began = time.monotonic()
    assert wait(start(command(reference), tmp_path / "log")) == 0
    whole_s = time.monotonic() - began
    rng = random.Random(5)
    kills = rounds = 0
    while kills < most:
        out = tmp_path / f"out-{rounds}.jsonl"
        log = tmp_path / f"log-{rounds}"
        rounds += 1
        killed_here = 0
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            pid = start(command(out), log)
            if kills < most:
                time.sleep(rng.uniform(0.3, 1.1) * whole_s * rng.random())
                os.kill(pid, signal.SIGKILL)
            status = wait(pid)
            killed_here += status == -signal.SIGKILL
            kills += status == -signal.SIGKILL
        assert status == 0
        assert out.read_bytes() == reference.read_bytes()
        assert not part_path(out).exists()
        written = log.read_text().splitlines()
        # The row being written at the moment of a kill may be asked once more: one a kill at most.
        assert len(written) - len(set(written)) <= killed_here
        assert len(set(written)) == ROWS


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_drains_and_the_rest_resumes(  # X03, C13
    tmp_path: Path, command: Callable[[Path], list[str]], sent: signal.Signals, status: int
) -> None:
    out = tmp_path / "out.jsonl"
    pid = start(command(out), tmp_path / "log")
    while not part_path(out).exists() or part_path(out).stat().st_size < 2000:
        time.sleep(0.01)
    os.kill(pid, sent)
    assert wait(pid) == status
    assert not out.exists()
    before = len(part_path(out).read_bytes().splitlines())
    assert 0 < before < ROWS
    assert wait(start(command(out), tmp_path / "log2")) == 0
    assert len((tmp_path / "log2").read_text().splitlines()) == ROWS - before


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", *({"prompt": f"{i}\n", "labels": ["A"]} for i in range(4)))
    out = tmp_path / "out.jsonl"
    script = ["--engine", "scripted", "--model", "delay_s=600"]
    pid = start(["probs", str(rows), "-o", str(out), *script, "--concurrency", "1"], tmp_path / "log")
    while not part_path(out).exists():
        time.sleep(0.01)
    for _ in range(100):  # signals that come before the first was heard of are one
        os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        if (ended := os.waitpid(pid, os.WNOHANG))[0]:
            break
    assert os.waitstatus_to_exitcode(ended[1]) == 130
    assert ended[0] == pid  # long before its answer comes


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_signals_ignored_from_outside_stay_so(
    tmp_path: Path, command: Callable[[Path], list[str]], ignored: signal.Signals
) -> None:
    """As `nohup` and the background of a shell ask."""
    out = tmp_path / "out.jsonl"
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        pid = start(command(out), tmp_path / "log")
    finally:
        signal.signal(ignored, before)
    while not part_path(out).exists() or part_path(out).stat().st_size < 2000:
        time.sleep(0.01)
    os.kill(pid, ignored)
    assert wait(pid) == 0
    assert len(out.read_bytes().splitlines()) == ROWS
