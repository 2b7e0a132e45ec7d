"""A backend that remembers: what is known is not asked again, and equal questions are asked once."""

from __future__ import annotations

from dataclasses import replace

from cache.store import Store
from tgi_stack.answers.images import without_pixels
from tgi_stack.answers.labels import LabelAnswers
from tgi_stack.answers.questions import LabelQuestion, SummaryQuestion
from tgi_stack.answers.summaries import SummaryAnswers
from tgi_stack.answers.tables import LabelTable
from tgi_stack.answers.turns import Turn, Turns
from tgi_stack.backends.base import Backend, Replaced
from tgi_stack.backends.work import asking
from tgi_stack.concurrency import together
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, LabelScores

REMEMBERED = 4096  # answers in memory, for equal questions at the same time


class CachedBackend:
    """Stands before a backend and asks it what is not known.

    A question is prepared where its answer is not known: its prompt is encoded, its labels are proven, its
    image is decoded.

    Args:
        store: where answers are kept; None to remember them in memory alone.
    """

    def __init__(self, inner: Backend, store: Store | None, settings: Settings) -> None:
        self.identity = inner.identity
        self.profile = inner.profile
        self.max_concurrency = inner.max_concurrency
        self.takes_tokens = inner.takes_tokens
        self._inner = inner
        self._labels = LabelAnswers(store, inner.identity, settings)
        self._summaries = SummaryAnswers(store, inner.identity, settings, inner.profile.grid)
        self._scores: Turns[LabelScores] = Turns(store, "labels", memory=REMEMBERED)
        self._captions: Turns[Caption] = Turns(store, "summary", memory=REMEMBERED)

    async def score(self, question: LabelQuestion, along: tuple[str, ...] = ()) -> LabelScores:
        """The labels' logarithms; of labels of several tokens by the chain rule over their prefix tree.

        Args:
            along: labels that are asked next where these have little mass. An engine of this process reads
                them in the same pass, and remembers them.

        Raises:
            RowError: see `LabelQuestion.prepared`, and what the backend raises.
        """
        labels, inner = self._labels, self._inner
        known = labels.known(question)
        if known is None and labels.misses_stand_in and isinstance(inner, Replaced):
            labels.tell_stand_in(await inner.stand_in())
            known = labels.known(question, again=True)
        if known is None and labels.has_tier:
            known = await labels.brought(question)
        if known is not None:
            return known
        async with self._scores.turn(labels.asked(question)) as turn, labels.alone(question, turn):
            if turn.answer is None and labels.has_tier:
                await question.context.bring()
            if turn.answer is None:
                turn.answer = await self._read(question, along, turn)
            return turn.answer

    async def _read(
        self, question: LabelQuestion, along: tuple[str, ...], turn: Turn[LabelScores]
    ) -> LabelScores:
        inner, here = self._inner, self.identity.engine == "torch"
        asked = question.prepared(several_tokens=self.takes_tokens, along=along if here else ())
        if asked.wide is not None:
            with asking():
                read = await inner.score(asked.wide)
            table = LabelTable.of(asked.wide.labels, read)
            answer = replace(table.scores(question.labels), attempts=read.attempts, from_cache=False)
            if distributions.mass_flags(answer.label_mass):
                others = replace(question, labels=along)
                self._scores.remember(
                    self._labels.asked(others), replace(table.scores(along), from_cache=False)
                )
                self._labels.keep(replace(question, labels=table.labels), asked.wide, read, turn)
                return answer
        elif len(asked.requests) == 1:
            with asking():
                answer = await inner.score(asked.requests[0])
        else:
            with asking():
                answer = asked.joined(await together(*map(inner.score, asked.requests)))
        self._labels.keep(question, asked.requests[0], answer, turn)
        return answer

    async def caption(self, question: SummaryQuestion) -> Caption:
        """The summary, with its image as far as it is known.

        Raises:
            RowError: see `SummaryQuestion.prepared`, and what the backend raises.
        """
        summaries, inner = self._summaries, self._inner
        if not summaries.keeps:
            request = await question.prepared()
            with asking():
                return _held(question, request, await inner.caption(request))
        known = summaries.known(question)
        if known is None and summaries.has_tier:
            known = await summaries.brought(question)
        if known is not None:
            return known
        async with self._captions.turn(summaries.asked(question)) as turn, summaries.alone(question, turn):
            if turn.answer is None:
                request = await question.prepared()
                with asking():
                    turn.answer = _held(question, request, await inner.caption(request))
                summaries.keep(question, request, turn.answer, turn)
            return turn.answer


def _held(question: SummaryQuestion, request: CaptionRequest, answer: Caption) -> Caption:
    """A new answer, held to its form before it is kept."""
    return replace(question.checked(answer), image=without_pixels(request.image))
