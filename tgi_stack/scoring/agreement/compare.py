"""What `fastqwen compare` says: outputs by pairs, the noise of one engine, and how each was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from rich.table import Table

from tgi_stack.errors import InputError, UsageError
from tgi_stack.rows.manifest import Manifest, short
from tgi_stack.rows.output import parts_of
from tgi_stack.scoring.agreement.answers import answers_of, job_of
from tgi_stack.scoring.agreement.figures import PERCENTILE, Agreement, agreement
from tgi_stack.scoring.agreement.pairs import Pairing


@dataclass(frozen=True)
class Compared:
    """Two outputs and how far they are apart; `notes` say how they were asked, and by whom."""

    names: tuple[str, str]
    agreement: Agreement
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All pairs.

    Attributes:
        noise: two runs of one engine, which show how far it is from itself.
    """

    limit: float
    pairs: tuple[Compared, ...]
    noise: Compared | None = None

    @property
    def within(self) -> bool:
        """Whether all pairs are."""
        return all(pair.agreement.within for pair in self.pairs)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "limit": self.limit,
            "within": self.within,
            "pairs": [_as_dict(pair) | {"beyond_noise": self._beyond_noise(pair)} for pair in self.pairs],
            "noise": None if self.noise is None else _as_dict(self.noise),
        }

    def printed(self) -> Iterator[Table | str]:
        """For people."""
        several = (*self.pairs, *(() if self.noise is None else (self.noise,)))
        for texts in (False, True):
            shown = [pair for pair in several if _is_shown(pair.agreement, texts=texts)]
            if shown:
                yield _table(shown, self.noise, texts=texts)
        for pair in several:
            notes = [*pair.notes, *pair.agreement.notes()]
            head = f"{pair.names[0]} and {pair.names[1]}"
            verdict = "" if pair is self.noise else f": {_verdict(pair.agreement)}"
            yield "\n".join([f"{head}{verdict}", *(f"  {note}" for note in notes)])
        beyond = [pair for pair in self.pairs if self._beyond_noise(pair)]
        if self.noise is not None and self.noise.agreement.largest is not None:
            count = f"{len(beyond)} of {len(self.pairs)} pairs are" if self.pairs else "no pair is"
            yield f"{count} farther apart than two runs of one engine ({self.noise.agreement.largest:.3g})"

    def _beyond_noise(self, pair: Compared) -> bool | None:
        if self.noise is None:
            return None
        floor, found = self.noise.agreement.largest, pair.agreement.largest
        return None if floor is None or found is None else found > floor


def compare(outputs: Sequence[Path], limit: float, noise: Path | None = None) -> Comparison:
    """Each pair of outputs, and with `noise`, a second run of what the first one is of, that pair too.

    Raises:
        InputError: one that can't be read as an output, or none of a pair's rows is in both.
        UsageError: outputs of different jobs.
    """
    for out in (*outputs, *(() if noise is None else (noise,))):
        parts_of(out)
    pairs = tuple(compared(first, second, limit) for first, second in combinations(outputs, 2))
    floor = None if noise is None else compared(outputs[0], noise, limit)
    return Comparison(limit, pairs, floor)


def compared(first: Path, second: Path, limit: float) -> Compared:
    """Two outputs; see `compare`."""
    names = str(first), str(second)
    jobs = [job_of(out) for out in (first, second)]
    job = jobs[0] or jobs[1]
    if None not in jobs and jobs[0] != jobs[1]:
        raise UsageError(
            f"{first} is an output of {jobs[0]}, {second} one of {jobs[1]}; give outputs of one job"
        )
    with Pairing(names) as pairing:
        found = agreement(pairing.pairs(answers_of(first, job), answers_of(second, job)), limit)
    if found.is_empty:
        raise InputError(f"{first} and {second} have no row in common (rows are matched by their ids)")
    return Compared(names, found, tuple(_asked(first, second)))


def _asked(first: Path, second: Path) -> Iterator[str]:
    """How two outputs differ in what was asked and who answered, as their run.json tell."""
    told = [(out, Manifest.read(out)) for out in (first, second)]
    for out, manifest in told:
        if manifest is None:
            yield f"{out} has no run.json: how it was asked is not known"
        elif not manifest.is_complete:
            yield f"{out} was not finished"
    manifests = [manifest for _, manifest in told if manifest is not None]
    if len(manifests) == 2:
        for what, part in (("asked with", "asked"), ("answered by", "identity")):
            sides = [manifest.content.get(part) or {} for manifest in manifests]
            yield from (f"{what} {line}" for line in differences(*sides))


def differences(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """What differs, a line for each name."""
    for name in dict.fromkeys((*first, *second)):
        if first.get(name) != second.get(name):
            yield f"{name}: {short(first.get(name))} and {short(second.get(name))}"


# -- what is shown ---------------------------------------------------------------------------------------


def _as_dict(pair: Compared) -> dict[str, Any]:
    return {"outputs": list(pair.names), "notes": list(pair.notes)} | pair.agreement.as_dict()


def _is_shown(found: Agreement, *, texts: bool) -> bool:
    return found.plain > 0 if texts else found.ranked > 0


def _table(shown: Sequence[Compared], noise: Compared | None, *, texts: bool) -> Table:
    heads = ("rows", "equal") if texts else ("rows", "largest", "99 %", "Kendall tau", "first differs")
    table = Table("outputs", *heads)
    for pair in shown:
        name = f"{pair.names[0]}, {pair.names[1]}" + (" (noise)" if pair is noise else "")
        found = pair.agreement
        if texts:
            share = found.equal / found.plain
            table.add_row(name, f"{found.plain:,}", f"{found.equal:,} ({share:.1%})")
            continue
        values = (found.largest, found.differences.quantile(PERCENTILE), found.tau)
        cells = ["-" if value is None else f"{value:.3g}" for value in values[:2]]
        cells.append("-" if found.tau is None else f"{found.tau:.4f}")
        table.add_row(name, f"{found.ranked:,}", *cells, f"{found.first_differs:,}")
    return table


def _verdict(found: Agreement) -> str:
    return f"within {found.limit:g}" if found.within else f"NOT within {found.limit:g}"
