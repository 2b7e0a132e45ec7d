"""How `make up` looks at what it has started: a part that died after it answered has to answer again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from tests.conftest import ROOT
from tgi_stack.errors import ServerError
from tgi_stack.stack.files.docker_folder import DockerFolder
from tgi_stack.stack.running.containers import State
from tgi_stack.stack.running.docker import Compose
from tgi_stack.stack.running.parts import SETTLED_S, Part
from tgi_stack.stack.running.waiting import Waiting


@dataclass
class Scripted(Waiting):
    """What Docker would tell at each look, the last for ever."""

    looks: list[dict[str, State]] = field(default_factory=list)

    def _look(self) -> dict[str, State]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def _log(self, service: str) -> str:
        return ""


def seen(restarts: int = 0, ran_s: float = 100.0, health: str = "") -> State:
    return State("text", "running", health, restarts=restarts, since=time.time() - ran_s, id="a")


def other(health: str = "healthy") -> State:
    return State("vision", "running", health, since=time.time() - 100, id="b")


@pytest.fixture
def answered() -> list[str]:
    return []


def parts(answered: list[str]) -> list[Part]:
    def part(service: str) -> Part:
        async def prove() -> str:
            answered.append(service)
            return "answers"

        return Part(service, service, service, prove)

    return [part("text"), part("vision")]


def waiting(monkeypatch: pytest.MonkeyPatch, *looks: dict[str, State]) -> Scripted:
    monkeypatch.setattr("tgi_stack.stack.running.waiting.LOOK_EVERY_S", 0.0)
    return Scripted(Compose(DockerFolder(ROOT / "docker")), looks=list(looks))


async def test_one_that_died_answers_again(answered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"text": seen(), "vision": other("starting")}
    later = {"text": seen(restarts=1), "vision": other()}
    look = waiting(monkeypatch, first, later)
    await look.until_all_answer(parts(answered), 10)
    assert answered == ["text", "text", "vision"]
    await look.until_all_answer(parts(answered), 10)  # once all is up, nothing is proven twice
    assert len(answered) == 3


async def test_one_that_dies_on_is_told(answered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [{"text": seen(restarts=n), "vision": other("starting")} for n in range(4)]
    with pytest.raises(ServerError, match="text did not come up: it ended"):
        await waiting(monkeypatch, *looks).until_all_answer(parts(answered), 10)


async def test_who_just_started_does_not_count(answered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    look = waiting(monkeypatch, {"text": seen(ran_s=SETTLED_S / 2), "vision": other()})
    with pytest.raises(ServerError, match="that it has to stay up"):
        await look.until_all_answer(parts(answered), 0.05)
    assert "text" not in answered
