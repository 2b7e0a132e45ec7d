"""What run.json and the records say of a run: who answered, what came of the rows, how fast, what failed."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from tgi_stack.report.mask import Mask
from tgi_stack.report.outputs import Output, Record
from tgi_stack.words import ERRORS, FLAGS

MOMENT_S, MOST_STEPS = 1.0, 120  # of the rates that are shown
SHOWN_ROWS = 5  # of those that failed of one cause
IDENTITY = {
    "engine": "engine",
    "version": "version",
    "model": "model",
    "revision": "revision",
    "quantization": "quantisation",
    "dtype": "dtype",
    "tokenizer": "tokenizer (SHA-256)",
}
DIGEST = 12  # characters of a digest that are shown
# Settings whose values are words or numbers of ours; what users write stays out of a redacted page.
WRITTEN = (
    "--instruction",
    "--labels",
    "--label-prefix",
    "--model",
    "--text-model",
    "--vision-model",
    "--tokenizer",
)


@dataclass(frozen=True)
class Counts:
    """What became of the rows; ok + failed + pending == rows."""

    rows: int
    ok: int
    cached: int
    failed: int
    pending: int

    def line(self) -> str:
        """The line of conservation."""
        return (
            f"{self.rows:,} rows: {self.ok:,} ok ({self.cached:,} from cache), "
            f"{self.failed:,} failed, {self.pending:,} pending"
        )


@dataclass(frozen=True)
class Cause:
    """Rows that failed of one cause: what it means, what was said of some of them."""

    type: str
    meaning: str
    count: int
    said: list[tuple[str | None, int, str | None]]  # id, row, message


@dataclass(frozen=True)
class Flagged:
    """How many answers bear a flag, and what it means."""

    flag: str
    meaning: str
    count: int


@dataclass(frozen=True)
class Pace:
    """What was done between two points of the timeline, a second."""

    begins: float
    ends: float
    rows: float
    cached: float
    tokens: float


def counts(output: Output) -> Counts:
    """Those of run.json, else those of the records that were read."""
    noted = output.noted.get("counts")
    if noted and not output.is_cut:
        return Counts(*(int(noted[name]) for name in ("rows", "ok", "cached", "failed", "pending")))
    ok = [record for record in output.records if record["status"] == "ok"]
    hits = sum(bool(record.get("from_cache")) for record in ok)
    return Counts(len(output.records), len(ok), hits, len(output.records) - len(ok), 0)


def facts(output: Output, mask: Mask) -> Iterator[tuple[str, str]]:
    """Who answered, when, with which settings: names and values for people."""
    noted = output.noted
    if command := mask.text(noted.get("command")):
        yield "command", shlex.join(map(str, command))
    if noted.get("fastqwen"):
        yield "fastqwen", str(noted["fastqwen"])
    yield from _identity(output, mask)
    routes = Counter(record.get("route") for record in output.records if record.get("route"))
    if routes:
        yield "routes", ", ".join(f"{name} ({count:,})" for name, count in routes.most_common())
    for name in ("started", "ended", "state"):
        if noted.get(name):
            yield name, str(noted[name])
    if (seconds := duration(noted)) is not None:
        yield "took", f"{seconds:,.0f} s"
    yield from _settings(output, mask)


def _identity(output: Output, mask: Mask) -> Iterator[tuple[str, str]]:
    identity = output.noted.get("identity") or {}
    for field, name in IDENTITY.items():
        value = identity.get(field)
        if not value or (mask.hides and str(value).startswith(("/", ".", "~"))):  # a folder of the user's
            continue
        yield name, str(value)[:DIGEST] + "..." if field == "tokenizer" else str(value)
    if not identity:
        for field in ("engine", "model", "revision"):
            found = dict.fromkeys(str(record[field]) for record in output.records if record.get(field))
            if found and not mask.hides:
                yield field, ", ".join(found)


def _settings(output: Output, mask: Mask) -> Iterator[tuple[str, str]]:
    for name, value in output.asked.items():
        if not name.startswith("--") or value in (None, False, "", [], {}):
            continue
        if mask.hides and (name in WRITTEN or name == "--map"):
            continue
        if name == "--prompt-file":
            value = f"SHA-256 {value[:DIGEST]}..."
        yield name, ",".join(map(str, value)) if isinstance(value, list) else str(value)
    for name in ("input", "prompt version", "image version"):
        if value := output.asked.get(name):
            yield name, f"SHA-256 {value[:DIGEST]}..." if name == "input" else str(value)


def duration(noted: dict[str, Any]) -> float | None:
    """Seconds from the run's start to its end; None where it has none."""
    try:
        began, ended = (datetime.fromisoformat(noted[name]) for name in ("started", "ended"))
    except (KeyError, TypeError, ValueError):
        return None
    return (ended - began).total_seconds()


def pace(output: Output) -> list[Pace]:
    """How fast it went, from the timeline in run.json; empty where there is none."""
    timeline = output.noted.get("timeline") or {}
    try:
        names = {name: place for place, name in enumerate(timeline["fields"])}
        points = _spaced([[0.0] * len(names), *timeline["points"]])
        return [_pace(names, before, after) for before, after in pairwise(points)]
    except (KeyError, TypeError, IndexError):  # one of another version
        return []


def _spaced(points: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Points far enough apart for a rate between them to mean something; the last one stays."""
    end = points[-1]
    least = max(MOMENT_S, end[0] / MOST_STEPS)
    kept = [points[0]]
    for point in points[1:-1]:
        if point[0] - kept[-1][0] >= least and end[0] - point[0] >= least:
            kept.append(point)
    return [*kept, end] if end[0] > 0 else []


def _pace(names: dict[str, int], before: Sequence[float], after: Sequence[float]) -> Pace:
    def grown(*fields: str) -> float:
        return sum(after[names[field]] - before[names[field]] for field in fields) / (after[0] - before[0])

    tokens = grown("prompt_tokens", "completion_tokens")
    return Pace(before[0], after[0], grown("ok", "failed"), grown("cached"), tokens)


def causes(records: Sequence[Record], mask: Mask) -> list[Cause]:
    """What rows failed of, the most frequent first."""
    failed = [record for record in records if record["status"] != "ok"]
    found = Counter(record["error"]["type"] for record in failed)
    return [
        Cause(type, ERRORS.get(type, ""), count, _said(failed, type, mask))
        for type, count in found.most_common()
    ]


def _said(failed: Sequence[Record], type: str, mask: Mask) -> list[tuple[str | None, int, str | None]]:
    alike = [record for record in failed if record["error"]["type"] == type][:SHOWN_ROWS]
    return [
        (
            None if record.get("id") is None else mask.id(record["id"]),
            record["error"]["row"],
            mask.text(record["error"]["message"]),
        )
        for record in alike
    ]


def flagged(records: Sequence[Record]) -> list[Flagged]:
    """What readers of the answers must know, the most frequent first."""
    found = Counter(flag for record in records for flag in record.get("flags") or ())
    return [Flagged(flag, FLAGS.get(flag, ""), count) for flag, count in found.most_common()]
