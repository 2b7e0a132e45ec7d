"""What label probabilities tell of a model: by position in the prompt, against the truth, and their mass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from scipy import optimize

from tgi_stack.report.mask import Mask
from tgi_stack.report.outputs import Output, Record, candidate_order
from tgi_stack.scoring import distributions

BINS = 10
MASS_BINS = 20
MOST_LABELS = 100  # of those that users write
MOST_PLACES = 26  # of a prompt, a ranking or all labels that a heat map shows
TEMPERATURES = (0.1, 10.0)


@dataclass(frozen=True)
class Place:
    """A place in the prompt: the label there, its mean probability over reads, how many reads have it."""

    number: int
    label: str
    mean: float
    fair: float  # what it would be if places did not matter: the mean of 1 / candidates
    reads: int


@dataclass(frozen=True)
class Cell:
    """A label at a place: its mean probability there, the share of reads in which it is the likeliest."""

    label: str
    place: int
    reads: int
    mean: float
    fair: float
    first: float


@dataclass(frozen=True)
class Bias:
    """How places in the prompt fare, and labels at them.

    Attributes:
        where: what a place is a place in.
        heat: for each place, how many of its candidates came to rank 1, 2, ...
        cells: by place, then by label; of the MOST_LABELS labels that were read most.
        left: how many labels are left out.
    """

    where: str
    places: list[Place]
    heat: list[list[int]]
    cells: list[Cell]
    left: int


@dataclass(frozen=True)
class Reading:
    """One read of two labels or more, by place: label, probability, the rank that the place came to."""

    labels: list[str]
    values: Sequence[float]
    ranks: list[int]


@dataclass(frozen=True)
class Bin:
    """Answers whose probability lies between two bounds: their number, its mean, the share that is right."""

    low: float
    high: float
    count: int
    mean: float | None
    right: float | None


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be believed.

    Attributes:
        of: what is counted, for people.
        ece: expected calibration error: the mean distance of probability and share, by the bins' counts.
        log_loss: mean of -log p(truth); None where the truth is never among the candidates.
        best_temperature: at which the log loss is least, within TEMPERATURES.
    """

    of: str
    bins: list[Bin]
    ece: float
    log_loss: float | None
    best_temperature: float | None


def bias(output: Output, mask: Mask) -> Bias | None:
    """Of whole prompts with two labels or more; None where there are none."""
    rerank = output.job == "rerank"
    readings = _whole_reads(output.records) if rerank else _own_labels(output.records, mask)
    sums: dict[tuple[str, int], list[float]] = {}
    heat: list[Counter[int]] = []
    for one in readings:
        best = distributions.order(one.values)[0]
        for place, (label, value) in enumerate(zip(one.labels, one.values, strict=True)):
            total = sums.setdefault((label, place), [0.0, 0.0, 0.0, 0.0])
            for at, more in enumerate((1, value, 1 / len(one.labels), place == best)):
                total[at] += more
            while len(heat) <= place:
                heat.append(Counter())
            heat[place][one.ranks[place]] += 1
    if not sums:
        return None
    cells = [
        Cell(label, place + 1, int(reads), total / reads, fair / reads, first / reads)
        for (label, place), (reads, total, fair, first) in sorted(sums.items(), key=lambda one: one[0][::-1])
    ]
    most = min(MOST_PLACES, len(heat))
    ranks = [[one[rank] for rank in range(1, most + 1)] for one in heat[:most]]
    reads: Counter[str] = Counter()
    for cell in cells:
        reads[cell.label] += cell.reads
    kept = {label for label, _ in reads.most_common(MOST_LABELS)}
    return Bias(
        "the prompt" if rerank else "the labels",
        list(_places(cells)),
        ranks,
        [cell for cell in cells if cell.label in kept],
        len(reads) - len(kept),
    )


def _places(cells: Sequence[Cell]) -> Iterator[Place]:
    for number, alike in groupby(cells, key=lambda cell: cell.place):
        here = list(alike)
        reads = sum(cell.reads for cell in here)
        mean, fair = (
            math.fsum(getattr(cell, name) * cell.reads for cell in here) / reads for name in ("mean", "fair")
        )
        yield Place(number, max(here, key=lambda cell: cell.reads).label, mean, fair, reads)


def _whole_reads(records: Iterable[Record]) -> Iterator[Reading]:
    for record in records:
        if record["status"] != "ok" or "window" in record:
            continue
        ranks = {entry["id"]: entry["rank"] for entry in record["ranking"]}
        for read in record.get("reads") or ():
            if len(read["order"]) > 1 and set(read["order"]) == set(ranks):
                values = distributions.softmax(read["logprobs"])
                yield Reading(read["labels"], values, [ranks[name] for name in read["order"]])


def _own_labels(records: Iterable[Record], mask: Mask) -> Iterator[Reading]:
    for record in records:
        if record["status"] == "ok" and len(record["labels"]) > 1:
            values = record["probabilities"]
            ranks = {place: rank for rank, place in enumerate(distributions.order(values), 1)}
            labels = [mask.label(label, place) for place, label in enumerate(record["labels"], 1)]
            yield Reading(labels, values, [ranks[place] for place in range(len(labels))])


# -- against the truth -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """An answer with its truth: each read's logarithms by candidate, and which candidates are right."""

    reads: list[list[float]]
    right: list[int]


def judged(records: Iterable[Record]) -> Iterator[Judged]:
    """The listwise rankings that have a truth and whole reads."""
    for record in records:
        positive = set(record.get("positive") or ())
        if record["status"] != "ok" or "window" in record or not positive:
            continue
        order, _ = candidate_order(record)
        reads = record.get("reads") or ()
        if not reads or any(sorted(read["order"]) != sorted(order) for read in reads) or len(order) < 2:
            continue
        values = [dict(zip(read["order"], _bare(read), strict=True)) for read in reads]
        right = [place for place, name in enumerate(order) if name in positive]
        yield Judged([[one[name] for name in order] for one in values], right)


def _bare(read: Record) -> list[float]:
    prior = read.get("prior") or [0.0] * len(read["logprobs"])
    return [value - less for value, less in zip(read["logprobs"], prior, strict=True)]


def calibration(records: Sequence[Record]) -> Calibration | None:
    """Of the first candidate's probability; of each candidate's where they were asked one by one."""
    answers = list(judged(records))
    if answers:
        pairs = [_first(one) for one in answers]
        inside = [one for one in answers if one.right]
        loss = _log_loss(inside, 1.0) if inside else None
        return _calibration("rankings, by the probability of the first", pairs, loss, _best(inside))
    single = list(_one_by_one(records))
    if not single:
        return None
    return _calibration("candidates, by the probability of yes", single, None, None)


def _first(one: Judged) -> tuple[float, bool]:
    values = probabilities(one, 1.0)
    top = distributions.order(values)[0]
    return values[top], top in one.right


def probabilities(one: Judged, temperature: float) -> tuple[float, ...]:
    """The distribution over the candidates at a temperature: the mean over the reads."""
    return distributions.mean(
        [distributions.softmax([value / temperature for value in read]) for read in one.reads]
    )


def _log_loss(answers: Sequence[Judged], temperature: float) -> float:
    losses = [
        -math.log(max(math.fsum(values[place] for place in one.right), 1e-300))
        for one in answers
        for values in [probabilities(one, temperature)]
    ]
    return math.fsum(losses) / len(losses)


def _best(answers: Sequence[Judged]) -> float | None:
    if len(answers) < 2:
        return None
    low, high = map(math.log, TEMPERATURES)
    sample = answers[:: max(1, len(answers) // 1000)]  # a thousand say it well enough
    found = optimize.minimize_scalar(
        lambda x: _log_loss(sample, math.exp(x)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 0.01},
    )
    return float(math.exp(found.x))


def _one_by_one(records: Iterable[Record]) -> Iterator[tuple[float, bool]]:
    for record in records:
        positive = set(record.get("positive") or ())
        reads = record.get("reads") or ()
        if record["status"] == "ok" and positive and reads and all(len(read["order"]) == 1 for read in reads):
            for entry in record["ranking"]:
                if entry.get("probability") is not None:
                    yield entry["probability"], entry["id"] in positive


def _calibration(
    of: str, pairs: Sequence[tuple[float, bool]], loss: float | None, best: float | None
) -> Calibration:
    bins = [_bin(place, [pair for pair in pairs if bin_of(pair[0]) == place]) for place in range(BINS)]
    ece = math.fsum(
        one.count / len(pairs) * abs((one.mean or 0.0) - (one.right or 0.0)) for one in bins if one.count
    )
    return Calibration(of, bins, ece, loss, best)


def bin_of(probability: float) -> int:
    """Which bin a probability falls in: the bounds belong to the upper one, 1 to the last."""
    return min(int(probability * BINS), BINS - 1)


def _bin(place: int, pairs: Sequence[tuple[float, bool]]) -> Bin:
    low, high, count = place / BINS, (place + 1) / BINS, len(pairs)
    if not count:
        return Bin(low, high, 0, None, None)
    mean = math.fsum(value for value, _ in pairs) / count
    return Bin(low, high, count, mean, sum(right for _, right in pairs) / count)


# -- mass ------------------------------------------------------------------------------------------------


def masses(records: Iterable[Record]) -> list[int] | None:
    """How many answers have how much of the probability on their labels, in MASS_BINS; None where unknown."""
    known = [record["label_mass"] for record in records if record.get("label_mass") is not None]
    if not known:
        return None
    counts = [0] * MASS_BINS
    for value in known:
        counts[min(int(max(value, 0.0) * MASS_BINS), MASS_BINS - 1)] += 1
    return counts
