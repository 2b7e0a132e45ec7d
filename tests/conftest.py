"""What several tests share: the tiny checkpoints, loaded once, and a way to run the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tgi_stack import settings
from tgi_stack.engine.checkpoint import TINY
from tgi_stack.tokens import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "examples" / "catalogue"
LIMIT_S = 120

Completed = subprocess.CompletedProcess[str]
Fastqwen = Callable[..., Completed]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY / "text" / "tokenizer.json")


@pytest.fixture(scope="session")
def text_model() -> Any:
    return _load("text")


@pytest.fixture(scope="session")
def vision_model() -> Any:
    return _load("vision")


def _load(kind: str) -> Any:
    from tgi_stack.engine.checkpoint import locate
    from tgi_stack.engine.load import load
    from tgi_stack.engine.placement import choose

    return load(locate("tiny", kind, None, print), kind, choose("cpu", "fp32"), lambda line: None)


@pytest.fixture
def tiny_settings() -> Callable[..., settings.Settings]:
    def make(**flags: Any) -> settings.Settings:
        return settings.load({"engine": "torch", "model": "tiny", "device": "cpu"} | flags, environ={})

    return make


@pytest.fixture
def fastqwen(tmp_path: Path) -> Fastqwen:
    """Runs the command line in a process of its own, in a folder of its own."""

    def run(*arguments: str | Path, stdin: str = "", check: int | None = 0, **environ: str) -> Completed:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FASTQWEN_")}
        done = subprocess.run(
            [sys.executable, "-m", "cli", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            cwd=tmp_path,
            env=inherited | environ,
        )
        if check is not None:
            assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
