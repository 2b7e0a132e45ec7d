"""How far a run had come, as time went on: a point every few seconds, as many as stay readable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

EVERY_S = 2.0  # between two points, to begin with
MOST_POINTS = 240  # of a run however long: from there on every second point goes


class Point(NamedTuple):
    """What had been done since the run began; `seconds` count from there, tokens are those computed."""

    seconds: float
    ok: int
    failed: int
    cached: int
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Timeline:
    """Takes counts as they grow and keeps some of them, evenly spread.

    Args:
        clock: counts seconds.
    """

    clock: Callable[[], float] = time.monotonic
    every_s: float = EVERY_S
    points: list[Point] = field(default_factory=list)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()
        self._next = self.began + self.every_s

    def update(self, *counts: int) -> None:
        """Takes the counts of a `Point`, in its order; most of the time that costs a look at the clock."""
        if (now := self.clock()) >= self._next:
            self._keep(now, counts)

    def _keep(self, now: float, counts: tuple[int, ...]) -> None:
        self.points.append(Point(round(now - self.began, 3), *counts))
        if len(self.points) >= MOST_POINTS:
            self.points = self.points[1::2]
            self.every_s *= 2
        self._next = now + self.every_s

    def as_dict(self, *counts: int) -> dict[str, Any]:
        """For run.json: names, and a list of numbers for each point; the last is the end of the run.

        Args:
            counts: those of the end.
        """
        end = Point(round(self.clock() - self.began, 3), *counts)
        return {"fields": list(Point._fields), "points": [list(point) for point in (*self.points, end)]}
