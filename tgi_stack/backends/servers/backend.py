"""Servers as a backend: each question goes to an endpoint, and again elsewhere where that makes sense."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tgi_stack.backends.servers import retry
from tgi_stack.backends.servers.endpoints import Endpoint, Pool
from tgi_stack.backends.servers.label_routes import TgiReads, VllmReads
from tgi_stack.backends.servers.protocols import tgi, vllm
from tgi_stack.backends.servers.protocols.reply import Call, ForeignReplyError, ReplyError, error_text
from tgi_stack.backends.servers.question import Answer, Question, seed_of
from tgi_stack.backends.servers.retry import Budget, Decision
from tgi_stack.backends.servers.transport import Reply, Transport, TransportError
from tgi_stack.errors import AnswerError, WrongServerError
from tgi_stack.prompting.labels import Prover
from tgi_stack.prompting.profile import Profile
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

ATTEMPTS = 10  # of 10,000 rows with three of ten attempts failing, none fails for it
CONTAGIOUS = 3  # attempts at a 424
BAD_REPLIES = 3  # of one row, before it fails
DEATHS = 2  # of a server, with one row in flight
BASE_S, PER_TOKEN_S = 60.0, 0.1  # an attempt's deadline, by the tokens it asks for
ROW_S = 1800.0
HEALTH_S = 5.0


@dataclass
class _Row:
    """What has happened to a question so far."""

    attempts: int = 0
    pauses: int = 0
    bad_replies: int = 0
    silent: bool = False
    alone: bool = False
    deaths: tuple[str, ...] = ()


class ServedBackend:
    """One or more servers that hold the same model."""

    def __init__(
        self,
        transport: Transport,
        pool: Pool,
        identity: Identity,
        profile: Profile,
        max_concurrency: int,
        *,
        group_size: int = 1,
        with_mass: bool = False,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self.profile = profile
        self.max_concurrency = max_concurrency
        self.takes_tokens = identity.engine == "vllm"
        self._transport = transport
        self._pool = pool
        self._budget = Budget()
        self._rng = rng or random.SystemRandom()
        self._clock = clock
        self._suspects = asyncio.Lock()
        self._reads: VllmReads | TgiReads
        if identity.engine == "tgi":
            prover = Prover(profile.tokenizer.encode)
            self._reads = TgiReads(self._ask, prover.alphabet, with_mass=with_mass)
        else:
            self._reads = VllmReads(
                self._ask,
                group_size=group_size,
                closes_thinking=profile.closes_thinking,
                dtype=identity.dtype,
            )

    async def score(self, request: ScoreRequest) -> LabelScores:
        return await self._reads.score(request)

    async def caption(self, request: CaptionRequest) -> Caption:
        found, attempts = await self._ask(Question(self._caption_call(request), self._caption_parse(request)))
        return replace(found, attempts=attempts)

    async def aclose(self) -> None:
        if isinstance(self._reads, VllmReads):
            await self._reads.aclose()
        await self._pool.aclose()
        await self._transport.aclose()

    # -- dialects ----------------------------------------------------------------------------------------

    def _caption_call(self, request: CaptionRequest) -> Callable[[Endpoint, str], Call]:
        def call(endpoint: Endpoint, name: str) -> Call:
            if endpoint.served.dialect == "tgi":
                return tgi.caption_call(request)
            closes = self.profile.closes_thinking
            return vllm.caption_call(request, endpoint.served.model, name, closes_thinking=closes)

        return call

    def _caption_parse(self, request: CaptionRequest) -> Callable[[Endpoint, str, Reply], Caption]:
        def parse(endpoint: Endpoint, name: str, reply: Reply) -> Caption:
            if endpoint.served.dialect == "tgi":
                return tgi.parse_caption(reply.body, reply.headers, request)
            return vllm.parse_caption(reply.body, request, endpoint.served.model, name)

        return parse

    # -- asking ------------------------------------------------------------------------------------------

    async def _ask(self, question: Question[Answer]) -> tuple[Answer, int]:
        """The answer, and how many attempts it took."""
        row = _Row()
        until = self._clock() + ROW_S
        self._budget.earn()
        while True:
            if row.deaths or row.alone:  # one at a time: the next failure is its own or nobody's
                async with self._suspects:
                    answer = await self._once(question, row)
            else:
                answer = await self._once(question, row)
            if answer is not None:
                return answer, row.attempts
            if self._clock() > until:
                raise AnswerError("server.deadline", f"no answer within {ROW_S:.0f} s", (), row.attempts)
            await self._pause(row)

    async def _once(self, question: Question[Answer], row: _Row) -> Answer | None:
        endpoint = await self._pool.acquire()
        try:
            return await self._attempt(question, endpoint, row)
        finally:
            self._pool.release(endpoint)

    async def _pause(self, row: _Row) -> None:
        """Before a row is sent again. An empty budget slows retries down; it does not lose rows."""
        if row.pauses:
            if not self._budget.take():
                row.pauses += 1
            await self._pool.sleep(retry.pause_s(row.pauses, self._pool.rng))

    async def _attempt(self, question: Question[Answer], endpoint: Endpoint, row: _Row) -> Answer | None:
        """One try: the answer, or None for another one.

        Raises:
            AnswerError: the row has no hope.
        """
        name = f"{self._rng.getrandbits(tgi.SEED_BITS):014x}"
        call = question.call(endpoint, name)
        sent_at = self._clock()
        row.attempts += 1
        try:
            reply = await self._transport.post(endpoint.url, call, BASE_S + PER_TOKEN_S * call.tokens)
        except TransportError as error:
            await self._unanswered(error, endpoint, row)
            return None
        if reply.status != 200:
            self._refused(reply, endpoint, row, sent_at)
            return None
        try:
            answer = question.parse(endpoint, name, reply)
        except ReplyError as error:
            reply.discard()
            self._misread(error, endpoint, row)
            return None
        self._pool.answered(endpoint)
        return answer

    async def _unanswered(self, error: TransportError, endpoint: Endpoint, row: _Row) -> None:
        decision = retry.of_transport(error.kind, silent_before=row.silent)
        reason = str(error)
        if decision is Decision.ASIDE:
            self._pool.set_aside(endpoint, reason)
        elif decision is Decision.DOWN:
            row.attempts -= 1  # nothing was sent
            self._pool.gone(endpoint, reason)
        elif decision is Decision.FREE:
            row.silent = True
        elif error.kind in ("silent", "broken") and await self._is_dead(endpoint):
            self._died(endpoint, row, reason)
        else:
            self._again(endpoint, row, f"server.{error.kind}", reason)

    async def _is_dead(self, endpoint: Endpoint) -> bool:
        try:
            return (await self._transport.get(f"{endpoint.url}/health", HEALTH_S)).status != 200
        except TransportError:
            return True

    def _died(self, endpoint: Endpoint, row: _Row, reason: str) -> None:
        """The server went while it had this row: once may be chance, alone and again it is not."""
        self._pool.gone(endpoint, reason)
        row.deaths += (f"{endpoint.url}: {reason}",)
        if len(row.deaths) >= DEATHS:
            evidence = "; ".join(row.deaths)
            raise AnswerError(
                "server.poison", f"the server died each time it was asked: {evidence}", (), row.attempts
            )

    def _refused(self, reply: Reply, endpoint: Endpoint, row: _Row, sent_at: float) -> None:
        decision = retry.of_status(reply.status)
        reason = f"status {reply.status}: {error_text(reply.body)}"
        if decision is Decision.ROW:
            message = f"{endpoint.url} refuses it, {reason}"
            raise AnswerError("server.refused", message, (), row.attempts)
        if decision is Decision.ASIDE:
            self._pool.set_aside(endpoint, reason)
        elif decision is Decision.THROTTLED:
            after_s = retry.retry_after_s(reply.headers.get("Retry-After"))
            self._pool.throttled(endpoint, sent_at, after_s)
        else:
            # A 424 may be the fault of another request in the same batch.
            row.alone = reply.status == 424 and row.attempts == CONTAGIOUS - 1
            most = CONTAGIOUS if reply.status == 424 else ATTEMPTS
            self._again(endpoint, row, "server.failed", reason, most)

    def _misread(self, error: ReplyError, endpoint: Endpoint, row: _Row) -> None:
        if isinstance(error, ForeignReplyError):
            self._again(endpoint, row, "server.foreign_response", str(error))
            return
        row.bad_replies += 1
        # As many attempts as there were, and those that are left of the replies that may be bad.
        most = row.attempts + BAD_REPLIES - row.bad_replies
        self._again(endpoint, row, "server.bad_response", str(error), most)

    def _again(self, endpoint: Endpoint, row: _Row, type: str, reason: str, most: int = ATTEMPTS) -> None:
        """Another try is due, or the row has had enough of them."""
        self._pool.failed(endpoint, reason)
        row.pauses += 1
        if row.attempts >= most and self._alive():
            raise AnswerError(type, f"{endpoint.url}, {row.attempts} attempts: {reason}", (), row.attempts)

    def _alive(self) -> bool:
        """Whether some endpoint answers others: only then is it the row's own fault."""
        return any(endpoint.state == "up" for endpoint in self._pool.endpoints)


async def check(transport: Transport, endpoint: Endpoint, profile: Profile) -> None:
    """Asks an endpoint something whose answer is known: how many tokens a text has.

    Raises:
        WrongServerError: it refuses, or its tokenizer is not the profile's.
        TransportError, ReplyError: it does not answer as it should.
    """
    text = "A red mug, 12 cups: 中文 émigré\n\n  three  spaces\tand <nothing> else."
    tokens = len(profile.tokenizer.encode(text))
    name = f"{random.SystemRandom().getrandbits(tgi.SEED_BITS):014x}"
    is_tgi = endpoint.served.dialect == "tgi"
    call = (
        tgi.count_call(text, seed_of(name)) if is_tgi else vllm.count_call(text, endpoint.served.model, name)
    )
    reply = await transport.post(endpoint.url, call, BASE_S)
    if retry.of_status(reply.status) is Decision.ASIDE:
        raise WrongServerError(f"{endpoint.url}: status {reply.status}: {error_text(reply.body)}")
    if reply.status != 200:
        raise ReplyError(f"status {reply.status}: {error_text(reply.body)}")
    try:
        if is_tgi:
            tgi.parse_count(reply.body, reply.headers, tokens)
        else:
            vllm.parse_count(reply.body, endpoint.served.model, name, tokens)
    except ForeignReplyError as error:
        raise WrongServerError(f"{endpoint.url}: {error}") from error
