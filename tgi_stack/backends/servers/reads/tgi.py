"""Label reads of TGI: of the labels that a grammar allows, in groups where it shows too few tokens at once.

Without grammars its likeliest tokens are read. A server without TGI's attention kernels passes grammars over,
and tells the logarithms of a prompt's own tokens: a label out of sight is read as the last one of a longer
prompt.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tgi_stack.backends.servers.endpoints import Endpoint
from tgi_stack.backends.servers.protocols import tgi
from tgi_stack.backends.servers.protocols.reply import Call
from tgi_stack.backends.servers.question import Ask, Question, seed_of
from tgi_stack.backends.servers.reads.readings import bounded, refuse_impossible
from tgi_stack.backends.servers.transport import Reply
from tgi_stack.concurrency import together
from tgi_stack.errors import AnswerError
from tgi_stack.prompting.labels import Prover, allowed, grammars
from tgi_stack.scoring import distributions
from tgi_stack.types import LabelScores, ScoreRequest

MOST_ASKED = 1024  # likeliest tokens, until the server says that it shows fewer
MOST_GRAMMARS = 32  # that TGI keeps; one more is compiled anew each time, while everybody waits
FOR_THE_MASS = 128  # likeliest tokens: one label among them is enough
# Two reads of one prompt differ by a step of its logits: 1/8 in bf16, between 16 and 32.
MASS_ROUNDING = 0.25

LOG = logging.getLogger(__name__)


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
        self._tells_prompts = True  # of their tokens, until it is seen that it does not
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
                hidden, more = await self._out_of_sight(request, found)
                return bounded(request, found | hidden, tgi.OPEN_ROUTE, dtype, attempts + more)

    async def _out_of_sight(
        self, request: ScoreRequest, found: Mapping[int, float]
    ) -> tuple[dict[int, float], int]:
        """The labels that are not among the likeliest tokens, each read behind the prompt; all or none.

        Some alone would be taken for the least of what is shown, which bounds the others.
        """
        pairs = zip(request.labels, request.label_ids, strict=True)
        hidden = [pair for pair in pairs if pair[1] not in found]
        if not (self._tells_prompts and hidden) or request.images:
            return {}, 0
        reads = [await self._ask(self._completed(request, *hidden[0]))]
        if not reads[0][0].told:
            self._tells_prompts = False
        elif reads[0][0].logprob is not None:
            reads += await together(*(self._ask(self._completed(request, *pair)) for pair in hidden[1:]))
        attempts = sum(attempts for _, attempts in reads)
        values = [read.logprob for read, _ in reads if read.logprob is not None]
        if len(values) < len(hidden):
            return {}, attempts
        if max(values) > min(found.values()) + MASS_ROUNDING:
            message = "a label is likelier than tokens that are shown before it: replies that don't agree"
            raise AnswerError("server.bad_response", message, (), attempts)
        return {id: value for (_, id), value in zip(hidden, values, strict=True)}, attempts

    def _completed(self, request: ScoreRequest, label: str, id: int) -> Question[tgi.Completed]:
        def call(endpoint: Endpoint, name: str) -> Call:
            return tgi.completed_call(request, label, seed_of(name))

        def parse(endpoint: Endpoint, name: str, reply: Reply) -> tgi.Completed:
            return tgi.parse_completed(reply.body, request, id, seed_of(name))

        return Question(call, parse)

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

    async def aclose(self) -> None:
        """Nothing is under way beside what is asked."""
