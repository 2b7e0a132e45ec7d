"""Servers as a backend: each question goes to an endpoint, and again elsewhere where that makes sense."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace

from tgi_stack.backends.base import takes_tokens
from tgi_stack.backends.servers import retry
from tgi_stack.backends.servers.blame import ATTEMPTS, OWN, Blame, Row, kind_of
from tgi_stack.backends.servers.dialects import DIALECTS, Reading
from tgi_stack.backends.servers.endpoints import Endpoint, Pool
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import (
    Call,
    ForeignReplyError,
    MismatchError,
    OtherWeightsError,
    error_text,
    shown,
)
from tgi_stack.backends.servers.question import NAME_BITS, Answer, Question
from tgi_stack.backends.servers.retry import Budget, Decision
from tgi_stack.backends.servers.transport import Reply, Transport, TransportError
from tgi_stack.backends.work import Work
from tgi_stack.errors import AnswerError, ServerError, WrongServerError
from tgi_stack.prompting.framing import forced_flags
from tgi_stack.prompting.profile import Profile
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

LOG = logging.getLogger(__name__)

BAD_REPLIES = 3  # of one row, before it fails
DEATHS = 2  # of a server, with one row in flight
MISMATCHES = 3  # rows in a row whose tokens are counted otherwise, and none as it should be
BASE_S, PER_TOKEN_S = 60.0, 0.1  # an attempt's deadline, by the tokens it asks for
ROW_S = 1800.0
HEALTH_S = 5.0
KEY_WANTED = (
    "the server wants a key: give it in FASTQWEN_API_KEY or --api-key-file, and with --api-key-header NAME "
    "where it looks for it elsewhere than in Authorization"
)
PIXEL_LIMITS = (
    "the server makes pictures larger or smaller than the checkpoint says: start it without pixel limits of "
    "its own (--mm-processor-kwargs), or ask for smaller pictures with --max-side"
)


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
        how: Reading | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity
        self.profile = profile
        self.max_concurrency = max_concurrency
        self.takes_tokens = takes_tokens(identity.engine)
        self.work = Work(pool.endpoints)
        self._transport = transport
        self._pool = pool
        self._budget = Budget()
        self._rng = rng or random.Random()  # noqa: S311  # seeded by the system: names must differ, no more
        self._clock = clock
        self._suspects = asyncio.Lock()
        self._blame = Blame(clock)
        self._mismatches: dict[bool, int] = {}  # by whether pictures stand in the question
        self._dialect = DIALECTS[identity.engine]
        served = pool.endpoints[0].served
        self._reads = self._dialect.reads(self._ask, served, profile, identity, how or Reading())

    async def score(self, request: ScoreRequest) -> LabelScores:
        scores = await self._reads.score(request)
        forced = forced_flags(request.prompt, always_thinks=self.profile.always_thinks)
        return replace(scores, flags=scores.flags + forced) if forced else scores

    async def caption(self, request: CaptionRequest) -> Caption:
        def call(endpoint: Endpoint, name: str) -> Call:
            return self._dialect.caption_call(request, endpoint.served, self.profile, name)

        def parse(endpoint: Endpoint, name: str, reply: Reply) -> Caption:
            return self._dialect.parse_caption(reply, request, endpoint.served, name)

        found, attempts = await self._ask(Question(call, parse, pictures=request.image is not None))
        return replace(found, attempts=attempts)

    async def aclose(self) -> None:
        await self._reads.aclose()
        await self._pool.aclose()
        await self._transport.aclose()

    # -- asking ------------------------------------------------------------------------------------------

    async def _ask(self, question: Question[Answer]) -> tuple[Answer, int]:
        """The answer, and how many attempts it took."""
        row = Row()
        until = self._clock() + ROW_S
        self._budget.earn()
        try:
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
        finally:
            self._blame.ended(row)

    async def _once(self, question: Question[Answer], row: Row) -> Answer | None:
        since = time.monotonic()
        endpoint = await self._pool.acquire()
        answer: Answer | None = None
        try:
            with self.work.computing(since):
                answer = await self._attempt(question, endpoint, row)
            return answer
        finally:
            endpoint.answers += answer is not None
            endpoint.misses += answer is None
            self._pool.release(endpoint)

    async def _pause(self, row: Row) -> None:
        """Before a row is sent again. An empty budget slows retries down; it does not lose rows."""
        if row.pauses:
            if not self._budget.take():
                row.pauses += 1
            await self._pool.sleep(retry.pause_s(row.pauses, self._pool.rng))
        elif row.throttled:
            await self._pool.sleep(retry.pause_s(row.throttled, self._pool.rng))

    async def _attempt(self, question: Question[Answer], endpoint: Endpoint, row: Row) -> Answer | None:
        """One try: the answer, or None for another one.

        Raises:
            AnswerError: the row has no hope.
        """
        name = f"{self._rng.getrandbits(NAME_BITS):014x}"
        call = question.call(endpoint, name)
        sent_at = self._clock()
        row.attempts += 1
        try:
            reply = await self._transport.post(endpoint.url, call, BASE_S + PER_TOKEN_S * call.tokens)
        except TransportError as error:
            await self._unanswered(error, endpoint, row, question)
            return None
        if reply.status != 200:
            await self._refused(reply, endpoint, row, sent_at, question)
            return None
        try:
            answer = question.parse(endpoint, name, reply)
        except ReplyError as error:
            reply.discard()
            await self._misread(error, endpoint, row, question)
            return None
        self._pool.answered(endpoint)
        self._blame.answered(row)
        self._mismatches[question.pictures] = -1  # one was right: it is not all of them
        return answer

    async def _unanswered(
        self, error: TransportError, endpoint: Endpoint, row: Row, question: Question[Answer]
    ) -> None:
        decision = retry.of_transport(error.kind, silent_before=row.silent)
        reason = str(error)
        if decision is Decision.ASIDE:
            self._pool.set_aside(endpoint, reason)
        elif decision in (Decision.DOWN, Decision.HERE):
            row.attempts -= 1  # nothing was sent
            if decision is Decision.DOWN:
                self._pool.gone(endpoint, reason)
            else:
                self._pool.short_of_handles(endpoint, reason)
        elif decision is Decision.FREE:
            row.silent = True
            self._blame.failed(row, error.kind)  # no pause, but if it comes again it is the second time
        elif error.kind in ("silent", "broken") and await self._is_dead(endpoint):
            self._died(endpoint, row, reason)
        else:
            await self._again(endpoint, row, f"server.{error.kind}", error.kind, reason, question)

    async def _is_dead(self, endpoint: Endpoint) -> bool:
        try:
            return (await self._transport.get(f"{endpoint.url}{self._dialect.alive}", HEALTH_S)).status != 200
        except TransportError as error:
            return error.kind != "handles"

    def _died(self, endpoint: Endpoint, row: Row, reason: str) -> None:
        """The server went while it had this row: once may be chance, alone and again it is not."""
        self._pool.gone(endpoint, reason)
        row.deaths += (f"{endpoint.url}: {reason}",)
        if len(row.deaths) >= DEATHS:
            evidence = "; ".join(row.deaths)
            raise AnswerError(
                "server.poison", f"the server died each time it was asked: {evidence}", (), row.attempts
            )

    async def _refused(
        self, reply: Reply, endpoint: Endpoint, row: Row, sent_at: float, question: Question[Answer]
    ) -> None:
        decision = retry.of_status(reply.status)
        reason = status_line(reply)
        if decision is Decision.ROW:
            message = f"{endpoint.url} refuses it, {reason}"
            raise AnswerError("server.refused", message, (), row.attempts)
        if decision is Decision.THROTTLED:
            row.throttled += 1
            after_s = retry.retry_after_s(reply.headers.get("Retry-After"), reply.headers.get("Date"))
            self._pool.throttled(endpoint, sent_at, after_s)
        elif decision is Decision.TRANSIENT or await self._pool.is_right(endpoint, reason):
            # A 424 may be the fault of another request in the same batch.
            kind = kind_of(reply.status)
            type = "server.failed" if decision is Decision.TRANSIENT else "server.refused"
            row.alone = kind == "424" and row.met.get(kind, 0) >= 1
            await self._again(endpoint, row, type, kind, reason, question)
        elif endpoint.state == "up":
            self._pool.gone(endpoint, reason)

    async def _misread(
        self, error: ReplyError, endpoint: Endpoint, row: Row, question: Question[Answer]
    ) -> None:
        if isinstance(error, OtherWeightsError):
            self._pool.set_aside(endpoint, str(error))
            return
        if isinstance(error, MismatchError):
            self._mismatched(error, endpoint, row, question.pictures)
        if isinstance(error, ForeignReplyError):
            await self._again(endpoint, row, "server.foreign_response", "foreign", str(error), question)
            return
        row.bad_replies += 1
        self._pool.failed(endpoint, str(error))
        row.pauses += 1
        most = OWN if question.in_company else BAD_REPLIES  # in company it is asked alone after that
        if row.bad_replies >= most and self._alive():
            raise self._given_up("server.bad_response", endpoint, row, str(error))

    def _mismatched(self, error: MismatchError, endpoint: Endpoint, row: Row, pictures: bool) -> None:
        """It would be counted so each time: the row fails at once, and the run where all rows would.

        Raises:
            AnswerError, ServerError: see above.
        """
        cause = f"{error}; {PIXEL_LIMITS}" if pictures else str(error)
        met = self._mismatches.get(pictures, 0)
        if met >= 0:
            self._mismatches[pictures] = met = met + 1
            if met == 1:
                LOG.warning(f"{endpoint.url}: {cause}")
        if met >= MISMATCHES:
            raise ServerError(f"{endpoint.url}: so it is with each row so far: {cause}")
        raise AnswerError("server.mismatch", f"{endpoint.url}: {cause}", (), row.attempts)

    async def _again(
        self, endpoint: Endpoint, row: Row, type: str, kind: str, reason: str, question: Question[Answer]
    ) -> None:
        """Another try is due, or the row has had enough of them: it is to blame, or out of luck.

        Raises:
            AnswerError: the latter.
        """
        self._pool.failed(endpoint, reason)
        self._blame.failed(row, kind)
        row.pauses += 1
        if row.attempts >= ATTEMPTS and self._alive():
            raise self._given_up(type, endpoint, row, reason)
        if row.met[kind] < self._blame.most(row, kind, in_company=question.in_company):
            return
        answers = self._blame.others_answered(row) or await self._pool.is_right(endpoint, reason)
        if answers and self._alive():
            if kind == "slow":
                reason += "; small ones are answered: does the path to it drop large ones (a proxy, the MTU)?"
            raise self._given_up(type, endpoint, row, reason)

    def _given_up(self, type: str, endpoint: Endpoint, row: Row, reason: str) -> AnswerError:
        return AnswerError(type, f"{endpoint.url}, {row.attempts} attempts: {reason}", (), row.attempts)

    def _alive(self) -> bool:
        """Whether some endpoint answers others, as far as is known: only then is it the row's own fault."""
        return any(endpoint.state != "aside" and not endpoint.said_gone for endpoint in self._pool.endpoints)


def status_line(reply: Reply) -> str:
    """A refusal in a line."""
    reason = f"status {reply.status}: {error_text(reply.body)}"
    if reply.status in (401, 403):
        return f"{reason}; {KEY_WANTED}"
    if reply.status in (407, 511):
        return f"{reason}; what stands between wants to know who asks: give --proxy its user and password"
    if 300 <= reply.status < 400:
        place = reply.headers.get("Location", "").encode("utf-8", "surrogateescape")  # any bytes at all
        return f"{reason}; it points elsewhere, to {shown(place)}"
    return reason


async def check(transport: Transport, endpoint: Endpoint, profile: Profile) -> None:
    """Asks an endpoint something whose answer is known: how many tokens a text has.

    Raises:
        WrongServerError: it refuses, its tokenizer is not the profile's, or the answer is another question's.
        TransportError, ReplyError: it does not answer as it should.
    """
    text = "A red mug, 12 cups: 中文 émigré\n\n  three  spaces\tand <nothing> else."
    tokens = len(profile.tokenizer.encode(text))
    name = f"{random.SystemRandom().getrandbits(NAME_BITS):014x}"
    dialect = DIALECTS[endpoint.served.dialect]
    call = dialect.count_call(text, endpoint.served, name)
    reply = await transport.post(endpoint.url, call, BASE_S)
    if retry.of_status(reply.status) is Decision.ASIDE:
        raise WrongServerError(f"{endpoint.url}: {status_line(reply)}")
    if reply.status != 200:
        raise ReplyError(f"status {reply.status}: {error_text(reply.body)}")
    try:
        dialect.parse_count(reply, text, tokens, endpoint.served, name)
    except (ForeignReplyError, MismatchError, OtherWeightsError) as error:
        raise WrongServerError(f"{endpoint.url}: {error}") from error
