"""What a benchmark has found so far, as plain data: whole after every row."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tgi_stack.bench.child import RowFigures
from tgi_stack.bench.variants import BASELINE, Variant


@dataclass(frozen=True)
class TableRow:
    """One row of the table for one kind of task; see `child.RowFigures`.

    Attributes:
        apart: the largest difference of a probability from fp32; for summaries None.
        agreement: how often the first choice, or the whole text, is that of fp32.
        seconds: what the row took, its process's start included.
        floor: answers a second at the rate of large products, in the row's dtype; None where unknown.
    """

    kind: str
    variant: Variant
    found: RowFigures
    truth: RowFigures
    seconds: float
    floor: float | None = None

    @property
    def checked(self) -> int:
        """How many answers are compared with those of fp32."""
        return min(len(self.found.answers), len(self.truth.answers)) if self.found.comparable else 0

    @property
    def apart(self) -> float | None:
        if self.kind != "text" or not self.checked:
            return None
        pairs = zip(self.found.answers, self.truth.answers, strict=False)
        return float(max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True)))

    @property
    def agreement(self) -> float | None:
        if not self.checked:
            return None
        pairs = zip(self.found.answers, self.truth.answers, strict=False)
        if self.kind == "vision":
            return float(statistics.mean(a == b for a, b in pairs))
        return float(statistics.mean(_first(a) == _first(b) for a, b in pairs))


@dataclass
class Results:
    """The rows of a benchmark as they come.

    Attributes:
        about: what it runs on.
        planned: kinds and names of all rows, in the order in which they are measured.
    """

    about: dict[str, Any]
    planned: Sequence[tuple[str, str]]
    lines: list[TableRow] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """All that is known, as JSON takes it; `missing` are the rows that were not reached."""
        measured = {(line.kind, line.variant.name) for line in self.lines}
        missing = [f"{kind}: {name}" for kind, name in self.planned if (kind, name) not in measured]
        return self.about | {"missing": missing, "lines": [self._plain(line) for line in self.lines]}

    def _plain(self, line: TableRow) -> dict[str, Any]:
        found, variant = line.found, line.variant
        same = (one.found for one in self.lines if one.kind == line.kind and one.variant is BASELINE)
        base = next(same, RowFigures())
        rate = statistics.median(found.rates) if found.rates else None
        measured = {
            "kind": line.kind,
            "name": variant.name,
            "expected": variant.summaries if line.kind == "vision" else variant.prompts,
            "expected_memory": variant.memory,
            "reason": found.reason,
            "seconds": round(line.seconds, 1),
        }
        if rate is None:
            return measured
        return measured | {
            "rate": rate,
            "range": [min(found.rates), max(found.rates)],
            "requests": found.requests,
            "passes": len(found.rates),
            "speed_up": rate / statistics.median(base.rates) if base.rates else None,
            "floor": line.floor,
            "of_floor": rate / line.floor if line.floor else None,
            "peak_mib": found.peak_mib,
            "memory_change": found.peak_mib / base.peak_mib - 1 if found.peak_mib and base.peak_mib else None,
            "ready_s": found.ready_s,
            "checked": line.checked,
            "apart": line.apart,
            "agreement": line.agreement,
            "right": found.right,
        }


def _first(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
