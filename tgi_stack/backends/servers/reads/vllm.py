"""Label reads of vLLM: by their ids; of an older one by its likeliest tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from tgi_stack.backends.micro_batch import MicroBatcher
from tgi_stack.backends.servers.endpoints import Endpoint
from tgi_stack.backends.servers.protocols import vllm
from tgi_stack.backends.servers.protocols.reply import Call
from tgi_stack.backends.servers.question import Ask, Question
from tgi_stack.backends.servers.reads.readings import LINGER_S, bounded, known_dtype, whole
from tgi_stack.backends.servers.transport import Reply
from tgi_stack.concurrency import together
from tgi_stack.errors import AnswerError
from tgi_stack.types import LabelScores, ScoreRequest

MOST_ASKED = 1024  # likeliest tokens, until the server says that it shows fewer
UNLIKELY = (177, 178, 188, 189, 190)  # parts of characters, which no answer begins with


class VllmReads:
    """Label reads of vLLM: exact over the vocabulary, whatever the labels' ranks.

    Args:
        group_size: prompts of equal labels in one request.
        dtype: of the model, where it is known: labels may tie in half precision.
    """

    def __init__(self, ask: Ask, *, group_size: int, closes_thinking: bool, dtype: str) -> None:
        self._ask = ask
        self._closes_thinking = closes_thinking
        self._dtype = known_dtype(dtype)
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
            return whole(await together(*map(self._chat, _cut(request))), self._dtype)
        if self._by_id is None:
            async with self._learning:
                if self._by_id is None:
                    self._by_id = await self._reads_ids(_cut(request)[0])
        if self._by_id:
            asked = (self._batcher.ask(one, one.label_ids) for one in _cut(request))
            return whole(await together(*asked), self._dtype)
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
