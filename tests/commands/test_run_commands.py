"""The command line itself: what is mistyped, and what must not depend on how Python was started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CATALOGUE, ROOT, Fastqwen, write_rows

SCRIPTED = ("--engine", "scripted")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sumarize", "x"), "summarize"),
        (("probs", "x.jsonl", "--lables", "A"), "--labels"),
        (("summarize", "x", "--max-sides", "9"), "--max-side"),
        (("rerank",), "Missing argument"),
        (("probs", "-", "--json"), "give -o OUT"),
        (("summarize", "nowhere.jsonl"), "no such file"),
    ],
)
def test_a_typing_error_is_answered_with_a_suggestion(  # C01
    fastqwen: Fastqwen, arguments: tuple[str, ...], said: str
) -> None:
    done = fastqwen(*arguments, check=2)
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("value", ["0", "-1", "nan", "1.5"])
def test_a_concurrency_that_makes_no_sense_is_refused(
    fastqwen: Fastqwen, tmp_path: Path, value: str
) -> None:  # C02
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "x", "labels": ["A"]})
    assert "--concurrency" in fastqwen("probs", rows, *SCRIPTED, "--concurrency", value, check=2).stderr


def test_two_prompts_at_once_are_refused(fastqwen: Fastqwen, tmp_path: Path) -> None:  # C01
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{{title}}")
    options = ("--prompt-file", prompt, "--instruction", "Look.")
    assert "--instruction" in fastqwen("summarize", CATALOGUE / "images", *SCRIPTED, *options, check=2).stderr


@pytest.mark.slow
def test_how_python_was_started_changes_nothing(tmp_path: Path) -> None:  # C12
    outputs = set()
    for number, (options, seed) in enumerate([((), "0"), (("-O",), "1"), (("-OO",), "12345")]):
        out = tmp_path / f"{number}.jsonl"
        job: list[str | Path] = [
            "rerank",
            CATALOGUE / "sessions.jsonl",
            "--items",
            CATALOGUE / "items.jsonl",
            "-o",
            out,
            *SCRIPTED,
        ]
        subprocess.run(
            [sys.executable, *options, ROOT / "cli.py", *job],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        outputs.add(out.read_bytes())
    assert len(outputs) == 1
