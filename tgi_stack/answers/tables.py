"""Label readings as they are kept: one table a prompt, from which any part of its labels is answered."""

from __future__ import annotations

import json
import math
import struct
from functools import lru_cache
from typing import NamedTuple

from tgi_stack.answers.checks import distinct_texts, refuse, texts
from tgi_stack.scoring import distributions
from tgi_stack.types import LabelScores

STOOD_IN = "fallback.torch"  # flag of what another engine computed in a server's place
ROUNDING = 1e-3  # of a probability, and of a logarithm that was normalised
LONGEST = 2**31  # more tokens than any prompt has
ABOUT_THE_LABELS = ("label_mass.low", "resolution.bf16", "resolution.fp16")  # flags that a subset has anew


class LabelTable(NamedTuple):
    """Logarithms of labels, as they were read."""

    labels: tuple[str, ...]
    logprobs: tuple[float, ...]
    normalised: str
    exact: bool
    mass: float | None
    route: str
    prompt_tokens: int
    flags: tuple[str, ...]
    chained: bool = False

    @classmethod
    def of(cls, labels: tuple[str, ...], scores: LabelScores) -> LabelTable:
        """The table of one reading."""
        known = (scores.normalised, scores.exact, scores.label_mass, scores.route, scores.prompt_tokens)
        return cls(labels, scores.logprobs, *known, scores.flags, scores.chained)

    def holds(self, labels: tuple[str, ...], fallback: str | None) -> bool:
        """Whether the labels can be told from it, in a way that --fallback allows.

        All of them, or some where they were read exactly.
        """
        if labels != self.labels and not set(self.labels).issuperset(labels):
            return False
        if STOOD_IN in self.flags:
            return fallback in (None, "torch")
        if not self.exact:
            return fallback == "bounds" and len(labels) == len(self.labels)
        return True

    def with_more(self, other: LabelTable) -> LabelTable | None:
        """Both tables' labels, or None where they are not of one distribution."""
        # Labels of several tokens may begin one another; those that were read together are known not to.
        ways = [(t.normalised, t.exact, t.chained, t.route, t.prompt_tokens) for t in (self, other)]
        if ways[0] != ways[1] or ways[0][:3] != ("vocabulary", True, False):
            return None
        both = dict(zip(other.labels, other.logprobs, strict=True))
        both |= zip(self.labels, self.logprobs, strict=True)
        mass = distributions.mass(list(both.values()))
        kept = dict.fromkeys(f for f in (*self.flags, *other.flags) if f != "label_mass.low")
        flags = (*distributions.mass_flags(mass), *kept)
        return self._replace(labels=tuple(both), logprobs=tuple(both.values()), mass=mass, flags=flags)

    def scores(self, labels: tuple[str, ...]) -> LabelScores:
        """The reading of some of its labels."""
        logprobs, flags, mass = self.logprobs, self.flags, self.mass
        if labels != self.labels:
            known = dict(zip(self.labels, logprobs, strict=True))
            logprobs = tuple(known[label] for label in labels)
        if len(labels) < len(self.labels):
            kept = tuple(flag for flag in flags if flag not in ABOUT_THE_LABELS)
            dtype = next((f.partition(".")[2] for f in flags if f.startswith("resolution.")), None)
            if self.normalised == "vocabulary":
                mass = distributions.mass(logprobs)
            else:
                logprobs = distributions.among(logprobs)
            flags = (*distributions.mass_flags(mass), *distributions.tie_flags(logprobs, dtype), *kept)
        return LabelScores(
            logprobs,
            self.normalised,
            mass,
            self.exact,
            self.route,
            self.prompt_tokens,
            flags,
            attempts=0,
            from_cache=True,
            chained=self.chained,
        )

    @staticmethod
    def encode(table: LabelTable) -> bytes:
        """As bytes; `decode` gives it back.

        The head is the same for most prompts of a run, so that it is read once for all of them; what differs
        stands behind it: the mass, the prompt's length, the logarithms.
        """
        known = [table.labels, table.normalised, table.exact, table.route, table.flags, table.chained]
        head = json.dumps([*known, table.mass is None], separators=(",", ":")).encode()
        values = struct.pack(f"<{len(table.labels)}d", *table.logprobs)
        return _TABLE.pack(len(head), table.prompt_tokens, table.mass or 0.0) + head + values

    @classmethod
    def decode(cls, payload: bytes) -> LabelTable:
        """Raises ValueError, TypeError or struct.error for what is no table: see `Codec.decode`."""
        length, tokens, mass = _TABLE.unpack_from(payload)
        values = _TABLE.size + length
        labels, normalised, exact, route, flags, chained, no_mass = _head(payload[_TABLE.size : values])
        logprobs = struct.unpack_from(f"<{len(labels)}d", payload, values)
        if len(payload) != values + 8 * len(labels):
            raise ValueError("not as many logarithms as labels")
        # A sum is finite only where all are; of NaN no comparison holds.
        if not (math.isfinite(sum(logprobs)) and max(logprobs) <= ROUNDING):
            raise ValueError("no logarithms of probabilities")
        if not (0.0 <= mass <= 1.0 + ROUNDING and tokens < LONGEST):
            raise ValueError("no mass, or no length of a prompt")
        known = None if no_mass else mass
        return cls(labels, logprobs, normalised, exact, known, route, tokens, flags, chained)


_TABLE = struct.Struct("<IQd")


@lru_cache(maxsize=1024)
def _head(head: bytes) -> tuple[tuple[str, ...], str, bool, str, tuple[str, ...], bool, bool]:
    labels, normalised, exact, route, flags, chained, no_mass = json.loads(head)
    refuse(normalised not in ("vocabulary", "labels"), "normalised")
    refuse(type(route) is not str, "route")
    refuse(any(type(told) is not bool for told in (exact, chained, no_mass)), "exact, chained, no_mass")
    return distinct_texts(labels, "labels"), normalised, exact, route, texts(flags, "flags"), chained, no_mass
