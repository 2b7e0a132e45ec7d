"""How far the answers of two outputs are apart, counted pair by pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tgi_stack.scoring.agreement.answers import Answer
from tgi_stack.scoring.agreement.pairs import Pair
from tgi_stack.scoring.agreement.quantiles import Quantiles
from tgi_stack.scoring.metrics import kendall_tau

PERCENTILE = 0.99
NAMED = 20  # rows that are named, of a whole output


@dataclass(frozen=True, slots=True)
class Apart:
    """A row whose answers differ by more than the limit.

    Attributes:
        difference: the largest of its probabilities; None of what has none (a text, an order, no answer).
        how: in words.
    """

    id: str
    difference: float | None
    how: str


@dataclass
class Agreement:
    """Two outputs of the same rows. `add` every pair, then read.

    Attributes:
        limit: how far probabilities may be apart, and how large the share of texts (and of orders without
            probabilities) that differ may be.
        named: how many rows beyond the limit are named; None for all.
        both: rows that both answered.
        failed: rows that only the first, only the second, and that both failed.
        only: rows that only the first, and that only the second has.
        without_id: failed rows without an id, which nothing can be matched by.
        asked_otherwise: rows with other candidates, labels or images: they are not compared.
        bounded: rows where one of the two has bounds: their probabilities are not compared.
        measured: rows whose probabilities are compared.
        plain: texts, and orders without probabilities: they are equal or not.
        equal: how many of those are.
        first_differs: rankings whose first places differ, of `ranked`.
        beyond: how many rows are beyond the limit, or were answered by one of the two alone.
        apart: the first of those.
        farthest: the row with the largest difference.
    """

    limit: float
    named: int | None = NAMED
    both: int = 0
    failed: list[int] = field(default_factory=lambda: [0, 0, 0])
    only: list[int] = field(default_factory=lambda: [0, 0])
    without_id: list[int] = field(default_factory=lambda: [0, 0])
    asked_otherwise: int = 0
    bounded: int = 0
    measured: int = 0
    plain: int = 0
    equal: int = 0
    ranked: int = 0
    first_differs: int = 0
    beyond: int = 0
    apart: list[Apart] = field(default_factory=list)
    farthest: str | None = None
    differences: Quantiles = field(default_factory=Quantiles)
    _taus: tuple[float, int] = (0.0, 0)

    def add(self, pair: Pair) -> None:
        """Counts a pair."""
        first, second = pair
        if first is None or second is None:
            alone, side = (first, 0) if first is not None else (second, 1)
            counts = self.without_id if alone is not None and alone.id is None else self.only
            counts[side] += 1
        elif not (first.ok and second.ok):
            self._add_failed(first, second)
        elif set(first.order) != set(second.order) or _other_image(first, second):
            what = "images" if _other_image(first, second) else "candidates or labels"
            self.asked_otherwise += 1
            self._note(Apart(str(first.id), None, f"other {what}"))
        else:
            self.both += 1
            self._add_answers(first, second)

    def _add_failed(self, first: Answer, second: Answer) -> None:
        side = 2 if first.ok == second.ok else int(first.ok)
        self.failed[side] += 1
        if side < 2:
            self._note(Apart(str(first.id), None, "failed in one of the two"))

    def _add_answers(self, first: Answer, second: Answer) -> None:
        if first.text is not None:
            self._add_plain(first, second, same=first.text == second.text, what="another text")
            return
        self._add_order(first, second)
        if first.probabilities is None or second.probabilities is None:
            self._add_plain(first, second, same=first.order == second.order, what="another order")
        elif not (first.exact and second.exact):
            self.bounded += 1
        else:
            self._add_probabilities(first, second)

    def _add_plain(self, first: Answer, second: Answer, *, same: bool, what: str) -> None:
        self.plain += 1
        self.equal += same
        if not same:
            self._note(Apart(str(first.id), None, what))

    def _add_order(self, first: Answer, second: Answer) -> None:
        self.ranked += 1
        self.first_differs += first.order[:1] != second.order[:1]
        tau = kendall_tau(first.order, second.order)
        if tau is not None:
            self._taus = self._taus[0] + tau, self._taus[1] + 1

    def _add_probabilities(self, first: Answer, second: Answer) -> None:
        theirs = dict(zip(second.order, second.probabilities or (), strict=True))
        pairs = zip(first.order, first.probabilities or (), strict=True)
        found = [abs(value - theirs[name]) for name, value in pairs]
        self.measured += 1
        before = self.differences.largest
        self.differences.add(found)
        if self.differences.largest > before or self.farthest is None:
            self.farthest = first.id
        if max(found) > self.limit:
            flip = f"; first {first.order[0]!r} and {second.order[0]!r}"
            same = first.order[:1] == second.order[:1]
            self._note(Apart(str(first.id), max(found), f"{max(found):.3g}{'' if same else flip}"))

    def _note(self, row: Apart) -> None:
        self.beyond += 1
        if self.named is None or len(self.apart) < self.named:
            self.apart.append(row)

    @property
    def is_empty(self) -> bool:
        """Whether the two have no row in common."""
        return not (self.both or self.asked_otherwise or any(self.failed))

    @property
    def largest(self) -> float | None:
        """The largest difference of a probability."""
        return self.differences.largest if self.measured else None

    @property
    def tau(self) -> float | None:
        """The mean of Kendall's tau over the rankings of two candidates or more."""
        total, count = self._taus
        return total / count if count else None

    @property
    def within(self) -> bool:
        """Whether nothing is beyond the limit, no row lacks an answer of one, and something was compared."""
        if self.failed[0] or self.failed[1] or self.asked_otherwise:
            return False
        if not self.measured and not self.plain:
            return self.failed[2] > 0 and self.both == 0
        texts = self.plain - self.equal <= self.limit * self.plain
        return texts and (self.largest is None or self.largest <= self.limit)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "within": self.within,
            "rows": self.both,
            "failed": dict(zip(("first", "second", "both"), self.failed, strict=True)),
            "only": dict(zip(("first", "second"), self.only, strict=True)),
            "without_id": dict(zip(("first", "second"), self.without_id, strict=True)),
            "asked_otherwise": self.asked_otherwise,
            "bounded": self.bounded,
            "probabilities": {
                "rows": self.measured,
                "count": self.differences.count,
                "largest": self.largest,
                "percentile_99": self.differences.quantile(PERCENTILE),
                "farthest": self.farthest,
            },
            "kendall_tau": self.tau,
            "rankings": self.ranked,
            "first_differs": self.first_differs,
            "texts_and_orders": {"rows": self.plain, "equal": self.equal},
            "beyond": self.beyond,
            "apart": [{"id": one.id, "difference": one.difference, "how": one.how} for one in self.apart],
        }

    def notes(self) -> Iterator[str]:
        """What else is to be known, in words."""
        counts = (
            (self.failed[0], "failed in the first alone"),
            (self.failed[1], "failed in the second alone"),
            (self.failed[2], "failed in both"),
            (self.only[0], "only the first has"),
            (self.only[1], "only the second has"),
            (sum(self.without_id), "without an id, which nothing is matched by"),
            (self.asked_otherwise, "with other candidates, labels or images: not compared"),
            (self.bounded, "with bounds in place of values: their probabilities are not compared"),
        )
        yield from (f"{count:,} rows {what}" for count, what in counts if count)
        if self.both and not (self.measured or self.plain):
            yield "no row has probabilities that are known in both: nothing was compared"
        for row in self.apart:
            yield f"{row.id}: {row.how}"
        if self.beyond > len(self.apart):
            yield f"and {self.beyond - len(self.apart):,} more rows"


def _other_image(first: Answer, second: Answer) -> bool:
    return first.image != second.image


def agreement(pairs: Iterator[Pair], limit: float, *, named: int | None = NAMED) -> Agreement:
    """The agreement of all pairs."""
    found = Agreement(limit, named)
    for pair in pairs:
        found.add(pair)
    return found
