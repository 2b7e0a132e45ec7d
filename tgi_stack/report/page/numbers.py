"""Numbers of the page: those that are shown large, and the tables beside the charts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tgi_stack.report.contents import Contents, OneRun
from tgi_stack.report.figures import MASS_BINS
from tgi_stack.report.outputs import MEASURE


@dataclass(frozen=True)
class Tile:
    """A number that is shown large."""

    name: str
    value: str
    kind: str = ""


def tiles(run: OneRun) -> Iterator[Tile]:
    """The numbers of a run that are shown large."""
    counts = run.counts
    yield Tile("rows", f"{counts.rows:,}")
    yield Tile("ok", f"{counts.ok:,}", "ok")
    if counts.cached:
        yield Tile("from cache", f"{counts.cached:,}", "hit")
    yield Tile("failed", f"{counts.failed:,}", "failed" if counts.failed else "")
    if counts.pending:
        yield Tile("pending", f"{counts.pending:,}", "pending")
    for name in (MEASURE, "MRR"):
        if name in run.measures:
            yield Tile(name, f"{run.measures[name].mean:.3f}")
    if run.calibration is not None:
        yield Tile("calibration error", f"{run.calibration.ece:.3f}")
    yield Tile("tokens read", f"{run.tokens[0]:,}")
    if run.tokens[1]:
        yield Tile("tokens written", f"{run.tokens[1]:,}")
    if took := dict(run.facts).get("took"):
        yield Tile("from start to end", took)


def compared(contents: Contents) -> Iterator[Tile]:
    """The numbers of two runs that are shown large."""
    found = contents.pairs
    if found is None:
        return
    deltas = [pair.delta for pair in found.pairs if pair.delta is not None]
    yield Tile("rows in both", f"{len(found.pairs):,}")
    if deltas:
        yield Tile("won", f"{sum(delta > 0 for delta in deltas):,}", "ok")
        yield Tile("lost", f"{sum(delta < 0 for delta in deltas):,}", "failed")
        yield Tile("tied", f"{sum(delta == 0 for delta in deltas):,}")
        one = found.differences[MEASURE]
        yield Tile(f"{MEASURE} ({one.low:+.3f} to {one.high:+.3f})", f"{one.mean:+.4f}")
    word = "equal summaries" if contents.job == "summarize" else "equal firsts"
    yield Tile(word, f"{sum(pair.first for pair in found.pairs) / max(1, len(found.pairs)):.1%}")
    known = [pair.apart for pair in found.pairs if pair.apart is not None]
    if known and contents.job != "summarize":
        yield Tile("mean distance (total variation)", f"{sum(known) / len(known):.4f}")


# -- beside the charts ---------------------------------------------------------------------------------------
def pace_rows(run: OneRun) -> Iterator[list[str]]:
    """From, to, and what was done a second between."""
    for one in run.pace:
        yield [
            f"{one.begins:.0f}",
            f"{one.ends:.0f}",
            f"{one.rows:,.1f}",
            f"{one.cached:,.1f}",
            f"{one.tokens:,.0f}",
        ]


def bin_rows(run: OneRun) -> Iterator[list[str]]:
    """Bounds, count, mean probability and share of each bin."""
    for one in run.calibration.bins if run.calibration else ():
        mean, right = ("" if value is None else f"{value:.3f}" for value in (one.mean, one.right))
        yield [f"{one.low:.1f}", f"{one.high:.1f}", f"{one.count:,}", mean, right]


def place_rows(run: OneRun) -> Iterator[list[str]]:
    """Each place in the prompt."""
    for one in run.bias.places if run.bias else ():
        yield [str(one.number), one.label, f"{one.mean:.4f}", f"{one.fair:.4f}", f"{one.reads:,}"]


def label_rows(run: OneRun) -> Iterator[list[str]]:
    """Each label at each place."""
    for one in run.bias.cells if run.bias else ():
        values = [f"{value:.4f}" for value in (one.mean, one.fair, one.first)]
        yield [one.label, str(one.place), *values, f"{one.reads:,}"]


def heat_head(run: OneRun) -> list[str]:
    """The heading of `heat_rows`."""
    return ["place", *(f"rank {rank}" for rank in range(1, len(run.bias.heat) + 1))] if run.bias else []


def heat_rows(run: OneRun) -> Iterator[list[str]]:
    """How often each place came to each rank."""
    for place, row in enumerate(run.bias.heat if run.bias else (), 1):
        yield [str(place), *(f"{count:,}" for count in row)]


def mass_rows(run: OneRun) -> Iterator[list[str]]:
    """How many answers have how much label mass."""
    for place, count in enumerate(run.masses or ()):
        yield [f"{place / MASS_BINS:.2f}", f"{(place + 1) / MASS_BINS:.2f}", f"{count:,}"]
