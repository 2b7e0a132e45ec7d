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
            mounts = _real_vllm(tmp_path_factory.mktemp("vllm"), os.environ.get("FASTQWEN_VLLM"))
            made = engines.running(Path(home), tmp_path_factory.mktemp("engine") / "e", mounts)
            yield stack.enter_context(made)
        except NoEngineError as error:
            pytest.skip(f"no Docker engine runs here: {error}")


def _real_vllm(folder: Path, environment: str | None) -> dict[str, str]:
    """What brings a real vLLM for this processor into containers: its environment and the Python under it.

    Both stand there under the names that they have here, since their files name each other.
    """
    if environment is None:
        return {}
    (folder / "started").write_text(f"{environment}/bin/python\n")
    settings = (Path(environment) / "pyvenv.cfg").read_text().splitlines()
    home = next(value for name, _, value in (line.partition(" = ") for line in settings) if name == "home")
    # The base has no libnuma, which vLLM's operators are linked to.
    numa = [str(path) for path in Path("/usr/lib").glob("*/libnuma.so.1")]
    found = {place: place for place in (environment, str(Path(home).parent), *numa)}
    return found | {str(folder): "/opt/vllm"}


@dataclass
class Host:
    """The host with its first clone."""

    clone: Clone

    def up(self) -> Clone:
        """The clone, with servers that are up and fare well."""
        for kind in MODELS:
            self.clone.play(kind)
        if not self._is_up():
            self.clone.make("up")
        return self.clone

    def _is_up(self) -> bool:
        """Whether both servers run as the last `make up` left them, which waited until they answered."""
        services = ("text", "vision-vllm", "front")
        states = [self.clone.engine.state(f"fastqwen-{service}-1") for service in services]
        return states == ["running healthy 0", "running healthy 0", "running  0"]

    def down(self) -> Clone:
        """The clone, with nothing up."""
        if self.clone.engine.docker("ps", "--all", "--quiet"):
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
