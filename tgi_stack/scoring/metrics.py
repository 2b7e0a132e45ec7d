"""How good a ranking is: Recall@k, NDCG@k and MRR by ir-measures, with bootstrap intervals by SciPy.

Rankings are read from the records of `rerank`. With a temperature or dropped candidates they are made anew
from the raw reads in those records, without a model. Ranks reach the library as strictly falling scores, so
that ties keep the order of the input (trec_eval would break them by name).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from urllib.parse import quote

from tgi_stack.errors import InputError
from tgi_stack.scoring import distributions
from tgi_stack.scoring.qrels import Qrels
from tgi_stack.scoring.ranked import Record, refuse_unsound

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0


@dataclass(frozen=True)
class Rankings:
    """What is evaluated, by query id.

    `ranked` holds candidate ids, best first; a failed row is an empty ranking. `relevant` holds the positives
    with their grades, whether or not they are among the candidates. `in_windows` counts the rankings that
    stay what they are under a temperature: windows show an order, no distribution.
    """

    ranked: dict[str, list[str]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    relevant: dict[str, dict[str, int]] = field(default_factory=dict)
    failed: int = 0
    without_positive: int = 0
    without_record: tuple[str, ...] = ()  # queries of the qrels
    in_windows: int = 0
    not_there: tuple[str, ...] = ()  # candidates to be dropped that no row has


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries with its 95 % interval (percentile bootstrap)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two rankings of the same queries: paired differences (this minus the other), and agreement."""

    differences: dict[str, Estimate]
    queries: int
    only_this: int
    only_other: int
    top1_flips: int
    kendall_tau: float | None


# -- reading ---------------------------------------------------------------------------------------------


def collect(
    records: Iterable[Record],
    *,
    qrels: Qrels | None = None,
    exclude_failed: bool = False,
    temperature: float | None = None,
    drop: Sequence[str] = (),
) -> Rankings:
    """The rankings in records of `rerank`.

    Args:
        qrels: grades by query and candidate, in place of the records' own `positive`.
        exclude_failed: leave failed rows out instead of counting them as 0.
        temperature, drop: rank anew from the raw reads, see `reread`.

    Raises:
        InputError: a record that is not one of `rerank`.
    """
    ranked: dict[str, list[str]] = {}
    scores: dict[str, list[float]] = {}
    relevant: dict[str, dict[str, int]] = {}
    failed = without = windows = 0
    seen: set[str] = set()
    absent = set(drop)
    for number, record in enumerate(records, 1):
        refuse_unsound(record, number)
        name = record.get("id")
        if name in seen:
            raise InputError(f"record {number}: the id {name!r} stands twice; eval wants one record for each")
        if name is not None:
            seen.add(name)
        own = dict.fromkeys(record.get("positive") or (), 1)
        ok = record["status"] == "ok"
        listed = [entry["id"] for entry in record["ranking"]] if ok else []
        grades = own if qrels is None else qrels.of(str(name), listed)
        failed += not ok
        if ok and absent:
            absent.difference_update(listed)
        if name is None or not any(grade > 0 for grade in grades.values()):
            without += 1
            continue
        if not ok and exclude_failed:
            continue
        windows += record.get("window") is not None
        pairs = _ranked(record, number, temperature, drop) if ok else []
        ranked[name] = [id for id, _ in pairs]
        scores[name] = [score for _, score in pairs]
        relevant[name] = dict(grades)
    missing = () if qrels is None else qrels.without(seen)
    return Rankings(ranked, scores, relevant, failed, without, missing, windows, tuple(sorted(absent)))


def _ranked(
    record: Record, number: int, temperature: float | None, drop: Sequence[str]
) -> list[tuple[str, float]]:
    listed = [(entry["id"], float(entry["score"])) for entry in record["ranking"] if entry["id"] not in drop]
    if record.get("window") is not None or (temperature is None and not drop):
        return listed
    reads = record.get("reads") or []
    ids = {entry["id"] for entry in record["ranking"]}
    one_by_one = bool(reads) and all(len(read["order"]) == 1 and len(read["logprobs"]) == 2 for read in reads)
    shown = (
        [set().union(*(read["order"] for read in reads))]
        if one_by_one
        else [set(read["order"]) for read in reads]
    )
    if not shown or any(one != ids for one in shown):
        raise InputError(
            f"record {number} has no `reads` of all its candidates; --temperature and --drop rank from those"
        )
    if one_by_one:
        return _reread_pointwise(reads, temperature or 1.0, drop)
    return reread(reads, temperature or 1.0, drop)


def reread(
    reads: Sequence[Record], temperature: float = 1.0, drop: Sequence[str] = ()
) -> list[tuple[str, float]]:
    """Candidates and probabilities, best first, from raw reads.

    Each read's logarithms are divided by the temperature and normalised over the candidates that are left;
    the probabilities of several reads are averaged. This renormalises what was read: it is not what the model
    would have said had it not seen the dropped candidates.
    """
    order = [id for id in reads[0]["order"] if id not in drop]
    if not order:
        return []
    found = []
    for read in reads:
        left = {
            id: value / temperature
            for id, value in zip(read["order"], _without_prior(read), strict=True)
            if id not in drop
        }
        known = dict(zip(left, distributions.softmax(list(left.values())), strict=True))
        found.append([known[id] for id in order])
    values = distributions.mean(found)  # as the run took it: another sum may part what ties
    return [(order[index], values[index]) for index in distributions.order(values)]


def _reread_pointwise(
    reads: Sequence[Record], temperature: float, drop: Sequence[str]
) -> list[tuple[str, float]]:
    """Candidates and their probability of yes, best first."""
    left = [read for read in reads if read["order"][0] not in drop]
    values = [
        distributions.softmax([value / temperature for value in _without_prior(read)])[0] for read in left
    ]
    return [(left[index]["order"][0], values[index]) for index in distributions.order(values)]


def _without_prior(read: Record) -> list[float]:
    """A read's logarithms, less those that a prompt without content has, where they are known."""
    prior = read.get("prior") or [0.0] * len(read["logprobs"])
    return [value - bias for value, bias in zip(read["logprobs"], prior, strict=True)]


# -- measuring -------------------------------------------------------------------------------------------


def per_query(rankings: Rankings, cutoffs: Sequence[int]) -> dict[str, dict[str, float]]:
    """Measure -> query -> value; a failed row is 0 everywhere."""
    import ir_measures
    from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

    measures = (
        {R @ k: f"Recall@{k}" for k in cutoffs} | {nDCG @ k: f"NDCG@{k}" for k in cutoffs} | {RR: "MRR"}
    )
    names = {query: f"q{index}" for index, query in enumerate(rankings.relevant)}
    queries = {name: query for query, name in names.items()}
    listed = chain.from_iterable([*rankings.relevant.values(), *rankings.ranked.values()])
    known = {id: f"c{place}" for place, id in enumerate(dict.fromkeys(listed))}  # the library's are C strings
    qrels = [
        Qrel(names[query], known[id], grade)
        for query, grades in rankings.relevant.items()
        for id, grade in grades.items()
    ]
    run = [
        ScoredDoc(names[query], known[id], float(len(ids) - rank))
        for query, ids in rankings.ranked.items()
        for rank, id in enumerate(ids)
    ]
    values = {name: dict.fromkeys(rankings.relevant, 0.0) for name in measures.values()}
    if run:
        for metric in ir_measures.iter_calc(list(measures), qrels, run):
            values[measures[metric.measure]][queries[metric.query_id]] = float(metric.value)
    return values


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and its bootstrap interval; of one value or of equal ones, that value."""
    import numpy as np
    from scipy import stats

    data = np.asarray(values, dtype=float)
    mean = math.fsum(values) / len(values)
    if len(data) < 2 or np.ptp(data) == 0:
        return Estimate(mean, mean, mean)
    interval = stats.bootstrap(
        (data,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))


def evaluate(rankings: Rankings, cutoffs: Sequence[int]) -> dict[str, Estimate]:
    """Each measure's mean over the queries that have positives, with its interval."""
    values = per_query(rankings, cutoffs)
    return {name: estimate(list(found.values())) for name, found in values.items() if found}


def compare(this: Rankings, other: Rankings, cutoffs: Sequence[int]) -> Comparison:
    """Paired over the queries that both have.

    Raises:
        InputError: they have none in common.
    """
    shared = [query for query in this.relevant if query in other.relevant]
    if not shared:
        raise InputError("the two outputs have no query with positives in common")
    paired = differences(per_query(this, cutoffs), per_query(other, cutoffs), shared)
    flips = sum(this.ranked[query][:1] != other.ranked[query][:1] for query in shared)
    taus = [
        tau for query in shared if (tau := kendall_tau(this.ranked[query], other.ranked[query])) is not None
    ]
    agreement = math.fsum(taus) / len(taus) if taus else None
    alone = (len(this.relevant) - len(shared), len(other.relevant) - len(shared))
    return Comparison(paired, len(shared), *alone, flips, agreement)


def differences(
    ours: Mapping[str, Mapping[str, float]], theirs: Mapping[str, Mapping[str, float]], queries: Sequence[str]
) -> dict[str, Estimate]:
    """The paired difference of each measure over some queries; values are those of `per_query`."""
    return {
        name: estimate([found[query] - theirs[name][query] for query in queries])
        for name, found in ours.items()
    }


def kendall_tau(ours: Sequence[str], theirs: Sequence[str]) -> float | None:
    """Kendall's tau of two orders, over what both hold; None of fewer than two."""
    if len(ours) > 1 and ours == theirs:
        return 1.0
    from scipy import stats

    place = {id: rank for rank, id in enumerate(theirs)}
    both = [place[id] for id in ours if id in place]
    return float(stats.kendalltau(range(len(both)), both).statistic) if len(both) > 1 else None


# -- TREC ------------------------------------------------------------------------------------------------


def trec_lines(rankings: Rankings, tag: str = "fastqwen") -> Iterator[str]:
    """A TREC run: `query Q0 candidate rank score tag`."""
    for query, ids in rankings.ranked.items():
        for rank, (id, score) in enumerate(zip(ids, rankings.scores[query], strict=True), 1):
            yield f"{_encoded(query)} Q0 {_encoded(id)} {rank} {score!r} {tag}\n"


def _encoded(id: str) -> str:
    """Percent-encoded where it holds white space (or a percent sign, so that decoding gives it back)."""
    needs = any(c.isspace() for c in id) or "%" in id
    return quote(id, safe="".join(c for c in id if not c.isspace() and c != "%")) if needs else id
