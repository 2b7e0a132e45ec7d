"""How servers are asked for labels: by the best route that they are able to go, learnt once and remembered.

vLLM reads the labels by their ids; an older one only its likeliest tokens. TGI reads the labels that a
grammar allows, in groups where it shows too few tokens at once; without grammars only its likeliest tokens.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tgi_stack.backends.micro_batch import MicroBatcher
from tgi_stack.backends.servers.endpoints import Endpoint
from tgi_stack.backends.servers.protocols import tgi, vllm
from tgi_stack.backends.servers.protocols.numbers import NOT_SEEN, ReplyError, refuse_excess
from tgi_stack.backends.servers.protocols.reply import Call
from tgi_stack.backends.servers.question import Ask, Question, seed_of
from tgi_stack.backends.servers.transport import Reply
from tgi_stack.concurrency import together
from tgi_stack.errors import AnswerError, ScoreError
from tgi_stack.prompting.labels import Prover, allowed, grammars
from tgi_stack.scoring import distributions
from tgi_stack.types import LabelScores, ScoreRequest

MOST_ASKED = 1024  # likeliest tokens, until the server says that it shows fewer
LINGER_S = 0.003  # of a group that is not full
MOST_GRAMMARS = 32  # that TGI keeps; one more is compiled anew each time, while everybody waits
UNLIKELY = (177, 178, 188, 189, 190)  # parts of characters, which no answer begins with
FOR_THE_MASS = 128  # likeliest tokens: one label among them is enough
# Two reads of one prompt differ by a step of its logits: 1/8 in bf16, between 16 and 32.
MASS_ROUNDING = 0.25

LOG = logging.getLogger(__name__)

Found = Mapping[int, float]


def bounded(request: ScoreRequest, found: Found, route: str, dtype: str | None, attempts: int) -> LabelScores:
    """From the likeliest tokens: a label among them is exact, another has at most what the last of them has.

    Raises:
        ScoreError: `score.unseen` where no label is among them.
    """
    seen = [id for id in request.label_ids if id in found]
    if not seen:
        raise ScoreError(
            "score.unseen",
            f"no label is among the {len(found)} likeliest tokens that the server shows; "
            "let it show more, or use --fallback torch",
        )
    floor = min(found.values())  # of those that were seen: what was masked bounds nothing
    logprobs = tuple(found.get(id, floor) for id in request.label_ids)
    exact = len(seen) == len(logprobs)
    mass = distributions.mass(logprobs) if exact else None
    flags = distributions.mass_flags(mass) if exact else ("labels.bounded",)
    return LabelScores(
        logprobs,
        "vocabulary",
        mass,
        exact,
        route,
        len(request.token_ids),
        (*flags, *distributions.tie_flags([found[id] for id in seen], dtype)),
        attempts,
    )


def refuse_impossible(logprobs: Sequence[float], attempts: int) -> None:
    """Looks at a reading that was put together from several replies, each of them sound.

    Raises:
        AnswerError: their numbers can't be of one distribution.
    """
    try:
        refuse_excess(logprobs)
        if min(logprobs) < NOT_SEEN:
            raise ReplyError("a label of no probability beside the others")
    except ReplyError as error:
        message = f"replies that don't agree: {error}"
        raise AnswerError("server.bad_response", message, (), attempts) from error


class VllmReads:
    """Label reads of vLLM: exact over the vocabulary, whatever the labels' ranks.

    Args:
        group_size: prompts of equal labels in one request.
        dtype: of the model, where it is known: labels may tie in half precision.
    """

    def __init__(self, ask: Ask, *, group_size: int, closes_thinking: bool, dtype: str) -> None:
        self._ask = ask
        self._closes_thinking = closes_thinking
        self._dtype = "bf16" if dtype == "unknown" else dtype  # what Qwen's checkpoints are in
        self._by_id: bool | None = None
        self._top = MOST_ASKED
        self._learning = asyncio.Lock()
        self._batcher: MicroBatcher[ScoreRequest, LabelScores] = MicroBatcher(
            self._read_group,
            size=group_size,
            linger_s=LINGER_S,
            lanes=None,
        )

    async def score(self, request: ScoreRequest) -> LabelScores:
        """The labels' logarithms by the best route."""
        if request.parts:
            return self._whole(await together(*map(self._chat, _cut(request))))
        if self._by_id is None:
            async with self._learning:
                if self._by_id is None:
                    self._by_id = await self._reads_ids(_cut(request)[0])
        if self._by_id:
            asked = (self._batcher.ask(one, one.label_ids) for one in _cut(request))
            return self._whole(await together(*asked))
        return await self._likeliest(request)

    async def _reads_ids(self, request: ScoreRequest) -> bool:
        """Whether tokens come when they are asked for by id; seen twice, lest one bad reply decides.

        A server that does not know the field shows the likeliest tokens, of which hardly all these are.
        """
        asked = replace(request, label_ids=tuple({*request.label_ids, *UNLIKELY}), labels=())
        for _ in range(2):
            try:
                ((found,), _) = await self._ask(self._question([asked], None))
            except AnswerError as error:
                if vllm.most_of(str(error)) is None:
                    raise
                return False  # it takes the ids for a number of likeliest tokens
            if all(id in found for id in asked.label_ids):
                return True
        return False

    async def _read_group(self, requests: Sequence[ScoreRequest]) -> Sequence[LabelScores]:
        asked = list(requests)
        labels = asked[0].label_ids
        question = self._question(asked, None)

        def parse(endpoint: Endpoint, name: str, reply: Reply) -> list[tuple[float, ...]]:
            return [vllm.read_labels(top, labels) for top in question.parse(endpoint, name, reply)]

        found, attempts = await self._ask(Question(question.call, parse, in_company=question.in_company))
        return [self._scores(*one, attempts) for one in zip(asked, found, strict=True)]

    async def _chat(self, request: ScoreRequest) -> LabelScores:
        def call(endpoint: Endpoint, name: str) -> Call:
            return vllm.chat_score_call(
                request, endpoint.served.model, name, closes_thinking=self._closes_thinking
            )

        def parse(endpoint: Endpoint, name: str, reply: Reply) -> tuple[float, ...]:
            found = vllm.parse_chat_top(reply.body, request, endpoint.served.model, name)
            return vllm.read_labels(found, request.label_ids)

        logprobs, attempts = await self._ask(Question(call, parse, pictures=bool(request.images)))
        return self._scores(request, logprobs, attempts)

    async def _likeliest(self, request: ScoreRequest) -> LabelScores:
        while True:
            top = self._top
            try:
                ((found,), attempts) = await self._ask(self._question([request], top))
            except AnswerError as error:
                most = vllm.most_of(str(error))
                if most is None or most >= top:
                    raise
                self._top = min(self._top, most)
            else:
                return bounded(request, found, vllm.TOP_ROUTE, self._dtype, attempts)

    def _question(self, requests: list[ScoreRequest], top: int | None) -> Question[vllm.Tops]:
        def call(endpoint: Endpoint, name: str) -> Call:
            return vllm.score_call(requests, endpoint.served.model, name, top)

        def parse(endpoint: Endpoint, name: str, reply: Reply) -> vllm.Tops:
            return vllm.parse_tops(reply.body, requests, endpoint.served.model, name)

        return Question(call, parse, in_company=self._batcher.size > 1)

    def _scores(self, request: ScoreRequest, logprobs: tuple[float, ...], attempts: int) -> LabelScores:
        tokens = len(request.token_ids)
        return LabelScores(logprobs, "vocabulary", None, True, vllm.ROUTE, tokens, (), attempts)

    def _whole(self, reads: Sequence[LabelScores]) -> LabelScores:
        """One reading of all labels, from those of at most MAX_LABELS each."""
        logprobs = tuple(value for read in reads for value in read.logprobs)
        attempts = sum(read.attempts for read in reads)
        refuse_impossible(logprobs, attempts)
        mass = distributions.mass(logprobs)
        flags = (*distributions.mass_flags(mass), *distributions.tie_flags(logprobs, self._dtype))
        return replace(reads[0], logprobs=logprobs, label_mass=mass, flags=flags, attempts=attempts)

    async def aclose(self) -> None:
        """Gives up what is being asked."""
        await self._batcher.aclose()


def _cut(request: ScoreRequest) -> list[ScoreRequest]:
    """The request, in parts of as many labels as are read at once."""
    if len(request.label_ids) <= vllm.MAX_LABELS:
        return [request]
    places = range(0, len(request.label_ids), vllm.MAX_LABELS)
    return [
        replace(
            request,
            labels=request.labels[place : place + vllm.MAX_LABELS],
            label_ids=request.label_ids[place : place + vllm.MAX_LABELS],
        )
        for place in places
    ]


class _GrammarIgnoredError(Exception):
    """A server without TGI's attention kernels: it shows the likeliest tokens, whatever the grammar."""


class TgiReads:
    """Label reads of TGI: exact among the labels; their mass only by a second read.

    Args:
        prover: knows the default labels that some labels are the first of.
        with_mass: read the likeliest tokens too, from which the mass follows.
    """

    def __init__(self, ask: Ask, prover: Prover, *, with_mass: bool) -> None:
        self._ask = ask
        self._prover = prover
        self._with_mass = with_mass
        self._most = MOST_ASKED
        self._takes_grammars = True
        self._grammars: set[tuple[str, ...]] = set()
        self._learnt = False
        self._learning = asyncio.Lock()

    async def score(self, request: ScoreRequest) -> LabelScores:
        """The labels' logarithms by the best route."""
        if not self._learnt:
            async with self._learning:
                if not self._learnt:
                    scores = await self._score(request)
                    self._learnt = True
                    return scores
        return await self._score(request)

    async def _score(self, request: ScoreRequest) -> LabelScores:
        while True:
            groups, most = self._groups(request.labels), self._most
            try:
                if groups:
                    return await self._by_grammar(request, groups)
                found, attempts = await self._likeliest(request, most)
            except _GrammarIgnoredError as error:
                LOG.debug("%s; its likeliest tokens are read", error)
                self._takes_grammars = False
            except AnswerError as error:
                self._learn(str(error))
                if (groups, most) == (self._groups(request.labels), self._most):
                    raise
            else:
                dtype = distributions.half_precision(list(found.values()))
                return bounded(request, found, tgi.OPEN_ROUTE, dtype, attempts)

    def _learn(self, refusal: str) -> None:
        most = tgi.most_of(refusal)
        if most is not None:
            self._most = min(self._most, most)
        elif tgi.refuses_grammars(refusal):
            self._takes_grammars = False

    def _groups(self, labels: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The grammars to read by; none where there is no way."""
        if not self._takes_grammars:
            return []
        found = grammars(labels, self._prover.alphabet(labels), self._most)
        if len(self._grammars.union(found)) > MOST_GRAMMARS:
            return []
        return found

    async def _by_grammar(self, request: ScoreRequest, groups: list[tuple[str, ...]]) -> LabelScores:
        self._grammars.update(groups)
        ids = dict(zip(request.labels, request.label_ids, strict=True))
        reads = await together(*(self._group(request, group, ids) for group in groups))
        raw: dict[int, float] = {}
        anchor = request.label_ids[0]
        for found, _ in reads:
            shift = found[anchor] - reads[0][0][anchor]
            raw |= {id: value - shift for id, value in found.items() if id not in raw}
        logprobs = distributions.among([raw[id] for id in request.label_ids])
        refuse_impossible(logprobs, sum(attempts for _, attempts in reads))
        values = [value for found, _ in reads for value in found.values()]
        scores = LabelScores(
            logprobs,
            "labels",
            None,
            True,
            tgi.ROUTE if len(groups) == 1 else tgi.GROUPS_ROUTE,
            len(request.token_ids),
            distributions.tie_flags(logprobs, distributions.half_precision(values)),
            sum(attempts for _, attempts in reads),
        )
        return await self._over_vocabulary(request, scores) if self._with_mass else scores

    async def _group(
        self, request: ScoreRequest, group: tuple[str, ...], ids: Mapping[str, int]
    ) -> tuple[dict[int, float], int]:
        """The logarithms of those of the request's labels that are in the group."""
        needed = {ids[label]: label for label in group if label in ids}
        question = self._question(request, allowed(group), group, needed)
        top, attempts = await self._ask(question)
        if top.strange is not None:
            raise _GrammarIgnoredError(
                f"the server shows {top.strange[:40]!r}, which the grammar does not allow"
            )
        return {id: top.found[id] for id in needed}, attempts

    async def _over_vocabulary(self, request: ScoreRequest, scores: LabelScores) -> LabelScores:
        """The same reading with its mass, from a label that is among the likeliest tokens too."""
        found, attempts = await self._likeliest(request, min(self._most, FOR_THE_MASS))
        attempts += scores.attempts
        logprobs = dict(zip(request.label_ids, scores.logprobs, strict=True))
        seen = [id for id in logprobs if id in found]
        if not seen:
            most = len(logprobs) * math.exp(min(found.values()))
            return replace(scores, attempts=attempts, flags=scores.flags + distributions.mass_flags(most))
        best = max(seen, key=logprobs.__getitem__)
        log_mass = found[best] - logprobs[best]
        if log_mass > MASS_ROUNDING:
            message = "a label is likelier among all tokens than among the labels: replies that don't agree"
            raise AnswerError("server.bad_response", message, (), attempts)
        log_mass = min(0.0, log_mass)
        return replace(
            scores,
            logprobs=tuple(value + log_mass for value in scores.logprobs),
            normalised="vocabulary",
            label_mass=math.exp(log_mass),
            flags=scores.flags + distributions.mass_flags(math.exp(log_mass)),
            attempts=attempts,
        )

    async def _likeliest(self, request: ScoreRequest, top_n: int) -> tuple[dict[int, float], int]:
        top, attempts = await self._ask(self._question(request, top_n))
        if not top.found:
            raise AnswerError("server.bad_response", "the server shows no token", (), attempts)
        return top.found, attempts

    def _question(
        self,
        request: ScoreRequest,
        top_n: int,
        grammar: Sequence[str] = (),
        needed: Mapping[int, str] | None = None,
    ) -> Question[tgi.Top]:
        def call(endpoint: Endpoint, name: str) -> Call:
            return tgi.score_call(request, seed_of(name), top_n, grammar)

        def parse(endpoint: Endpoint, name: str, reply: Reply) -> tgi.Top:
            seed = seed_of(name)
            return tgi.parse_top(reply.body, reply.headers, request, seed, needed or {}, grammar)

        return Question(call, parse, pictures=bool(request.images))
