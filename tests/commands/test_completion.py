"""What a shell completes, and that having it costs no start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

RUN = [sys.executable, "-c", "import sys, cli; sys.argv[0] = 'fastqwen'; cli.main()"]


def said(*words: str, **variables: str) -> str:
    env = os.environ | variables
    done = subprocess.run([*RUN, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("fastqwen re", ["rerank", "report"]),
        ("fastqwen cache i", ["info", "import"]),
        ("fastqwen rerank --mo", ["--model", "--mode"]),
        ("fastqwen rerank --mode p", ["pointwise"]),
        ("fastqwen probs --dtype b", ["bf16"]),
        ("fastqwen schema re", []),
    ],
)
def test_a_shell_completes(line: str, found: list[str]) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    assert said(_FASTQWEN_COMPLETE="complete_bash", **words).split() == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_part_is_shown(shell: str) -> None:
    assert "_FASTQWEN_COMPLETE" in said(
        "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
