"""Two outputs of the same rows side by side: what one has over the other, row by row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tgi_stack.errors import UsageError
from tgi_stack.report.figures import judged
from tgi_stack.report.outputs import CUTOFF, MEASURE, Output, Record
from tgi_stack.scoring import distributions, metrics
from tgi_stack.scoring.metrics import Estimate

LOSSES = 20


@dataclass(frozen=True)
class Pair:
    """A row that both outputs have.

    Attributes:
        here, there: its places among the records of OUT and of OTHER.
        own, other: NDCG in each; None without a truth.
        first: whether the first candidates (or the texts) are the same.
        apart: total variation of the two distributions, from 0 to 1; None where one has none.
    """

    here: int
    there: int
    own: float | None
    other: float | None
    first: bool
    apart: float | None

    @property
    def delta(self) -> float | None:
        """What OUT has over OTHER."""
        return None if self.own is None or self.other is None else self.own - self.other


@dataclass(frozen=True)
class Pairs:
    """What two outputs have in common.

    Attributes:
        differences: paired means over the rows with a truth, OUT minus OTHER.
        noise: what a difference of means may be by the order of the candidates alone: two standard deviations
            of the mean over reads; None where neither output has several reads a row.
    """

    pairs: list[Pair]
    only_here: int
    only_there: int
    not_compared: int
    differences: dict[str, Estimate]
    noise: float | None

    def losses(self, most: int = LOSSES) -> list[Pair]:
        """The rows where OUT falls furthest behind, the worst first; without a truth those furthest apart."""
        if any(pair.delta is not None for pair in self.pairs):
            behind = [pair for pair in self.pairs if (pair.delta or 0.0) < 0]
            return sorted(behind, key=lambda pair: pair.delta or 0.0)[:most]
        other = [pair for pair in self.pairs if pair.apart]
        return sorted(other, key=lambda pair: -(pair.apart or 0.0))[:most]


def compare(output: Output, other: Output) -> Pairs:
    """Pairs the rows of two outputs of one job by their ids.

    Raises:
        UsageError: outputs of two jobs, or without a row in common.
    """
    if output.job != other.job:
        raise UsageError(
            f"{output.path} is an output of {output.job}, {other.path} of {other.job}; give two of one job"
        )
    places = {record.get("id"): place for place, record in enumerate(other.records)}
    shared = [
        (place, places[record["id"]])
        for place, record in enumerate(output.records)
        if record.get("id") is not None and record["id"] in places
    ]
    if not shared:
        raise UsageError(f"{output.path} and {other.path} have no row in common; give two of the same input")
    ours, theirs = (_values(one) if one.job == "rerank" else {} for one in (output, other))
    both = [(here, there) for here, there in shared if _is_ok(output, here) and _is_ok(other, there)]
    is_judged = output.job == "rerank"
    counted = shared if is_judged else both  # a failed row with a truth counts as 0
    pairs = [_pair(output, other, here, there, ours, theirs) for here, there in counted]
    return Pairs(
        pairs,
        len(output.records) - len(shared),
        len(other.records) - len(shared),
        len(shared) - len(counted),
        _differences(output, other) if is_judged else {},
        _noise(output, other) if is_judged else None,
    )


def _is_ok(output: Output, place: int) -> bool:
    return bool(output.records[place]["status"] == "ok")


def _values(output: Output) -> dict[str, float]:
    return output.measured[MEASURE]


def _pair(
    output: Output, other: Output, here: int, there: int, ours: dict[str, float], theirs: dict[str, float]
) -> Pair:
    own, its = output.records[here], other.records[there]
    name = own["id"]
    ok = _is_ok(output, here) and _is_ok(other, there)
    return Pair(
        here,
        there,
        ours.get(name) if name in theirs else None,
        theirs.get(name) if name in ours else None,
        ok and _first(own) == _first(its),
        apart(own, its) if ok else None,
    )


def _first(record: Record) -> object:
    if "ranking" in record:
        return record["ranking"][0]["id"]
    if "probabilities" in record:
        return record["labels"][distributions.order(record["probabilities"])[0]]
    return record.get("summary")


def apart(own: Record, its: Record) -> float | None:
    """Total variation between the distributions of two records; of summaries 0 for equal texts, else 1."""
    if "summary" in own or "summary" in its:
        return float(own.get("summary") != its.get("summary"))
    here, there = _distribution(own), _distribution(its)
    if here is None or there is None or here.keys() != there.keys():
        return None
    return math.fsum(abs(value - there[name]) for name, value in here.items()) / 2


def _distribution(record: Record) -> dict[str, float] | None:
    if "ranking" in record:
        found = {entry["id"]: entry.get("probability") for entry in record["ranking"]}
    else:
        found = dict(zip(record["labels"], record["probabilities"], strict=True))
    known = {name: value for name, value in found.items() if value is not None}
    return known if len(known) == len(found) else None


def _differences(output: Output, other: Output) -> dict[str, Estimate]:
    shared = [name for name in output.rankings.relevant if name in other.rankings.relevant]
    return metrics.differences(output.measured, other.measured, shared) if shared else {}


def _noise(*outputs: Output) -> float | None:
    """Two standard deviations of the mean of NDCG over single reads; see `Pairs`."""
    means = [deviation for output in outputs if (deviation := _deviation(output.records)) is not None]
    return 2 * math.hypot(*means) if means else None


def _deviation(records: Sequence[Record]) -> float | None:
    """Of the mean over rows, from the spread of each row's reads: what the order of candidates alone does."""
    variances = []
    for one in judged(records):
        if len(one.reads) < 2:
            return None
        single = [ndcg(distributions.order(distributions.softmax(read)), one.right) for read in one.reads]
        variances.append(statistics.pvariance(single))
    return math.sqrt(math.fsum(variances)) / len(variances) if variances else None


def ndcg(order: Sequence[int], right: Sequence[int]) -> float:
    """NDCG at CUTOFF of one ranking whose relevant candidates are worth 1 each."""
    gains = [1 / math.log2(rank + 1) for rank in range(1, CUTOFF + 1)]
    found = math.fsum(gain for gain, place in zip(gains, order, strict=False) if place in right)
    best = math.fsum(gains[: len(right)])
    return found / best if best else 0.0
