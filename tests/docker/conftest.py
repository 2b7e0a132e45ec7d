"""The engine of a run, and a clone there whose servers are up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docker import clone as clones
from tests.docker import engine as engines
from tests.docker.clone import MODELS, Clone
from tests.docker.engine import Engine, NoEngineError

KEY = "k" * 40


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    home = os.environ.get("FASTQWEN_DOCKER")
    if not home:
        pytest.skip("make test-docker brings an engine up")
    with ExitStack() as stack:
        try:
            made = engines.running(Path(home), tmp_path_factory.mktemp("engine") / "e", {})
            yield stack.enter_context(made)
        except NoEngineError as error:
            pytest.skip(f"no Docker engine runs here: {error}")


@dataclass
class Host:
    """The host with its first clone."""

    clone: Clone

    def up(self) -> Clone:
        """The clone, with servers that are up and fare well."""
        for kind in MODELS:
            self.clone.play(kind)
        self.clone.make("up")
        return self.clone

    def down(self) -> Clone:
        """The clone, with nothing up."""
        self.clone.make("down")
        for kind in MODELS:
            self.clone.play(kind)
        return self.clone


@pytest.fixture(scope="session")
def host(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A hub cache has tokenizers under the real models' names; weights are where `models` puts them."""
    hub = tmp_path_factory.mktemp("hub")
    (hub / "hub").mkdir()
    clones.fill(hub / "hub", whole=False)
    made = clones.make(tmp_path_factory.mktemp("host") / "clone", engine, hub)
    labels = [f"com.docker.compose.{name}" for name in ("project=fastqwen", "volume=models")]
    engine.docker("volume", "create", *(f"--label={label}" for label in labels), "fastqwen_models")
    clones.fill(made.volume, whole=True)
    return Host(made)
