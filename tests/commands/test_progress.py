"""What a run shows on a terminal while it goes, and when it ends."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from terminal import Screen, played
from tests.conftest import Fastqwen, write_rows
from tests.loopback import serve

FASTQWEN = Path(sys.executable).with_name("fastqwen")


def test_a_terminal_shows_each_server_and_the_end(tmp_path: Path) -> None:
    prompts = [{"id": f"p{n}", "prompt": f"Prompt {n}?\n", "labels": ["A", "B"]} for n in range(400)]
    rows = write_rows(tmp_path / "p.jsonl", *prompts)
    known = {name: value for name, value in os.environ.items() if not name.startswith("FASTQWEN_")}
    with (
        serve("vllm", delay_s=0.02, fault=lambda n, _: "500" if n == 3 else None) as one,
        serve("vllm", delay_s=0.02) as two,
    ):
        command: list[str | Path] = [FASTQWEN, "probs", rows, "-o", "out.jsonl", "--tokenizer", "tiny"]
        command += ["--endpoint", one.url, "--endpoint", two.url, "--concurrency", "8"]
        screens = played(command, known | {"FASTQWEN_NO_CACHE": "1"}, tmp_path, columns=120)
    going = [screen for screen in screens if any("of 400 rows" in line for line in screen)]
    assert any(" in flight" in line for screen in going for line in screen if "of 400 rows" in line)
    # A look at the terminal may fall into the middle of a redraw: some show fewer, none more.
    assert max(sum(line.startswith("  http://") for line in screen) for screen in going) == 2
    last = "\n".join(screens[-1])
    for said in ("preparing", "waiting", "computing", "writing", "400 rows in", "400 rows: 400 ok"):
        assert last.count(said) == 1
    assert "of 400 rows," not in last  # the bar is gone
    answers = [line.split() for line in screens[-1] if "http://" in line and "│" in line]
    assert [line[1] for line in answers] == [one.url, two.url]
    assert int(answers[0][4]) == 1  # the attempt that failed
    times = json.loads((tmp_path / "out.jsonl.run.json").read_text())["times"]
    assert times.keys() == {"preparing", "waiting", "computing", "writing"}
    assert times["computing"] > 0


def test_times_are_those_of_processes_too(fastqwen: Fastqwen, tmp_path: Path) -> None:
    prompts = [{"id": f"p{n}", "prompt": f"Prompt {n}?\n", "labels": ["A", "B"]} for n in range(64)]
    rows = write_rows(tmp_path / "p.jsonl", *prompts)
    fastqwen("probs", rows, "-o", "out.jsonl", "--engine", "scripted", "--preparers", "1")
    assert json.loads(Path("out.jsonl.run.json").read_text())["times"]["preparing"] > 0


def test_screens_are_what_a_terminal_shows() -> None:
    screen = Screen()
    screen.write("one\ntwo\nthree\x1b[1A\r\x1b[Jnew\n")
    assert screen.lines == ["one", "new", ""]
