"""Ways to a ranking: all candidates in one prompt (in several orders, in windows), or one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tgi_stack.concurrency import together
from tgi_stack.jobs.label_reader import LabelReader
from tgi_stack.jobs.rerank.prompts import Candidate, Prompts, Query
from tgi_stack.prompting.prompts import NO_CONTENT
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.types import LabelScores

YES_NO = ("yes", "no")


class Reading(NamedTuple):
    """One reading: the candidates (by their place in the row) as they stood in the prompt, and their labels.

    `distribution` holds probabilities among the labels, in their order; `prior` is the labels' logarithms
    without content, where they are calibrated by it.
    """

    order: tuple[int, ...]
    labels: tuple[str, ...]
    scores: LabelScores
    distribution: tuple[float, ...]
    prior: tuple[float, ...] | None = None
    cut: bool = False

    @classmethod
    def of(
        cls,
        order: tuple[int, ...],
        labels: tuple[str, ...],
        scores: LabelScores,
        prior: tuple[float, ...] | None,
        cut: bool,
    ) -> Reading:
        """The reading with its probabilities."""
        found = (
            distributions.softmax(scores.logprobs)
            if prior is None
            else distributions.calibrated(scores.logprobs, prior)
        )
        return cls(order, labels, scores, found, prior, cut)

    @property
    def by_candidate(self) -> tuple[float, ...]:
        """The same of a listwise read, by the place of the candidates among those it shows."""
        if self.order == tuple(sorted(self.order)):
            return self.distribution
        pairs = sorted(zip(self.order, self.distribution, strict=True))
        return tuple(probability for _, probability in pairs)


class Outcome(NamedTuple):
    """What is known of a row's candidates, each sequence in the row's order.

    `scores` is what they are ranked by; `probabilities` is None where windows show no common distribution,
    `logprobs` where several reads were averaged or the route does not know them.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...] | None
    logprobs: tuple[float, ...] | None
    spread: tuple[float, ...] | None
    reads: tuple[Reading, ...]
    window: tuple[int, int] | None = None


class Ranker(Protocol):
    """A way to a ranking."""

    async def rank(self, query: Query, candidates: Sequence[Candidate]) -> Outcome:
        """The candidates' scores; raises a RowError where there are none."""


class Listwise:
    """One prompt lists all candidates, each behind a label."""

    def __init__(self, reader: LabelReader, prompts: Prompts, settings: Settings) -> None:
        self._reader = reader
        self._prompts = prompts
        self._permutations = settings.permutations
        self._calibrates = settings.calibrate
        self._priors: dict[tuple[int, Query], tuple[float, ...]] = {}
        self._window = settings.window
        self._stride = settings.stride or max(1, (settings.window or 2) // 2)

    async def rank(self, query: Query, candidates: Sequence[Candidate]) -> Outcome:
        if self._window is not None and len(candidates) > self._window:
            return await self._in_windows(query, candidates, self._window)
        reads = await self._reads(query, candidates, range(len(candidates)))
        one = len(reads) == 1
        probabilities = reads[0].by_candidate if one else distributions.mean([r.by_candidate for r in reads])
        several = self._permutations > 1
        alone = reads[0] if one and reads[0].scores.normalised == "vocabulary" else None
        return Outcome(
            scores=probabilities,
            probabilities=probabilities,
            logprobs=None if alone is None else alone.scores.logprobs,
            spread=distributions.spread([read.by_candidate for read in reads]) if several else None,
            reads=reads,
        )

    async def _reads(
        self, query: Query, candidates: Sequence[Candidate], places: Sequence[int]
    ) -> tuple[Reading, ...]:
        """Reads in several orders: in two, then in all others unless the top of the order is settled.

        Nothing less can settle it, and where two differ no more can. So what is asked together, of which an
        engine computes the common beginning once, is never more than one by one would be.
        """
        labels = self._reader.encoder.prover.default(len(places))
        shifts = distributions.rotations(len(places), self._permutations)
        turned = [(*places[shift:], *places[:shift]) for shift in shifts]
        reads: list[Reading] = []
        for orders in filter(None, (turned[:2], turned[2:])):
            listed = [[candidates[place] for place in order] for order in orders]
            asked = [self._prompts.listwise(query, one, labels) for one in listed]
            read = [self._reader.read(context, labels) for context, _ in asked]
            scores = [await read[0]] if len(read) == 1 else await together(*read)
            prior = await self._prior(query.nothing, labels) if self._calibrates else None
            found = zip(orders, scores, asked, strict=True)
            reads += [Reading.of(order, labels, one, prior, cut) for order, one, (_, cut) in found]
            if len(reads) == len(turned) or distributions.settled([read.by_candidate for read in reads]):
                break
        return tuple(reads)

    async def _prior(self, nothing: Query, labels: tuple[str, ...]) -> tuple[float, ...]:
        """What the labels have where the prompt has no content; the same for all rows of a kind."""
        key = (len(labels), nothing)
        if key not in self._priors:
            context, _ = self._prompts.listwise(nothing, [Candidate.of("", NO_CONTENT)] * len(labels), labels)
            self._priors[key] = (await self._reader.read(context, labels)).logprobs
        return self._priors[key]

    async def _in_windows(self, query: Query, candidates: Sequence[Candidate], size: int) -> Outcome:
        """Windows slide from the back of the order to its front and carry the best along.

        The way of RankGPT (Sun et al. 2023).
        """
        order = list(range(len(candidates)))
        reads: list[Reading] = []
        end = len(order)
        while True:
            start = max(0, end - size)
            places = order[start:end]
            found = await self._reads(query, candidates, places)
            reads += found
            means = distributions.mean([_of(places, read) for read in found])
            order[start:end] = [places[index] for index in distributions.order(means)]
            if start == 0:
                break
            end -= self._stride
        scores = {place: 1.0 / rank for rank, place in enumerate(order, 1)}
        return Outcome(
            scores=tuple(scores[place] for place in range(len(order))),
            probabilities=None,
            logprobs=None,
            spread=None,
            reads=tuple(reads),
            window=(size, self._stride),
        )


def _of(places: Sequence[int], read: Reading) -> list[float]:
    found = dict(zip(read.order, read.distribution, strict=True))
    return [found[place] for place in places]


class Pointwise:
    """One prompt a candidate: does it fit, yes or no; what is ranked by is the probability of yes."""

    def __init__(self, reader: LabelReader, prompts: Prompts, settings: Settings) -> None:
        self._reader = reader
        self._prompts = prompts
        self._calibrates = settings.calibrate
        self._priors: dict[Query, tuple[float, ...]] = {}

    async def rank(self, query: Query, candidates: Sequence[Candidate]) -> Outcome:
        reads = await together(*(self._read(query, one, place) for place, one in enumerate(candidates)))
        probabilities = tuple(read.distribution[0] for read in reads)
        full = all(read.scores.normalised == "vocabulary" for read in reads)
        return Outcome(
            scores=probabilities,
            probabilities=probabilities,
            logprobs=tuple(read.scores.logprobs[0] for read in reads) if full else None,
            spread=None,
            reads=tuple(reads),
        )

    async def _read(self, query: Query, candidate: Candidate, index: int) -> Reading:
        context, cut = self._prompts.pointwise(query, candidate)
        scores = await self._reader.read(context, YES_NO)
        prior = await self._prior(query.nothing) if self._calibrates else None
        return Reading.of((index,), YES_NO, scores, prior, cut)

    async def _prior(self, nothing: Query) -> tuple[float, ...]:
        """What yes and no have where the prompt has no content."""
        if nothing not in self._priors:
            context, _ = self._prompts.pointwise(nothing, Candidate.of("", NO_CONTENT))
            self._priors[nothing] = (await self._reader.read(context, YES_NO)).logprobs
        return self._priors[nothing]
