"""What Qwen3-Reranker and Qwen3-VL-Reranker were trained to be asked, text by text.

Source: the model card of Qwen3-Reranker (its recipe for transformers; the card's recipe for vLLM puts blank
lines between the three parts) and the public code of Qwen3-VL-Embedding. Both read "yes" and "no" in one
softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tgi_stack.prompting.prompts import IMAGE_MARK, without_marks, words_of

# The system turn of both, word for word.
JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
NOTHING = "NULL"  # a side without text and image, where images are read
VISUAL_TOKENS = (4, 1800)  # of an image


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a family of rerankers is asked.

    Attributes:
        instruction: where the user gives none.
        longest: prompts in tokens; longer ones lose the end of their document.
        closes_thinking: whether an empty thinking block stands before the answer.
        sees: whether images stand in the document.
    """

    instruction: str
    longest: int
    closes_thinking: bool
    sees: bool

    def body(self, wanted: Sequence[str], document: str, instruction: str | None = None) -> list[str]:
        """The user's turn, in pieces; what is looked for stands first, so that candidates share it.

        Args:
            wanted: a query, or a `history_block`; in pieces.
            document: its text, behind an image mark where it has an image.
        """
        task = without_marks(instruction or self.instruction)
        if not self.sees:
            return [f"<Instruct>: {task}\n<Query>:", " ", *wanted, "\n", "<Document>:", *words_of(document)]
        query = [*wanted] if any(wanted) else [NOTHING]
        head, space, last = (document or NOTHING).rpartition(" ")
        shown = [f"{head}", f"{space}{last}"] if space else [last]
        return [f"<Instruct>: {task}<Query>:", *query, "\n", "<Document>:", *shown]


TEXT = Recipe("Given a web search query, retrieve relevant passages that answer the query", 8192, True, False)
VISION = Recipe(
    "Given a search query, retrieve relevant candidates that answer the query.", 10240, False, True
)


def recipe(*, sees: bool) -> Recipe:
    """The recipe of a model that reads images, or of one that reads none."""
    return VISION if sees else TEXT


def document(text: str, *, image: bool, sees: bool) -> str:
    """A document with its image's mark: nothing stands between the two in the recipe."""
    return IMAGE_MARK + text if image and sees else text
