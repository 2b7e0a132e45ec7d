"""What prompts have to be written for: a model's tokenizer, its thinking, its context, what it sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tgi_stack.errors import TextError
from tgi_stack.images.grid import Grid
from tgi_stack.prompting import prompts
from tgi_stack.prompting.rerankers import JUDGE, recipe
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import PreparedImage


@dataclass(frozen=True, slots=True)
class Profile:
    """What a job has to know of a model to write prompts for it.

    `context` is in tokens, prompt and answer together; `longest_prompt` where prompts have a limit of
    their own. `grid` is None for a model that reads no images. Both limits are held against what the server
    counts: for an image one token for each `pixels_a_token` of it and `image_quotes` more, where it has a
    count of its own, not the tokens that the model reads.
    """

    tokenizer: Tokenizer
    closes_thinking: bool
    context: int
    grid: Grid | None
    longest_prompt: int | None = None
    pixels_a_token: int | None = None
    image_quotes: int = 0
    always_thinks: bool = False  # see `framing.Framing`

    def counted_more(self, images: Iterable[PreparedImage]) -> int:
        """How many more tokens the server counts for a prompt's images than the model reads."""
        if self.pixels_a_token is None or self.grid is None:
            return 0
        sizes = [(image.sent_width, image.sent_height) for image in images]
        counted = sum(w * h // self.pixels_a_token + self.image_quotes for w, h in sizes)
        return counted - sum(self.grid.tokens(w, h) for w, h in sizes)

    def room(self, new_tokens: int) -> int:
        """The longest prompt, in tokens, after which so many can follow."""
        room = self.context - new_tokens
        return room if self.longest_prompt is None else min(room, self.longest_prompt)

    def described(self) -> dict[str, Any]:
        """All but the tokenizer, as JSON; `of` gives it back."""
        grid = None if self.grid is None else asdict(self.grid)
        return {
            "closes_thinking": self.closes_thinking,
            "context": self.context,
            "grid": grid,
            "longest_prompt": self.longest_prompt,
            "pixels_a_token": self.pixels_a_token,
            "image_quotes": self.image_quotes,
            "always_thinks": self.always_thinks,
        }

    @classmethod
    def of(cls, tokenizer: Tokenizer, described: Mapping[str, Any]) -> Profile:
        """The profile that was described."""
        grid = described["grid"]
        if grid is not None:
            grid = Grid(**grid | {"mean": tuple(grid["mean"]), "std": tuple(grid["std"])})
        return cls(
            tokenizer,
            described["closes_thinking"],
            described["context"],
            grid,
            longest_prompt=described.get("longest_prompt"),
            pixels_a_token=described.get("pixels_a_token"),
            image_quotes=described.get("image_quotes", 0),
            always_thinks=described.get("always_thinks", False),
        )

    def turn(self, body: str, visual: Sequence[int] = (), *, system: str = "") -> tuple[str, tuple[int, ...]]:
        """One user turn with a body made harmless, and its token ids.

        Args:
            visual: how many visual tokens stand for each image mark in the body.
            system: what stands before it, of the project's own.

        Raises:
            TextError: see `Tokenizer.encode_prompt`; `text.too_long`, see `refuse_hopeless`.
        """
        prompt, frame = self.render(body, visual, system=system)
        return prompt, self.tokenizer.encode_prompt(prompt, frame)

    def render(self, body: str, visual: Sequence[int] = (), *, system: str = "") -> tuple[str, str]:
        """The prompt of `turn`, and its frame: the same without what stands in the body."""
        self.refuse_hopeless(body)
        if not visual:
            harmless = self.tokenizer.harmless(prompts.without_marks(body))
            return self._frame(harmless, system), self._frame("", system)
        empty = prompts.place_images(prompts.IMAGE_MARK * len(visual), visual)
        harmless = prompts.place_images(self.tokenizer.harmless(body), visual)
        return self._frame(harmless, system), self._frame(empty, system)

    def refuse_hopeless(self, text: str) -> None:
        """Raises TextError for a text that can't fit whatever its tokens are, before time is spent on it."""
        if len(text) > self.context * self.tokenizer.longest_token:
            raise TextError(
                "text.too_long",
                f"{len(text):,} characters can't fit {self.context} tokens",
            )

    def ends(self, system: str = "") -> tuple[str, str]:
        """What every turn begins with, up to the body, and ends with, from the token that closes the body."""
        head, _, tail = self._frame(prompts.IMAGE_MARK, system).partition(prompts.IMAGE_MARK)
        return head, tail

    def tail(self, system: str = "") -> str:
        """The second of `ends`."""
        return self.ends(system)[1]

    def _frame(self, body: str, system: str) -> str:
        closed = self.closes_thinking or (
            system == JUDGE and recipe(sees=self.grid is not None).closes_thinking
        )
        return prompts.user_turn(body, close_thinking=closed, system=system)
