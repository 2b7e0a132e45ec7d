"""The seam between the jobs and whoever computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tgi_stack import prompts
from tgi_stack.errors import TextError
from tgi_stack.images.grid import Grid
from tgi_stack.tokens import Tokenizer
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest


@dataclass(frozen=True, slots=True)
class Profile:
    """What a job has to know of a model to write prompts for it.

    `context` is in tokens; `grid` is None for a model that reads no images.
    """

    tokenizer: Tokenizer
    closes_thinking: bool
    context: int
    grid: Grid | None

    def turn(self, body: str, image_tokens: int | None = None) -> tuple[str, tuple[int, ...]]:
        """One user turn with a body made harmless, and its token ids.

        Args:
            image_tokens: how many visual tokens stand before the body; None for no image.

        Raises:
            TextError: see `Tokenizer.encode_prompt`; `text.too_long`, see `refuse_hopeless`.
        """
        self.refuse_hopeless(body)
        prompt = self._frame(self.tokenizer.harmless(body), image_tokens)
        return prompt, self.tokenizer.encode_prompt(prompt, self._frame("", image_tokens))

    def refuse_hopeless(self, text: str) -> None:
        """Raises TextError for a text that can't fit whatever its tokens are, before time is spent on it."""
        if len(text) > self.context * self.tokenizer.longest_token:
            raise TextError(
                "text.too_long",
                f"{len(text):,} characters can't fit {self.context} tokens",
            )

    @property
    def tail(self) -> str:
        """What every turn ends with, from the control token that closes the body."""
        return self._frame("", None).removeprefix(f"{prompts.TURN_START}user\n")

    def _frame(self, body: str, image_tokens: int | None) -> str:
        if image_tokens is None:
            return prompts.user_turn(body, close_thinking=self.closes_thinking)
        return prompts.image_turn(body, image_tokens=image_tokens, close_thinking=self.closes_thinking)


class Backend(Protocol):
    """Answers questions, one at a time from the caller's side; any number may be asked at once.

    A question that can't be answered raises a RowError; anything else that is raised stops the run.
    """

    @property
    def identity(self) -> Identity:
        """What the answers depend on besides the requests."""

    @property
    def profile(self) -> Profile:
        """What prompts have to be written for."""

    @property
    def appetite(self) -> int:
        """How many questions should be asked at once to keep it busy."""

    async def score(self, request: ScoreRequest) -> LabelScores:
        """The logarithms of the labels after the prompt."""

    async def caption(self, request: CaptionRequest) -> Caption:
        """The text that follows the prompt."""

    async def aclose(self) -> None:
        """Gives back what it holds."""
