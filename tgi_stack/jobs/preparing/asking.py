"""The backend of a process that prepares rows: it asks the run, which owns the engine or the sockets."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from typing import IO, Any

from cache.store import Store
from tgi_stack.backends.work import Span
from tgi_stack.errors import RowError
from tgi_stack.jobs.preparing.wire import Answer, Plain, answer_of, of_question, packed
from tgi_stack.jobs.tally import Tally
from tgi_stack.prompting.profile import Profile
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

TOGETHER = 16  # questions that are sent without waiting for more: whoever computes is not to wait
RECORDS = 64  # that are: nobody waits for them, and each message costs the run as much as some rows


class Outbox:
    """What goes to the run, in few messages: all of one turn of the event loop, or so many of a kind.

    Attributes:
        store: whose counts go with the records.
    """

    def __init__(self, out: IO[bytes]) -> None:
        self.store: Store | None = None
        self._out = out
        self._questions: list[Plain] = []
        self._of_tier: list[Plain] = []
        self._numbers: list[int] = []
        self._lines: list[bytes] = []
        self._failed: list[int] = []
        self._tally = Tally()
        self._is_due = False

    def ask(self, number: int, kind: str, content: bytes) -> None:
        """Sends a question, with a digest by which the run tells equal ones."""
        asked = blake2b(content, digest_size=16, person=kind.encode()).digest()
        self._questions.append((number, kind, asked, content))
        self._due(len(self._questions), TOGETHER)

    def ask_tier(self, number: int, what: str, about: str | tuple[str, ...], payload: bytes = b"") -> None:
        """Sends what the tier is asked, or told; see `forwarded`."""
        self._of_tier.append((number, what, about, payload))
        self._due(len(self._of_tier), TOGETHER)

    def record(self, number: int, line: bytes, record: dict[str, Any], span: Span | None) -> None:
        """Sends a row's record, as `line_of` writes it, with what went into it; see `spend`."""
        self._numbers.append(number)
        self._lines.append(line)
        if record["status"] != "ok":
            self._failed.append(number)
        self._tally.add(record, span)
        self._due(len(self._numbers), RECORDS)

    def spend(self, prepared_s: float) -> None:
        """Adds what several rows took together."""
        self._tally.spend(prepared_s)

    def send(self, *message: Any) -> None:
        """Sends a message at once."""
        self._out.write(packed(*message))
        self._out.flush()

    def _due(self, waiting: int, most: int) -> None:
        if waiting >= most:
            self.flush()
        elif not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Sends what waits."""
        self._is_due = False
        if self._questions:
            questions, self._questions = self._questions, []
            self.send("questions", questions)
        if self._of_tier:
            asked, self._of_tier = self._of_tier, []
            self.send("tier", asked)
        if self._numbers:
            counts = self._tally.for_merge()
            looked: dict[str, int] = {}
            if self.store is not None:
                looked = dict(self.store.counts)
                self.store.counts.clear()
            lengths = [len(line) for line in self._lines]
            self.send("records", self._numbers, lengths, b"".join(self._lines), self._failed, counts, looked)
            self._numbers, self._lines, self._failed, self._tally = [], [], [], Tally()


class AskingBackend:
    """Stands for the run's backend, in another process."""

    def __init__(
        self, identity: Identity, profile: Profile, *, takes_tokens: bool, width: int, outbox: Outbox
    ) -> None:
        self.identity = identity
        self.profile = profile
        self.takes_tokens = takes_tokens
        self.max_concurrency = width
        self._outbox = outbox
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}

    async def score(self, request: ScoreRequest) -> LabelScores:
        answer = await self._ask("score", of_question(request))
        if not isinstance(answer, LabelScores):
            raise TypeError("no reading")
        return answer

    async def caption(self, request: CaptionRequest) -> Caption:
        answer = await self._ask("caption", of_question(request))
        if not isinstance(answer, Caption):
            raise TypeError("no summary")
        return answer

    async def _ask(self, kind: str, content: bytes) -> Answer:
        self._asked += 1
        future = self._waiting[self._asked] = asyncio.get_running_loop().create_future()
        self._outbox.ask(self._asked, kind, content)
        answer: Answer = await future
        if isinstance(answer, RowError):
            raise answer
        return answer

    def tell(self, number: int, plain: Plain) -> None:
        """The answer to a question, by its number."""
        future = self._waiting.pop(number)
        if not future.done():
            future.set_result(answer_of(plain))

    async def aclose(self) -> None:
        pass


class AskingReplacedBackend(AskingBackend):
    """Stands for a backend for which another answers what it can't answer exactly."""

    async def stand_in(self) -> Identity | None:
        answer = await self._ask("stand_in", b"")
        return answer if isinstance(answer, Identity) else None
