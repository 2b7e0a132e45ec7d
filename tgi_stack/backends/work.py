"""What whoever computes is at, and where a row's time goes: for those who watch a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class Server(Protocol):
    """One of several that compute.

    Attributes:
        state: `up`, `down` or `aside`.
        outstanding: requests that are there now.
        answers, misses: attempts that brought an answer, and those that did not.
    """

    url: str
    state: str
    outstanding: int
    answers: int
    misses: int


@dataclass
class Work:
    """What is asked; seconds are summed over the questions.

    Attributes:
        servers: who is asked; nobody for an engine of this process.
        in_flight: questions that are computed now.
        waiting_s: how long questions waited for a place.
        computing_s: how long they took from there on.
    """

    servers: Sequence[Server] = ()
    in_flight: int = 0
    waiting_s: float = 0.0
    computing_s: float = 0.0
    _most: int = 0

    def most_in_flight(self) -> int:
        """How many were computed at once at most, since the last call: answers come together, in batches."""
        most, self._most = max(self._most, self.in_flight), self.in_flight
        return most

    @contextmanager
    def computing(self, *since: float) -> Iterator[None]:
        """Within it, questions are computed that have waited from these moments on."""
        began = time.monotonic()
        self.waiting_s += sum(began - moment for moment in since)
        self.in_flight += len(since)
        self._most = max(self._most, self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= len(since)
            self.computing_s += len(since) * (time.monotonic() - began)


@runtime_checkable
class Busy(Protocol):
    """A backend that tells what it is at."""

    @property
    def work(self) -> Work: ...


class Idle:
    """Nobody computes, or nobody tells."""

    work = Work()


def busy(backend: object) -> Busy:
    """The backend, where it tells what it is at."""
    return backend if isinstance(backend, Busy) else Idle()


class Span:
    """A row's time: it begins when the row is taken up, and holds for its task and that one's children.

    Attributes:
        asked_s: how long at least one question of the row was out.
    """

    def __init__(self) -> None:
        self.asked_s = 0.0
        self._began = time.monotonic()
        self._asked_at = 0.0
        self._out = 0
        _span.set(self)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Within it, a question is out."""
        if self._out == 0:
            self._asked_at = time.monotonic()
        self._out += 1
        try:
            yield
        finally:
            self._out -= 1
            if self._out == 0:
                self.asked_s += time.monotonic() - self._asked_at

    def spent_s(self) -> tuple[float, float]:
        """How long the row was prepared, and how long its questions were out, up to now."""
        return max(0.0, time.monotonic() - self._began - self.asked_s), self.asked_s


_span: ContextVar[Span | None] = ContextVar("span", default=None)


@contextmanager
def asking() -> Iterator[None]:
    """Within it, a question of this task's row is out."""
    span = _span.get()
    if span is None:
        yield
        return
    with span.asking():
        yield
