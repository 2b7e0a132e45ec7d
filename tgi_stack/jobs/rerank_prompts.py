"""What is asked about a row of `rerank`: its prompts, as long as they fit the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tgi_stack.errors import TextError
from tgi_stack.jobs.label_reader import Place, Reader
from tgi_stack.prompting import prompts
from tgi_stack.settings import Settings
from tgi_stack.types import PreparedImage


@dataclass(frozen=True, slots=True)
class Shown:
    """A candidate as it stands in a prompt: a line of text (with its image's mark), and the image."""

    id: str
    line: str
    image: PreparedImage | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What candidates are ranked for: the lines of a history, oldest first, or a query."""

    history: tuple[str, ...]
    query: str | None

    @property
    def nothing(self) -> Asked:
        """The same kind of question without any content, for calibration."""
        missing = prompts.NO_CONTENT
        return Asked((), missing) if self.query is not None else Asked((missing,), None)


class Prompts:
    """Writes the prompts of `rerank`.

    `context` is in tokens. Over it the oldest history goes first, candidates never.
    """

    def __init__(self, reader: Reader, context: int, settings: Settings, template: str | None) -> None:
        self._reader = reader
        self._context = context
        self._instruction = settings.instruction
        self._template = template

    def listwise(self, asked: Asked, shown: Sequence[Shown], labels: Sequence[str]) -> tuple[Place, bool]:
        """One prompt that lists all candidates; and whether history was left out.

        Raises:
            TextError: `text.too_long`; what `Profile.turn` raises.
        """

        def place(history: Sequence[str]) -> Place:
            body = prompts.listwise_body(
                labels,
                [one.line for one in shown],
                history=history,
                query=asked.query,
                instruction=self._instruction,
                template=self._template,
            )
            return self._place(body, shown)

        return self._fitting(place, asked.history)

    def pointwise(self, asked: Asked, shown: Shown) -> tuple[Place, bool]:
        """One prompt that asks whether one candidate fits, as Qwen3-Reranker was trained to be asked."""

        def place(history: Sequence[str]) -> Place:
            known = asked.query is not None
            query = prompts.one_line(asked.query) if known else prompts.history_block(history)
            if self._template is not None:
                body = prompts.fill(self._template, {"history": query, "candidates": shown.line})
                return self._place(body, [shown])
            task = self._instruction or (None if known else prompts.RERANK_INSTRUCTION)
            body = prompts.pointwise_body(query, shown.line, instruction=task)
            return self._place(body, [shown], system=prompts.JUDGE)

        return self._fitting(place, asked.history)

    def _place(self, body: str, shown: Sequence[Shown], system: str = "") -> Place:
        images = [one.image for one in shown if one.image is not None]
        return self._reader.turn(body, images, system=system)

    def _fitting(
        self, place: Callable[[Sequence[str]], Place], history: tuple[str, ...]
    ) -> tuple[Place, bool]:
        for gone in range(len(history) + 1):
            found = place(history[gone:])
            if found.fits(self._context):
                return found, gone > 0
        raise TextError(
            "text.too_long",
            f"{len(found.token_ids)} tokens without any history; the context is {self._context}; "
            "lower --max-item-tokens, or rank in windows: --window 10",
        )
