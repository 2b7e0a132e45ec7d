"""Prompts that labels are read after, and their token ids once somebody needs them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cache.keys import Keys, Part
from cache.store import Store
from cache.tier.store import TieredStore
from tgi_stack.images import VERSION as image_version  # noqa: N811
from tgi_stack.prompting import prompts
from tgi_stack.prompting.labels import Ending, Prover
from tgi_stack.prompting.pieces import Pieces
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.rerankers import JUDGE
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import PreparedImage

Encoded = tuple[tuple[int, ...], Ending]


@dataclass(frozen=True)
class PromptContext:
    """What stands before the token that labels are read from.

    `parts` and `system` are what was said in the prompt's turns, for servers that render images themselves.
    `frame` is the prompt without its body; None for a prompt of the user's own. `pieces` are those that the
    body was put together from; joined they need not be it, where something in it was made harmless.
    """

    encoder: PromptEncoder
    prompt: str
    frame: str | None = None
    parts: tuple[str | PreparedImage, ...] = ()
    system: str = ""
    pieces: Sequence[str] = ()
    _keyed: dict[Keys, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    @cached_property
    def _encoded(self) -> Encoded:
        return self.encoder.encode(self)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the prompt."""
        return self._encoded[0]

    def key(self, keys: Keys) -> str:
        """Its key among those: hashing a prompt costs as much as a look into the cache."""
        known = self._keyed.get(keys)
        if known is None:
            known = self._keyed[keys] = keys.key(**self.described)
        return known

    async def bring(self) -> None:
        """Looks in the tier for the ids of the prompt, before they are worked out."""
        await self.encoder.bring(self)

    @property
    def ending(self) -> Ending:
        """The prompt's last words, which are all that labels could merge with, and their ids."""
        return self._encoded[1]

    @property
    def counted_more(self) -> int:
        """See `Profile.counted_more`."""
        if not self.parts:
            return 0
        images = (part for part in self.parts if isinstance(part, PreparedImage))
        return self.encoder.profile.counted_more(images)

    def fits(self, tokens: int) -> bool:
        """Whether the prompt is shorter; few prompts have to be counted."""
        tokens -= self.counted_more
        within = self.encoder.profile.tokenizer.is_within(self.prompt, tokens - 1)
        return within or len(self.token_ids) < tokens

    @property
    def described(self) -> dict[str, Part]:
        """What an answer here depends on, for its key."""
        images = [part for part in self.parts if isinstance(part, PreparedImage)]
        seen = " ".join([f"{i.sha256}:{i.sent_width}x{i.sent_height}" for i in images])
        version = image_version if seen else ""
        known: dict[str, Part] = {"prompt": self.prompt, "system": self.system, "images": seen}
        known["image_version"] = version
        # An answer of labels that merge is none where those are refused.
        return known | {"merging": "read"} if self.encoder.merging else known


class TokenAnswers:
    """Token ids of prompts, by tokenizer and text; each is encoded once for all runs.

    Attributes:
        pieces: remembers those of pieces for this run.
    """

    def __init__(self, store: Store | None, tokenizer: Tokenizer) -> None:
        self._store = store
        self._size = tokenizer.size
        self._tiered = store if isinstance(store, TieredStore) else None
        self._keys = Keys("tokens", {"tokenizer": tokenizer.digest, "prompt_version": prompts.VERSION})
        self.pieces = Pieces(tokenizer)

    def encode_prompt(self, prompt: str, frame: str, pieces: Sequence[str] = ()) -> tuple[int, ...]:
        """See `Tokenizer.encode_prompt`; what is kept was proven then.

        Args:
            pieces: that the prompt was put together from, if that is known.
        """
        parts = self.pieces.cut(pieces)
        if self._store is None or self.pieces.knows(parts):  # sooner put together than looked up
            return self.pieces.encode_prompt(prompt, frame, parts)
        key = self._key(prompt)
        payload = self._store.get("tokens", key)
        if payload is not None:
            if (known := self._ids(payload)) is not None:
                return known
            self._store.not_understood("tokens", key)
        ids = self.pieces.encode_prompt(prompt, frame, parts)
        self._store.put("tokens", key, array("I", ids).tobytes())
        return ids

    def _ids(self, payload: bytes) -> tuple[int, ...] | None:
        """The ids that were kept; None for what are no ids of this vocabulary."""
        ids = tuple(array("I", payload)) if len(payload) % 4 == 0 else ()
        return ids if ids and max(ids) < self._size else None

    @property
    def has_tier(self) -> bool:
        """Whether ids may be further away, too."""
        return self._tiered is not None

    def _key(self, prompt: str) -> str:
        return self._keys.key(text=prompt, framed=True)

    async def bring(self, prompt: str, pieces: Sequence[str] = ()) -> None:
        """Looks in the tier for what `encode_prompt` would look up next and not find here."""
        if self._tiered is None or self.pieces.knows(self.pieces.cut(pieces)):
            return
        key = self._key(prompt)
        if self._tiered.get("tokens", key, again=True) is None:
            await self._tiered.bring("tokens", key)


class PromptEncoder:
    """Writes the prompts of one model that labels are read after, and encodes them and the labels.

    Args:
        store: where token ids are kept.
        merging: whether a label that merges with the end of a prompt is read as its own tokens.
    """

    def __init__(self, profile: Profile, store: Store | None, *, merging: bool = False) -> None:
        self.profile = profile
        self.merging = merging
        self.prover = Prover(profile.tokenizer)
        self._tokens = TokenAnswers(store, profile.tokenizer)
        self._ends = {system: profile.ends(system) for system in ("", JUDGE)}
        self._endings = {
            system: (tail, profile.tokenizer.encode(tail)) for system, (_, tail) in self._ends.items()
        }

    def truncate(self, line: str, max_tokens: int) -> tuple[str, bool]:
        """A line of a body cut to so many tokens, and whether it was; see `Pieces.truncate`."""
        return self._tokens.pieces.truncate(line, max_tokens)

    def turn(
        self, pieces: Sequence[str], images: Sequence[PreparedImage] = (), *, system: str = ""
    ) -> PromptContext:
        """The context after a turn with this body, made harmless; images stand at its marks.

        Args:
            pieces: of the body, as the functions of `prompts` give it.

        Raises:
            TextError: `text.too_long`, see `Profile.refuse_hopeless`.
        """
        profile, grid, body = self.profile, self.profile.grid, "".join(pieces)
        visual = [grid.tokens(i.sent_width, i.sent_height) for i in images] if grid is not None else []
        prompt, frame = profile.render(body, visual, system=system)
        parts: list[str | PreparedImage] = []
        if images:
            texts = profile.tokenizer.harmless(body).split(prompts.IMAGE_MARK)
            parts = [texts[0]]
            for image, text in zip(images, texts[1:], strict=True):
                parts += [image, text]
        return PromptContext(self, prompt, frame, tuple(parts), system, pieces)

    def verbatim(self, prompt: str) -> PromptContext:
        """The context after a prompt of the user's own, in which no image has a place.

        Raises:
            TextError: `text.too_long`, see `Profile.refuse_hopeless`; `text.image_marks`.
        """
        prompt = prompts.without_links(prompt)
        prompts.refuse_image_marks(prompt)
        self.profile.refuse_hopeless(prompt)
        return PromptContext(self, prompt)

    def encode(self, context: PromptContext) -> Encoded:
        """The ids of a prompt, and its last words with theirs.

        Raises:
            TextError: see `Tokenizer.encode_prompt`.
        """
        if context.frame is None:
            return self.profile.tokenizer.encode_with_ending(context.prompt)
        ids = self._tokens.encode_prompt(context.prompt, context.frame, self._pieces(context))
        return ids, self._endings[context.system]

    def _pieces(self, context: PromptContext) -> tuple[str, ...]:
        """Those that a prompt is put together from; none where that is not known."""
        head, tail = self._ends[context.system]
        pieces = (head, *context.pieces, tail)
        return pieces if "".join(pieces) == context.prompt else ()

    async def bring(self, context: PromptContext) -> None:
        """See `TokenAnswers.bring`."""
        if context.frame is not None:
            await self._tokens.bring(context.prompt, self._pieces(context))
