"""Label reads of SGLang: several prompts by `/v1/score`, else one by `/generate`; exact both ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from tgi_stack.backends.micro_batch import MicroBatcher
from tgi_stack.backends.servers.endpoints import Endpoint
from tgi_stack.backends.servers.protocols import sglang
from tgi_stack.backends.servers.protocols.reply import Call
from tgi_stack.backends.servers.question import Ask, Question
from tgi_stack.backends.servers.reads.readings import LINGER_S, exact, known_dtype
from tgi_stack.backends.servers.transport import Reply
from tgi_stack.errors import AnswerError
from tgi_stack.types import LabelScores, ScoreRequest

LOG = logging.getLogger(__name__)


class SglangReads:
    """Label reads of SGLang, whatever the labels' ranks.

    `/v1/score` takes no images and no added tokens as labels; it counts other tokens where several prompts
    share a pass, and proves nothing where a gateway writes its own model's name into requests. Whatever it
    can't answer `/generate` is asked.

    Args:
        group_size: prompts in one request.
        scores: whether `/v1/score` is of use at all.
        dtype: of the model, where it is known: labels may tie in half precision.
    """

    def __init__(self, ask: Ask, *, group_size: int, scores: bool, dtype: str) -> None:
        self._ask = ask
        self._dtype = known_dtype(dtype)
        self._scores = scores
        self._scored = False  # once, at least
        self._learning = asyncio.Lock()
        self._batcher: MicroBatcher[ScoreRequest, LabelScores] = MicroBatcher(
            self._read_group, size=group_size, linger_s=LINGER_S, lanes=None
        )

    async def score(self, request: ScoreRequest) -> LabelScores:
        """The labels' logarithms by the best route."""
        if request.images or not self._scores:
            return await self._generate(request)
        if self._scored:
            return await self._scored_or_instead(request)
        async with self._learning:
            return await (self._scored_or_instead(request) if self._scores else self._generate(request))

    async def _scored_or_instead(self, request: ScoreRequest) -> LabelScores:
        try:
            found = await self._batcher.ask(request)
        except AnswerError as error:
            if self._scored and not sglang.beyond_vocabulary(str(error)):
                raise
            return await self._instead(request, error)
        self._scored = True
        return found

    async def _instead(self, request: ScoreRequest, refusal: AnswerError) -> LabelScores:
        """By `/generate`, of a server that has answered no read by `/v1/score` yet.

        Raises:
            AnswerError: neither answers: it is the row.
        """
        try:
            found = await self._generate(request)
        except AnswerError:
            raise refusal from None
        if self._scores and not self._scored and not sglang.beyond_vocabulary(str(refusal)):
            self._scores = False
            LOG.info(f"no reads by {sglang.SCORE} ({refusal}); {sglang.GENERATE} is asked instead")
        return found

    async def _read_group(self, requests: Sequence[ScoreRequest]) -> Sequence[LabelScores]:
        def call(endpoint: Endpoint, name: str) -> Call:
            return sglang.score_call(requests, endpoint.served.model, name)

        def parse(endpoint: Endpoint, name: str, reply: Reply) -> list[tuple[float, ...]]:
            return sglang.parse_scores(reply.body, requests, endpoint.served.model, name)

        found, attempts = await self._ask(Question(call, parse, in_company=self._batcher.size > 1))
        pairs = zip(requests, found, strict=True)
        return [exact(one, logprobs, sglang.ROUTE, attempts, self._dtype) for one, logprobs in pairs]

    async def _generate(self, request: ScoreRequest) -> LabelScores:
        def call(endpoint: Endpoint, name: str) -> Call:
            return sglang.generate_call(request, name)

        def parse(endpoint: Endpoint, name: str, reply: Reply) -> tuple[float, ...]:
            return sglang.parse_generate(reply.body, request, endpoint.served, name)

        found, attempts = await self._ask(Question(call, parse, pictures=bool(request.images)))
        return exact(request, found, sglang.GENERATE_ROUTE, attempts, self._dtype)

    async def aclose(self) -> None:
        """Gives up what is being asked."""
        await self._batcher.aclose()
