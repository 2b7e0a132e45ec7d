"""The Makefile's targets for the servers: their variables and the commands they become."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.conftest import ROOT, Fastqwen

# `make test`, which runs this, hands its own options down.
ALONE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
TARGETS = ("up", "wait", "status", "logs", "down", "models", "pin", "stack-plan", "gateway", "observe")


def command(target: str, *variables: str) -> str:
    """What a target would run; `setup` counts as done."""
    words = ["make", "--no-print-directory", "--dry-run", "--old-file", "setup", target, *variables]
    done = subprocess.run(words, cwd=ROOT, env=ALONE, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.replace("\\\n", " ").split())


def test_help_names_each_target_and_variable() -> None:
    run = ["make", "help"]
    said = subprocess.run(run, cwd=ROOT, env=ALONE, capture_output=True, text=True, check=True).stdout
    for target in TARGETS:
        assert re.search(rf"^  {target} +\S", said, re.MULTILINE), target
    makefile = (ROOT / "Makefile").read_text()
    for name, default in re.findall(r"^([A-Z_]+) \?= ?(\S*)$", makefile, re.MULTILINE):
        assert f"{name}={default}" in said, name


@pytest.mark.parametrize(
    "target", ["up", "wait", "status", "down", "pin", "stack-plan", "gateway", "observe"]
)
def test_targets_use_options_that_commands_have(fastqwen: Fastqwen, target: str) -> None:
    ran = command(target, "GPUS=24", "GATEWAY_NAME=gpu")
    _, _, rest = ran.partition("fastqwen stack ")
    verb, *words = rest.split()
    options = {word for word in words if word.startswith("--")}
    known = set(re.findall(r"--[a-z-]+", fastqwen("stack", verb, "--help").stdout))
    assert options <= known


def test_variables_reach_the_command() -> None:
    given = ("VISION=tgi", "REPLICAS=3", "VISION_QUANTIZATION=fp8", "TEXT_MODEL=Qwen/Qwen3-8B")
    ran = command("up", *given)
    for words in ('--vision "tgi"', '--replicas "3"', '--vision-quantization "fp8"', "Qwen/Qwen3-8B"):
        assert words in ran
    assert "--gateway" in command("gateway").split()
    assert "--observe" in command("observe").split()
    assert '--assume-gpus "24,24"' in command("stack-plan", "GPUS=24,24")
    assert "--assume-gpus" not in command("stack-plan")
    assert command("models").endswith("run --rm --no-deps models")
    assert "logs --follow" in command("logs")
