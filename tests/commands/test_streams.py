"""Standard streams that are closed, full, or read by nobody: an exit status and a line, never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.table import Table

from tests.conftest import ROOT, write_rows
from tgi_stack.commands import console
from tgi_stack.commands.errors import reported
from tgi_stack.rows.ledger import part_path

RANKED = [{"id": "u", "status": "ok", "positive": ["a"], "ranking": [{"id": "a", "rank": 1, "score": 1.0}]}]
COMMANDS = {"help": "--help", "version": "--version", "info": "cache info", "data": "cache info --json",
            "table": "eval r.jsonl --k 1"}  # fmt: skip
STREAMS = {
    "nobody reads": ("| true", {"help": 141, "version": 141, "info": 141, "data": 141, "table": 141}),
    "full": (">/dev/full", {"help": 3, "version": 3, "info": 3, "data": 3, "table": 3}),
    "closed": (
        ">&-",
        {"help": 0, "version": 0, "info": 3, "data": 3, "table": 3},
    ),  # typer's own prints nothing
}


@pytest.mark.slow
@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_stdout_that_takes_nothing_is_said(tmp_path: Path, what: str, stream: str) -> None:
    redirect, statuses = STREAMS[stream]
    write_rows(tmp_path / "r.jsonl", *RANKED)
    waiting = "sleep 1; " if redirect == "| true" else ""  # until the reader has gone
    line = f"({waiting}exec {sys.executable} -m cli {COMMANDS[what]}) {redirect}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FASTQWEN_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == statuses[what], done.stderr
    assert "Traceback" not in done.stderr
    assert ("standard output" in done.stderr) == (done.returncode == 3)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["probs --nope", "nope", "settings --dtype int3"])
@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-", "2> >(true)"])
def test_usage_errors_are_2_where_stderr_fails(words: str, redirect: str) -> None:
    line = f"(sleep 0.3; exec {sys.executable} -m cli {words}) {redirect}"  # until a reader has gone
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(["bash", "-c", line], env=environment).returncode == 2


@pytest.mark.slow
def test_answers_that_are_there_hear_ctrl_c(tmp_path: Path) -> None:
    """The scripted engine never waits, nor does a cache: the loop has to be given its turn."""
    count = 60_000
    rows = write_rows(
        tmp_path / "p.jsonl", *({"prompt": f"{i}\n", "labels": ["A", "B"]} for i in range(count))
    )
    out = tmp_path / "o.jsonl"
    run = [sys.executable, "-m", "cli", "probs", str(rows), "-o", str(out), "--engine", "scripted", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(run, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not part_path(out).exists() or part_path(out).stat().st_size < 2000:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert 0 < len(part_path(out).read_bytes().splitlines()) < count


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_while_reading_leaves_nothing(tmp_path: Path, sent: signal.Signals, status: int) -> None:
    """What a pipe holds is kept in a temporary file, which goes however the run ends."""
    kept = tmp_path / "kept"
    kept.mkdir()
    out = str(tmp_path / "o.jsonl")
    run = [sys.executable, "-m", "cli", "probs", "-", "-o", out, "--engine", "scripted"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(kept)}
    with subprocess.Popen(run, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not any(kept.iterdir()):
            time.sleep(0.01)
        process.send_signal(sent)
        _, said = process.communicate()
    assert process.returncode == status
    assert said == b"fastqwen: interrupted\n"
    assert not any(kept.iterdir())


def broken_off() -> None:
    """As an import that a signal breaks off: it ends in an error of its own."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        raise SyntaxError from None


def test_whatever_a_signal_breaks_is_interrupted() -> None:
    with pytest.raises(typer.Exit) as ended, reported(debug=False):
        broken_off()
    assert ended.value.exit_code == 143


HOSTILE = ["c[/red]", "c[bold]x", "c:smile:", "c\\[x]", "c\x1b[31mred", "c\u202ex", "c\x9b31m"]


@pytest.mark.parametrize("term", ["xterm", "dumb"])
@pytest.mark.parametrize("name", HOSTILE)
def test_data_is_no_markup_and_no_control(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, term: str, name: str
) -> None:
    monkeypatch.setenv("TERM", term)
    shown = name.encode("unicode_escape").decode() if not name.isprintable() else name
    table = Table("outputs", name)
    table.add_row(name, "1")
    for shown_whole in (table, f"without {name}"):
        console.print_table(shown_whole)
        out = capsys.readouterr().out
        assert shown in out
        assert not {"\x1b", "\x9b", "\u202e"} & set(out)
    console.print_lines(name)
    assert capsys.readouterr().out == f"{shown}\n"
    console.print_data({"id": f"{name}\x7f"})
    assert json.loads(capsys.readouterr().out) == {"id": f"{name}\x7f"}
