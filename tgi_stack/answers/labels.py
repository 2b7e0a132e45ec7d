"""Label readings by their prompts: any part of the labels that were read is answered without asking again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import asdict

from cache.keys import Keys
from cache.store import Store
from tgi_stack.answers.audit_questions import BROUGHT, AuditQuestions
from tgi_stack.answers.identities import Identities, of_identity
from tgi_stack.answers.kept import Kept
from tgi_stack.answers.questions import LabelQuestion
from tgi_stack.answers.tables import STOOD_IN, LabelTable
from tgi_stack.answers.turns import Turn
from tgi_stack.errors import RowError
from tgi_stack.settings import Settings
from tgi_stack.types import Identity, LabelScores, ScoreRequest


class LabelAnswers:
    """What is kept of readings, of the one who is asked and of whoever stands in for it.

    What another gave in the place of who was asked is kept under that one's identity too.

    Attributes:
        misses_stand_in: whether somebody stood in before, and it is not known who would now.
    """

    def __init__(self, store: Store | None, identity: Identity, settings: Settings) -> None:
        # Another read tells TGI's mass; other engines know it anyway.
        self._shared = of_identity(identity) | {
            "label_mass": settings.label_mass and identity.engine == "tgi"
        }
        self._keys = Keys("labels", self._shared, identity.revision)
        self._stand_in: Keys | None = None
        self._identity = identity
        self._fallback = settings.fallback
        self._kept: Kept[LabelTable] = Kept(store, "labels", LabelTable)
        self._questions = AuditQuestions(store)
        allowed = settings.fallback in (None, "torch")
        self.misses_stand_in = allowed and store is not None and Identities(store).stood_in(identity)

    def tell_stand_in(self, by: Identity | None) -> None:
        """Who answers what the one who is asked can't; telling it may take seconds."""
        self.misses_stand_in = False
        if by is not None and self._stand_in is None:
            stand_in = json.dumps(asdict(by), sort_keys=True)
            shared = {**self._shared, "stand_in": stand_in}
            self._stand_in = Keys("labels", shared, self._identity.revision)

    def asked(self, question: LabelQuestion) -> str:
        """What equal questions have in common: rows that ask other labels don't wait for each other."""
        return f"{_own(self._keys, question)} {self._fallback}"

    def known(self, question: LabelQuestion, *, again: bool = False) -> LabelScores | None:
        """The reading that is kept, or None; looking `again` is not counted as a miss."""
        scores = self._known(self._keys, question, again=again, stood_in=False)
        if scores is None and self._stand_in is not None:
            scores = self._known(self._stand_in, question, again=True, stood_in=True)
        return scores

    def _known(
        self, keys: Keys, question: LabelQuestion, *, again: bool, stood_in: bool
    ) -> LabelScores | None:
        labels = question.labels
        table = self._kept.known(question.context.key(keys), again=again)
        if table is None:
            return None
        if not self._tells(table, labels, stood_in=stood_in):
            table = self._kept.known(_own(keys, question), again=True)
            if table is None or not self._tells(table, labels, stood_in=stood_in):
                return None
        return table.scores(labels)

    def _tells(self, found: LabelTable, labels: tuple[str, ...], *, stood_in: bool) -> bool:
        # A label that stands twice is an error, which is computed.
        if (STOOD_IN in found.flags) != stood_in or len(set(labels)) != len(labels):
            return False
        return found.holds(labels, self._fallback)

    @property
    def has_tier(self) -> bool:
        """Whether answers may be further away, too."""
        return self._kept.has_tier

    async def brought(self, question: LabelQuestion) -> LabelScores | None:
        """The reading that the tier has, or None."""
        labels = question.labels
        for keys, stood_in in ((self._keys, False), (self._stand_in, True)):
            table = None if keys is None else await self._kept.brought(question.context.key(keys))
            if keys is not None and table is not None and not self._tells(table, labels, stood_in=stood_in):
                table = await self._kept.brought(_own(keys, question))
            if table is not None and self._tells(table, labels, stood_in=stood_in):
                self._keep_some(question)
                return table.scores(labels)
        return None

    def alone(self, question: LabelQuestion, turn: Turn[LabelScores]) -> AbstractAsyncContextManager[None]:
        """Gives the turn what was read meanwhile; with a tier, other machines are kept from asking."""
        if turn.answer is None and turn.leased:
            turn.answer = self.known(question, again=True)
        asks = turn.answer is None and self._kept.has_tier
        return self._alone(question, turn) if asks else nullcontext()

    @asynccontextmanager
    async def _alone(self, question: LabelQuestion, turn: Turn[LabelScores]) -> AsyncIterator[None]:
        labels, key = question.labels, question.context.key(self._keys)
        table = await self._kept.claimed(key)
        try:
            if table is not None and self._tells(table, labels, stood_in=False):
                turn.answer = table.scores(labels)
            yield
        finally:
            self._kept.release(key)

    def _keep_some(self, question: LabelQuestion) -> None:
        """Keeps the question of one answer in many that came from the tier, so that it can be asked again."""
        key = question.context.key(self._keys)
        if self._questions.wants(key, BROUGHT):
            with suppress(RowError):  # an answer that this machine could not ask for
                asked = question.prepared(several_tokens=False).requests[0]
                if not asked.parts:
                    self._questions.keep(key, self._identity, asked)

    def keep(
        self, question: LabelQuestion, asked: ScoreRequest, scores: LabelScores, turn: Turn[LabelScores]
    ) -> None:
        """Keeps a new reading, joined with what is known of its prompt, or each in its place.

        Args:
            asked: the first read, which is all where each label is one token.
        """
        if scores.stand_in is not None:
            self.tell_stand_in(scores.stand_in)
        keys = self._keys if scores.stand_in is None else self._stand_in or self._keys
        key = question.context.key(keys)
        found, known = LabelTable.of(question.labels, scores), self._kept.known(key, again=True)
        whole = found if known is None else found.with_more(known)
        if whole is not None:
            self._kept.keep(key, whole, turn)
        if whole is None or (known is not None and self.has_tier):  # where the first table is not replaced
            self._kept.keep(_own(keys, question), found, turn)
        asks = asked.labels and not asked.parts and scores.stand_in is None
        if asks and self._questions.wants(key):
            self._questions.keep(key, self._identity, asked)


def _own(keys: Keys, question: LabelQuestion) -> str:
    """The key for readings of a prompt that are no one table."""
    return keys.key(**question.context.described, labels=json.dumps(question.labels))
