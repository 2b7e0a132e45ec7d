"""A clone on the engine's host, as `git clone` and `make setup` leave it, and what users type there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import CATALOGUE, ROOT
from tests.docker.engine import Engine
from tgi_stack.tiny import TINY

FILES = ("Makefile", "constraints.txt", "pyproject.toml")
KEPT_OUT = shutil.ignore_patterns(".env", "stack.json", "secrets", "__pycache__")
MODELS = {"text": "Qwen/Qwen3-0.6B", "vision": "Qwen/Qwen3-VL-2B-Instruct"}


class Done(NamedTuple):
    """How a command ended."""

    status: int
    said: str


@dataclass
class Clone:
    """A folder of it; each command sees the engine and a hub cache, and no other setting."""

    path: Path
    engine: Engine
    hub: Path

    @property
    def environ(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("FASTQWEN_", "MAKE"))
        }
        own = {"HF_HOME": os.fspath(self.hub), "FASTQWEN_NO_CACHE": "1", "MAX_TOTAL_TOKENS": "4096"}
        # Compose takes it before docker/.env: a server counts as well once a first look has passed.
        return kept | self.engine.environ | own | {"HEALTH_INTERVAL": "1s"}

    def make(self, *words: str, check: int | None = 0) -> Done:
        """`make` here; it ends with 2 whatever a command of it ends with."""
        return self._run(["make", "--no-print-directory", *words], check)

    def fastqwen(self, *words: str | Path, check: int | None = 0, **environ: str) -> Done:
        return self._run([self.path / ".venv/bin/fastqwen", *words], check, environ)

    def started(self, *words: str | Path) -> subprocess.Popen[str]:
        """A command that goes on while the test does."""
        command = [os.fspath(self.path / ".venv/bin/fastqwen"), *map(str, words)]
        out = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.path, env=self.environ, stdout=out, stderr=subprocess.STDOUT, text=True
        )

    def _run(self, command: list[Any], check: int | None, environ: dict[str, str] | None = None) -> Done:
        done = subprocess.run(
            [*map(str, command)],
            cwd=self.path,
            env=self.environ | (environ or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        said = done.stdout + done.stderr
        assert check is None or done.returncode == check, f"exit {done.returncode}\n{said}"
        return Done(done.returncode, said)

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return self.engine.docker("ps", "--quiet", "--all", "--filter", f"name=fastqwen-{service}-1").strip()

    def until(self, holds: Callable[[], bool], patience_s: float = 60.0) -> None:
        """Waits for something to hold."""
        for _ in range(int(patience_s / 0.1)):
            if holds():
                return
            time.sleep(0.1)
        raise AssertionError(f"not so within {patience_s:.0f} s")

    def play(self, kind: str, **how: Any) -> None:
        """How a kind's servers fare from now on; see `image/launcher.py`."""
        folder = self.volume / "played"
        folder.mkdir(exist_ok=True)
        (folder / MODELS[kind].replace("/", "--")).write_text(json.dumps(how))

    @property
    def volume(self) -> Path:
        """Where the weights are."""
        return self.engine.volumes / "fastqwen_models" / "_data"

    @property
    def written(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "docker" / "stack.json").read_text())
        return found


def make(path: Path, engine: Engine, hub: Path) -> Clone:
    """A clone that is set up."""
    path.mkdir(parents=True)
    for name in FILES:
        shutil.copy2(ROOT / name, path)
    for name in ("docker", "tools"):
        shutil.copytree(ROOT / name, path / name, ignore=KEPT_OUT)
    (path / "examples").symlink_to(CATALOGUE.parent)
    program = path / ".venv" / "bin" / "fastqwen"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m cli "$@"\n')
    program.chmod(0o755)
    for name in ("torch", "ready-cpu"):
        (path / ".venv" / name).write_text("cpu\n")
    return Clone(path, engine, hub)


def fill(folder: Path, *, whole: bool) -> None:
    """The tiny checkpoints as a hub cache under the names and commits of pins.json.

    Args:
        whole: with the marks of `fetch.py`, as in the volume.
    """
    pins = json.loads((ROOT / "docker" / "pins.json").read_text())["models"]
    for name, commit in pins.items():
        kind = "vision" if "VL" in name else "text"
        place = folder / f"models--{name.replace('/', '--')}"
        shutil.copytree(TINY / kind, place / "snapshots" / commit)
        (place / "refs").mkdir()
        for reference in ("main", commit):
            (place / "refs" / reference).write_text(commit)
        if whole:
            (folder / "whole").mkdir(exist_ok=True)
            (folder / "whole" / f"{name.replace('/', '--')}@{commit}").touch()
