"""Whose fault a failure is: the row's own, or the server's.

A row fails for the same reason each time while others are answered. A server's fault meets other rows too,
and they get over it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

ATTEMPTS = 10  # of 10,000 rows with three of ten attempts failing, none fails for it
OWN = 2  # failures of one kind, while `MANY` others were answered and none failed alike: it is the row
MANY = 16  # answers in a row are chance, with three of ten attempts failing, in 3 of 1,000 cases
UNSURE = 4  # where fewer were answered meanwhile, or others fail alike
CONTAGIOUS = 3  # attempts at a 424, which another request of the batch may have caused
FRESH_S = 30.0  # for so long one row that got over a failure speaks for the others
OF_THE_SERVER = frozenset({"408", "425"})


def kind_of(status: int) -> str:
    """Which failures count as alike: what stands before a server says the same fault in several 5xx."""
    return "5xx" if status >= 500 else str(status)


@dataclass(eq=False)
class Row:
    """What has happened to a question so far; `met` counts its failures by their kind."""

    attempts: int = 0
    pauses: int = 0
    throttled: int = 0
    bad_replies: int = 0
    silent: bool = False
    alone: bool = False
    deaths: tuple[str, ...] = ()
    met: dict[str, int] = field(default_factory=dict)
    answers_before: int = 0  # of the whole run, when it failed first


class Blame:
    """Remembers which rows fail how, and which got over it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._troubled: defaultdict[str, set[Row]] = defaultdict(set)
        self._got_over: dict[str, float] = {}
        self.answers = 0

    def failed(self, row: Row, kind: str) -> None:
        """An attempt of the row failed; `kind` is a status, or what a TransportError or a reply was."""
        if not row.met:
            row.answers_before = self.answers
        row.met[kind] = row.met.get(kind, 0) + 1
        self._troubled[kind].add(row)

    def answered(self, row: Row) -> None:
        """The row has its answer."""
        self.answers += 1
        for kind in row.met:
            self._got_over[kind] = self._clock()
        self.ended(row)

    def ended(self, row: Row) -> None:
        """Nothing more is asked for the row."""
        for kind in row.met:
            self._troubled[kind].discard(row)

    def others_answered(self, row: Row) -> bool:
        """Whether other rows had answers since this one failed first."""
        return self._answers_since(row) > 0

    def most(self, row: Row, kind: str, *, in_company: bool) -> int:
        """How many failures of this kind there have to be before the row is to blame.

        Args:
            in_company: the prompts of a request are asked again one by one when it fails.
        """
        if kind == "424":
            return CONTAGIOUS
        if kind in OF_THE_SERVER:
            return ATTEMPTS
        if self._clock() - self._got_over.get(kind, float("-inf")) < FRESH_S:
            return CONTAGIOUS if kind == "slow" else ATTEMPTS
        if in_company:
            return OWN
        if self._troubled[kind] - {row} or self._answers_since(row) < MANY:
            return CONTAGIOUS if kind == "slow" else UNSURE
        return OWN

    def _answers_since(self, row: Row) -> int:
        return self.answers - row.answers_before
