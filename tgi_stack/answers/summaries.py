"""Summaries by what is asked, about which bytes, and how they are sampled."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import asdict, replace

from cache.keys import Keys
from cache.store import Store
from tgi_stack.answers import checks
from tgi_stack.answers.audit_questions import BROUGHT, AuditQuestions
from tgi_stack.answers.identities import of_identity
from tgi_stack.answers.images import measures, of_measures, recipe
from tgi_stack.answers.kept import Kept
from tgi_stack.answers.questions import SummaryQuestion
from tgi_stack.answers.turns import Turn
from tgi_stack.errors import RowError
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.forms import digest_of
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity


class SummaryCodec:
    """A caption and the measures of what was seen for it, without the pixels."""

    @staticmethod
    def encode(caption: Caption) -> bytes:
        seen = None if caption.image is None else measures(caption.image)
        told = asdict(replace(caption, image=None))
        del told["image"], told["from_cache"]
        return json.dumps([told, seen], ensure_ascii=False).encode("utf-8", "surrogatepass")

    @staticmethod
    def decode(payload: bytes) -> Caption:
        """Raises ValueError, KeyError, TypeError or RecursionError for what is no summary."""
        told, seen = json.loads(payload.decode("utf-8", "surrogatepass"))
        checks.refuse(told["finish_reason"] not in ("stop", "length"), "finish_reason")
        return Caption(
            checks.text(told["text"], "text"),
            told["finish_reason"],
            checks.text(told["route"], "route"),
            checks.count(told["prompt_tokens"], "prompt_tokens"),
            checks.count(told["completion_tokens"], "completion_tokens"),
            attempts=0,
            image=None if seen is None else of_measures(b"", seen),
            from_cache=True,
        )


class SummaryAnswers:
    """What is kept of summaries.

    Attributes:
        keeps: whether an answer is one to keep: another draw each time is not.
    """

    def __init__(
        self, store: Store | None, identity: Identity, settings: Settings, grid: Grid | None
    ) -> None:
        sampled = settings.temperature > 0
        shared = of_identity(identity) | {
            "max_new_tokens": settings.new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed if sampled else None,
        }
        seen = {} if grid is None else recipe(grid, settings)
        self._keys = Keys("summary", shared | seen, identity.revision)
        self._images = None if grid is None else Keys("image", seen)
        self._identity = identity
        self._kept: Kept[Caption] = Kept(store, "summary", SummaryCodec)
        self._questions = AuditQuestions(None if sampled else store)
        self.keeps = not sampled or settings.seed is not None

    def asked(self, question: SummaryQuestion) -> str:
        """The key of a question: its turn's body, the digest of its image's file, and its schema's."""
        form = question.writer.form
        told = {} if form is None else {"schema": digest_of(form)}
        return self._keys.key(body=question.body, image=question.sha256, **told)

    def known(self, question: SummaryQuestion, *, again: bool = False) -> Caption | None:
        """The summary that is kept, or None; looking `again` is not counted as a miss."""
        return self._kept.known(self.asked(question), again=again)

    def keep(
        self, question: SummaryQuestion, asked: CaptionRequest, caption: Caption, turn: Turn[Caption]
    ) -> None:
        """Keeps a new summary, and of some what was asked."""
        key = self.asked(question)
        if self._questions.wants(key):
            self._questions.keep(key, self._identity, asked, self._image(question))
        self._kept.keep(key, caption, turn)

    def _image(self, question: SummaryQuestion) -> str | None:
        sha256 = question.sha256
        return None if sha256 is None or self._images is None else self._images.key(sha256=sha256)

    @property
    def has_tier(self) -> bool:
        """Whether answers may be further away, too."""
        return self._kept.has_tier

    async def brought(self, question: SummaryQuestion) -> Caption | None:
        """The summary that the tier has, or None."""
        key = self.asked(question)
        caption = await self._kept.brought(key)
        if caption is not None and self._questions.wants(key, BROUGHT):
            with suppress(RowError):  # an answer that this machine could not ask for
                self._questions.keep(key, self._identity, await question.prepared(), self._image(question))
        return caption

    def alone(self, question: SummaryQuestion, turn: Turn[Caption]) -> AbstractAsyncContextManager[None]:
        """Gives the turn what was written meanwhile; with a tier, other machines are kept from asking."""
        if turn.answer is None and turn.leased:
            turn.answer = self.known(question, again=True)
        return self._alone(question, turn) if turn.answer is None and self.has_tier else nullcontext()

    @asynccontextmanager
    async def _alone(self, question: SummaryQuestion, turn: Turn[Caption]) -> AsyncIterator[None]:
        key = self.asked(question)
        turn.answer = await self._kept.claimed(key)
        try:
            yield
        finally:
            self._kept.release(key)
