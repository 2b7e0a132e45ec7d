"""What is asked about a row of `rerank`: its prompts, as long as they fit the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tgi_stack.answers.contexts import PromptContext, PromptEncoder
from tgi_stack.answers.questions import counted_for_pictures
from tgi_stack.errors import TextError
from tgi_stack.prompting import prompts
from tgi_stack.prompting.prompts import Words
from tgi_stack.prompting.rerankers import JUDGE, document, recipe
from tgi_stack.settings import Settings
from tgi_stack.types import PreparedImage


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate as it stands in a prompt: a text, as `in_list` cuts it, and its image."""

    id: str
    words: Words
    image: PreparedImage | None = None

    @classmethod
    def of(cls, id: str, text: str, image: PreparedImage | None = None) -> Candidate:
        """The candidate of a text."""
        return cls(id, prompts.in_list(text), image)

    @property
    def text(self) -> str:
        """The text."""
        return "".join(self.words)[1:-1]

    @property
    def line(self) -> str:
        """The text behind its image's mark."""
        return self.text if self.image is None else f"{prompts.IMAGE_MARK} {self.text}".rstrip()


@dataclass(frozen=True, slots=True)
class Query:
    """What candidates are ranked for: lines of a history, oldest first, cut as `in_list` does; or a query."""

    history: tuple[Words, ...]
    text: str | None

    @property
    def nothing(self) -> Query:
        """The same kind of question without any content, for calibration."""
        missing = prompts.NO_CONTENT
        return Query((), missing) if self.text is not None else Query((prompts.in_list(missing),), None)


class Prompts:
    """Writes the prompts of `rerank`, as many items of the history in each as fit the context.

    Over it the oldest history goes first, candidates never.
    """

    def __init__(self, encoder: PromptEncoder, settings: Settings, template: str | None) -> None:
        self._encoder = encoder
        self._recipe = recipe(sees=encoder.profile.grid is not None)
        self._instruction = settings.instruction
        self._template = template

    def listwise(
        self, query: Query, candidates: Sequence[Candidate], labels: Sequence[str]
    ) -> tuple[PromptContext, bool]:
        """One prompt that lists all candidates; and whether history was left out.

        Raises:
            TextError: `text.too_long`; what `PromptEncoder.turn` raises.
        """
        for history in _shorter(query.history):
            body = prompts.listwise_body(
                labels,
                [one.words if one.image is None else one.line for one in candidates],
                history=history,
                query=query.text,
                instruction=self._instruction,
                template=self._template,
            )
            context = self._turn(body, candidates)
            if self._fits(context):
                return context, len(history) < len(query.history)
        raise self._too_long(context)

    @property
    def _room(self) -> int:
        """How long a prompt of one candidate may be, in tokens."""
        return min(self._encoder.profile.room(1), self._recipe.longest)

    def pointwise(self, query: Query, candidate: Candidate) -> tuple[PromptContext, bool]:
        """One prompt that asks whether one candidate fits, as rerankers were trained to be asked.

        Where it is too long without any history too, the end of the document goes.

        Raises:
            TextError: as `listwise`.
        """
        for history in _shorter(query.history):
            context = self._judged(query, candidate, history)
            if context.fits(self._room + 1):
                return context, len(history) < len(query.history)
        context = self._judged(query, self._shortened(candidate, context), history)
        if context.fits(self._room + 1):
            return context, True
        raise self._too_long(context)

    def _shortened(self, candidate: Candidate, context: PromptContext) -> Candidate:
        """The candidate without as many of its last tokens as its prompt is too long by."""
        over = len(context.token_ids) + context.counted_more - self._room
        kept = len(self._encoder.profile.tokenizer.encode(candidate.text)) - over
        text = self._encoder.truncate(candidate.text, kept)[0] if kept > 0 else ""
        return Candidate.of(candidate.id, text, candidate.image)

    def _judged(self, query: Query, candidate: Candidate, history: Sequence[Words]) -> PromptContext:
        known = query.text is not None
        wanted = [prompts.one_line(query.text)] if known else prompts.history_block(history)
        if self._template is not None:
            body = prompts.fill(self._template, {"history": wanted, "candidates": [candidate.line]})
            return self._turn(body, [candidate])
        task = self._instruction or (None if known else prompts.RERANK_INSTRUCTION)
        shown = document(candidate.text, image=candidate.image is not None, sees=self._recipe.sees)
        return self._turn(self._recipe.body(wanted, shown, task), [candidate], system=JUDGE)

    def _turn(self, body: Sequence[str], candidates: Sequence[Candidate], system: str = "") -> PromptContext:
        images = [one.image for one in candidates if one.image is not None]
        return self._encoder.turn(body, images, system=system)

    def _fits(self, context: PromptContext) -> bool:
        return context.fits(self._encoder.profile.room(1) + 1)

    def _too_long(self, context: PromptContext) -> TextError:
        room, pictures = self._encoder.profile.room(1), counted_for_pictures(context.counted_more)
        return TextError(
            "text.too_long",
            f"{len(context.token_ids)} tokens without any history{pictures}; a prompt may have {room}; "
            "lower --max-item-tokens, or rank in windows: --window 10",
        )


def _shorter(history: tuple[Words, ...]) -> Iterator[tuple[Words, ...]]:
    """The whole history, then ever less of it: the oldest goes first."""
    return (history[gone:] for gone in range(len(history) + 1))
