"""What several tests share: the tiny checkpoints, loaded once, and a way to run the real command line."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest

# Before torch is imported: where test processes share the cores, threads that wait for each other take thrice
# the time. `make test-numbers` has several.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cli
from cache.system import system
from tgi_stack import logs, settings
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY

signal.signal(signal.SIGINT, signal.default_int_handler)  # `cli` leaves Ctrl-C to the system
for _stop in system.STOPS:  # what `nohup` or a shell's `&` has ignored is not for what the tests start
    if signal.getsignal(_stop) is signal.SIG_IGN:
        signal.signal(_stop, signal.SIG_DFL)

# No test is one of timing: a busy machine takes longer.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "examples" / "catalogue"

# Hundreds of processes start in these tests: compiled by the first of them, not by each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Processes that tests start remember nothing either; tests of the cache say otherwise.
os.environ["FASTQWEN_NO_CACHE"] = "1"


class Completed(NamedTuple):
    """What a run printed."""

    stdout: str
    stderr: str


Fastqwen = Callable[..., Completed]


class Lines(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What modules say to users during the test, a line each."""
    handler, loggers = Lines(), [logging.getLogger(name) for name in logs.ROOTS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield handler.lines
    for logger, level in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY / "text" / "tokenizer.json")


@pytest.fixture(scope="session")
def text_model() -> Any:
    """The text checkpoint as transformers loads it: what ours is compared with."""
    return _load("text")


@pytest.fixture(scope="session")
def vision_model() -> Any:
    return _load("vision")


def _load(kind: str) -> Any:
    from tgi_stack.engine.models import by_transformers
    from tgi_stack.engine.placement import choose
    from tgi_stack.hub import locate

    found = locate("tiny", kind, None)
    return by_transformers.load(found, sees=kind == "vision", placement=choose("cpu", "fp32"))


def network_that(model: Any, *, fails: dict[int, int]) -> tuple[Any, list[int]]:
    """A network whose forward runs out of memory, and the rows of each forward.

    Args:
        fails: from the n-th forward (from 0), so many times.
    """
    import torch

    from tgi_stack.engine.layers.ops import Ops
    from tgi_stack.engine.models.network import Network

    network = Network(model, Ops())
    calls: list[int] = []
    inner = network.forward

    def forward(x: Any, *args: Any, **kwargs: Any) -> Any:
        number = len(calls)
        calls.append(len(x))
        if any(first <= number < first + count for first, count in fails.items()):
            raise torch.OutOfMemoryError("injected")
        return inner(x, *args, **kwargs)

    network.forward = forward  # type: ignore[method-assign]
    return network, calls


@pytest.fixture
def tiny_settings() -> Callable[..., settings.Settings]:
    def make(**flags: Any) -> settings.Settings:
        return settings.load({"engine": "torch", "model": "tiny", "device": "cpu"} | flags, environ={})

    return make


@pytest.fixture
def fastqwen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Fastqwen:
    """Runs the command line as the console script does, in a folder of its own, torch imported once."""
    for name in [name for name in os.environ if name.startswith("FASTQWEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FASTQWEN_NO_CACHE", "1")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, stdin: str = "", check: int | None = 0, **environ: str) -> Completed:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            cli.app(list(map(str, arguments)), prog_name="fastqwen")
        out, err = capfd.readouterr()
        assert check is None or ended.value.code == check, f"exit {ended.value.code}\n{out}\n{err}"
        return Completed(out, err)

    return run


@pytest.fixture
def cached(fastqwen: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fastqwen:
    """The command with a cache of this test's own."""
    monkeypatch.delenv("FASTQWEN_NO_CACHE")
    monkeypatch.setenv("FASTQWEN_CACHE_DIR", str(tmp_path / "cache"))
    return fastqwen


def read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
