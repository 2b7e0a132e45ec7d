"""What `fastqwen eval` says: figures of one output, of a comparison, and how they were come by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tgi_stack.errors import InputError
from tgi_stack.rows.output import parts_of, records
from tgi_stack.scoring import metrics
from tgi_stack.scoring.metrics import Comparison, Estimate, Rankings
from tgi_stack.scoring.qrels import read_qrels
from tgi_stack.writing import Given, refuse_present, replaced


@dataclass(frozen=True)
class Figures:
    """The figures of one evaluation.

    Attributes:
        noise: two runs of one thing, which show how far the figures are from themselves: in bf16 a number
            depends on how prompts were packed, a served one on what was asked beside it.
    """

    estimates: dict[str, Estimate]
    rankings: Rankings
    exclude_failed: bool
    notes: tuple[str, ...]
    comparison: Comparison | None
    noise: Comparison | None = None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "queries": len(self.rankings.relevant),
            "failed": self.rankings.failed,
            "exclude_failed": self.exclude_failed,
            "without_positive": self.rankings.without_positive,
            "without_record": len(self.rankings.without_record),
            "measures": {name: asdict(found) for name, found in self.estimates.items()},
            "notes": list(self.notes),
            "against": None if self.comparison is None else asdict(self.comparison),
            "noise": None if self.noise is None else asdict(self.noise),
            "within_noise": self.within_noise,
        }

    @property
    def within_noise(self) -> list[str] | None:
        """Measures no farther from --against than the interval of the noise reaches; None without both."""
        if self.comparison is None or self.noise is None:
            return None
        floor = {name: max(-found.low, found.high) for name, found in self.noise.differences.items()}
        return [name for name, found in self.comparison.differences.items() if abs(found.mean) <= floor[name]]

    def printed(self) -> Iterator[Table | str]:
        """For people."""
        yield _table("measure", "mean", self.estimates)
        failed = f"{self.rankings.failed:,} failed rows "
        failed += "left out" if self.exclude_failed else "counted as 0"
        left_out = f"{self.rankings.without_positive:,} rows without positives left out"
        yield f"{len(self.rankings.relevant):,} queries; {failed}; {left_out}"
        if missing := self.rankings.without_record:
            yield f"{len(missing):,} queries of the qrels without a record left out (first {missing[0]!r})"
        yield from self.notes
        if self.noise is not None:
            yield from _compared("noise of", self.noise)
        if self.comparison is not None:
            yield from _compared("difference of", self.comparison)
        if self.within_noise is not None:
            yield f"within the noise: {', '.join(self.within_noise) or 'none'}"


def _compared(what: str, found: Comparison) -> Iterator[Table | str]:
    yield _table(what, "mean", found.differences)
    tau = "of nothing" if found.kendall_tau is None else f"{found.kendall_tau:.4f}"
    yield (
        f"{found.queries:,} queries in both ({found.only_this:,} in this alone, "
        f"{found.only_other:,} in the other alone: left out); "
        f"{found.top1_flips:,} with another first candidate; Kendall tau {tau}"
    )


def evaluate(
    ranked: Path,
    cutoffs: Sequence[int],
    *,
    qrels: Path | None = None,
    exclude_failed: bool = False,
    temperature: float | None = None,
    drop: Sequence[str] = (),
    trec: Path | None = None,
    against: Path | None = None,
    noise: Path | None = None,
    overwrite: bool = False,
    inputs: Sequence[Given] = (),
) -> Figures:
    """Evaluates an output of `rerank`; see `metrics.collect` for the options.

    Args:
        overwrite: whether the TREC run may replace a file.
        inputs: what the TREC run may not replace.

    Raises:
        InputError: a file that can't be read as what it should be, or no query with positives in it.
        UsageError: the TREC run would replace a file that is read, or is there already.
    """
    if trec is not None:
        refuse_present("--trec", trec, inputs, overwrite=overwrite)
    grades = None if qrels is None else read_qrels(qrels)

    def collected(path: Path) -> Rankings:
        parts_of(path)  # says what is wrong with its name
        try:
            return metrics.collect(
                records(path),
                qrels=grades,
                exclude_failed=exclude_failed,
                temperature=temperature,
                drop=drop,
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not an output of rerank ({error!r})") from error

    rankings = collected(ranked)
    if not rankings.relevant:
        raise InputError(
            f"{ranked}: no row has a positive to look for; give `positive` in the rows, or --qrels"
        )
    others = [None if path is None else collected(path) for path in (against, noise)]
    compared = [None if other is None else metrics.compare(rankings, other, cutoffs) for other in others]
    if trec is not None:
        with replaced("--trec", trec, overwrite=overwrite) as file:
            file.writelines(line.encode() for line in metrics.trec_lines(rankings))
    notes = _notes(temperature, drop, rankings)
    return Figures(metrics.evaluate(rankings, cutoffs), rankings, exclude_failed, notes, *compared)


def _notes(temperature: float | None, drop: Sequence[str], rankings: Rankings) -> tuple[str, ...]:
    notes = []
    if temperature is not None:
        notes.append(f"ranked anew from the raw reads at temperature {temperature:g}")
    if drop:
        notes.append(
            f"without {', '.join(drop)}: what was read is renormalised over the others; "
            "the model might have said something else had it not seen them"
        )
    if rankings.not_there:
        notes.append(f"no row has a candidate {', '.join(map(repr, rankings.not_there))} to leave out")
    if notes and rankings.in_windows:
        notes.append(
            f"{rankings.in_windows:,} rows were ranked in windows, which show an order and no distribution: "
            "their order stays"
        )
    return tuple(notes)


def _table(first: str, second: str, estimates: dict[str, Estimate]) -> Table:
    table = Table(first, second, "95 % interval")
    for name, found in estimates.items():
        table.add_row(name, f"{found.mean:.4f}", f"{found.low:.4f} to {found.high:.4f}")
    return table
