"""What became of a run's rows, and how far it had come as time went on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from tgi_stack.backends.work import Busy, Idle, Span
from tgi_stack.scoring import distributions

Record = dict[str, Any]
SPENT = ("prepared", "asked", "written")
FLAG_NOTES = {
    "labels.spaced_likelier": ": with a space before them the labels are likelier; try --label-prefix ' '",
}

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


@dataclass
class Tally:
    """What became of the rows; ok + failed + pending == rows."""

    rows: int = 0
    input_rows: int = 0  # rows may be fewer, by --limit
    ok: int = 0
    kept: int = 0  # of the ok, those of an earlier run
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0  # computed in this run
    completion_tokens: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    positions: list[tuple[float, int]] = field(default_factory=list)  # sums of probabilities, and reads
    timeline: Timeline = field(default_factory=Timeline)
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))  # seconds of rows
    backend: Busy = field(default_factory=Idle)

    @classmethod
    def of(cls, counts: dict[str, Any]) -> Tally:
        """The tally that `as_dict` was made of, all of it kept from then."""
        numbers = {name: counts[name] for name in ("rows", "input_rows", "ok", "cached", "failed")}
        return cls(**numbers, kept=counts["ok"])

    @property
    def pending(self) -> int:
        return self.rows - self.ok - self.failed

    def add(self, record: Record, span: Span | None = None) -> None:
        """Counts one record, and what went into its row."""
        if span is not None:
            self.spend(*span.spent_s())
        self.flags.update(record.get("flags", ()))
        if record["status"] == "ok":
            self.ok += 1
            if record.get("from_cache"):
                self.cached += 1
            else:
                self._add_tokens(record.get("usage") or {})
            if len(record.get("reads", ())) > 1 and "window" not in record:
                self._add_positions(record["reads"])
        else:
            self.failed += 1
            self.failures[record["error"]["type"]] += 1
        self.timeline.update(*self._done())

    def spend(self, prepared_s: float = 0.0, asked_s: float = 0.0, written_s: float = 0.0) -> None:
        """Adds to what rows have taken."""
        for name, seconds in zip(SPENT, (prepared_s, asked_s, written_s), strict=True):
            self.spent[name] += seconds

    def times(self) -> dict[str, float]:
        """Where the rows' time went, in seconds summed over them.

        What they waited for answers is parted as their questions waited for a place and were computed.
        """
        work = self.backend.work
        asked = work.waiting_s + work.computing_s
        share = work.waiting_s / asked if asked else 0.0
        prepared_s, asked_s, written_s = self.spent.values()
        found = {
            "preparing": prepared_s,
            "waiting": asked_s * share,
            "computing": asked_s * (1 - share),
            "writing": written_s,
        }
        return {name: round(seconds, 3) for name, seconds in found.items()}

    def _add_tokens(self, usage: Record) -> None:
        self.prompt_tokens += usage.get("prompt_tokens") or 0
        self.completion_tokens += usage.get("completion_tokens") or 0

    def _done(self) -> tuple[int, ...]:
        """What this run has done, as a point of its timeline counts it."""
        return self.ok - self.kept, self.failed, self.cached, self.prompt_tokens, self.completion_tokens

    def _add_positions(self, reads: list[Record]) -> None:
        for read in reads:
            if len(read["order"]) < 2:
                continue
            for place, probability in enumerate(distributions.softmax(read["logprobs"])):
                if place == len(self.positions):
                    self.positions.append((0.0, 0))
                total, count = self.positions[place]
                self.positions[place] = (total + probability, count + 1)

    def for_merge(self) -> dict[str, Any]:
        """What `merge` takes, plain: the counts, and what means are made of."""
        return self.as_dict() | {"positions": self.positions, "spent": self.spent}

    def merge(self, counts: dict[str, Any]) -> None:
        """Adds another tally, given by its `for_merge`."""
        self.ok += counts["ok"]
        self.failed += counts["failed"]
        self.cached += counts["cached"]
        self._add_tokens(counts)
        self.spend(*counts["spent"].values())
        self.flags.update(counts["flags"])
        self.failures.update(counts["failures"])
        sums = zip_longest(self.positions, counts["positions"], fillvalue=(0.0, 0))
        self.positions = [(ours[0] + theirs[0], ours[1] + theirs[1]) for ours, theirs in sums]
        self.timeline.update(*self._done())

    def notes(self) -> Iterator[str]:
        """What else the closing summary says: flags, and what positions have to do with probabilities."""
        for flag, count in self.flags.most_common():
            yield f"{count:,} x {flag}{FLAG_NOTES.get(flag, '')}"
        if self.positions:
            means = (
                f"{place}: {total / count:.3f}" for place, (total, count) in enumerate(self.positions, 1)
            )
            yield f"mean probability by position in the prompt: {', '.join(means)}"

    def line(self) -> str:
        """The line of conservation that ends every run."""
        return (
            f"{self.rows:,} rows: {self.ok:,} ok ({self.cached:,} from cache), "
            f"{self.failed:,} failed, {self.pending:,} pending"
        )

    def as_dict(self) -> dict[str, Any]:
        """The counts, for --json."""
        counts = {
            name: getattr(self, name)
            for name in (
                "rows",
                "input_rows",
                "ok",
                "kept",
                "cached",
                "failed",
                "pending",
                "prompt_tokens",
                "completion_tokens",
            )
        }
        means = [total / count for total, count in self.positions]
        return counts | {
            "flags": dict(self.flags),
            "failures": dict(self.failures),
            **({"mean_probability_by_position": means} if means else {}),
        }

    def noted(self) -> dict[str, Any]:
        """What run.json keeps: the counts, how they grew, and where the rows' time went."""
        return self.as_dict() | {"timeline": self.timeline.as_dict(*self._done()), "times": self.times()}
