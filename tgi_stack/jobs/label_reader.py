"""Reads labels after a prompt: proves them in their place, and asks for what has to be known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain

from cache.keys import Part
from cache.store import Store
from tgi_stack.answers import questions
from tgi_stack.answers.tables import LabelAnswers, TokenAnswers
from tgi_stack.backends.base import Backend, Replaced, refuse_absent
from tgi_stack.concurrency import together
from tgi_stack.errors import RowError, ScoreError, TextError
from tgi_stack.images import VERSION as image_version  # noqa: N811
from tgi_stack.prompting import prompts
from tgi_stack.prompting.labels import Ending, Prover, branches, chained, refuse_several_tokens
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.types import LabelScores, PreparedImage, ScoreRequest

Encoded = tuple[tuple[int, ...], Ending]


@dataclass(frozen=True)
class Place:
    """Where labels are read: a prompt, and once they are needed its token ids and its last words.

    The last words are all that labels could merge with. `parts` and `system` are what was said in the
    prompt's turns, for servers that render images themselves.
    """

    prompt: str
    encode: Callable[[], Encoded]
    parts: tuple[str | PreparedImage, ...] = ()
    system: str = ""

    @cached_property
    def _encoded(self) -> Encoded:
        return self.encode()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of the prompt."""
        return self._encoded[0]

    @property
    def ending(self) -> Ending:
        """The prompt's last words, and their ids."""
        return self._encoded[1]

    def fits(self, tokens: int) -> bool:
        """Whether the prompt is shorter; a token is a byte at least, so that few have to be counted."""
        if len(self.prompt) < tokens and len(self.prompt.encode("utf-8", "surrogatepass")) < tokens:
            return True
        return len(self.token_ids) < tokens

    def described(self) -> dict[str, Part]:
        """What an answer here depends on, for its key."""
        images = [part for part in self.parts if isinstance(part, PreparedImage)]
        seen = " ".join([f"{i.sha256}:{i.sent_width}x{i.sent_height}" for i in images])
        version = image_version if seen else ""
        return {"prompt": self.prompt, "system": self.system, "images": seen, "image_version": version}


class Reader:
    """Asks one backend for labels, once for each question.

    Args:
        store: where answers are remembered.
    """

    def __init__(self, backend: Backend, settings: Settings, store: Store | None) -> None:
        self._backend = backend
        self._profile = backend.profile
        self._prover = Prover(backend.profile.tokenizer.encode)
        stand_in = backend.stand_in if isinstance(backend, Replaced) else None
        self._answers = LabelAnswers(store, backend.identity, settings, stand_in)
        self._tokens = TokenAnswers(store, backend.profile.tokenizer)
        self.default_labels = self._prover.default
        self._endings = {system: self._turn_ending(system) for system in ("", prompts.JUDGE)}

    def _turn_ending(self, system: str) -> Ending:
        tail = self._profile.tail(system)
        return tail, self._profile.tokenizer.encode(tail)

    def turn(
        self,
        body: str,
        images: Sequence[PreparedImage] = (),
        *,
        system: str = "",
    ) -> Place:
        """The place after a turn with this body, made harmless; images stand at its marks.

        Raises:
            TextError: `text.too_long`, see `Profile.refuse_hopeless`.
        """
        profile, grid = self._profile, self._profile.grid
        visual = [grid.tokens(i.sent_width, i.sent_height) for i in images] if grid is not None else []
        prompt, frame = profile.render(body, visual, system=system)

        def encode() -> Encoded:
            encoded = partial(profile.tokenizer.encode_prompt, prompt, frame)
            return self._tokens.get(prompt, encoded, framed=True), self._endings[system]

        parts: list[str | PreparedImage] = []
        if images:
            texts = profile.tokenizer.harmless(body).split(prompts.IMAGE_MARK)
            parts = [texts[0]]
            for image, text in zip(images, texts[1:], strict=True):
                parts += [image, text]
        return Place(prompt, encode, tuple(parts), system)

    def verbatim(self, prompt: str) -> Place:
        """The place after a prompt of the user's own."""
        self._profile.refuse_hopeless(prompt)
        return Place(prompt, partial(self._profile.tokenizer.encode_with_ending, prompt))

    async def read(self, place: Place, labels: tuple[str, ...]) -> LabelScores:
        """The labels' logarithms; of labels of several tokens by the chain rule over their prefix tree.

        Raises:
            LabelError: labels that can't be read here, see `labels.trace`.
            TextError: `text.empty`, `text.too_long`.
        """
        return await self._answers.get(place.described(), labels, partial(self._ask, place, labels))

    async def _ask(self, place: Place, labels: tuple[str, ...]) -> LabelScores:
        refuse_absent(self._backend)
        paths = self._prover.paths(labels, place.ending, (place.prompt, place.token_ids))
        self._refuse_length(place, max(map(len, paths)))
        if all(len(path) == 1 for path in paths):
            ids = tuple(path[0] for path in paths)
            scores = await self._score(place, (), ids, labels)
            if not place.parts and scores.stand_in is None:
                asked = (self._backend.identity, place.prompt, place.token_ids, labels, ids)
                self._answers.keep_question(place.described(), partial(questions.of_labels, *asked))
            return scores
        if not self._backend.takes_tokens or place.parts:
            refuse_several_tokens(labels, paths)
        tree = branches(paths)
        reads = await together(*(self._score(place, prefix, tokens) for prefix, tokens in tree.items()))
        found = {
            prefix: dict(zip(tokens, read.logprobs, strict=True))
            for (prefix, tokens), read in zip(tree.items(), reads, strict=True)
        }
        return _joined(chained(paths, found), reads)

    async def _score(
        self, place: Place, prefix: tuple[int, ...], ids: tuple[int, ...], labels: tuple[str, ...] = ()
    ) -> LabelScores:
        prompt = "" if prefix else place.prompt
        request = ScoreRequest(
            prompt, place.token_ids + prefix, labels, ids, parts=place.parts, system=place.system
        )
        return await self._backend.score(request)

    def _refuse_length(self, place: Place, label_tokens: int) -> None:
        if not place.token_ids:
            raise TextError("text.empty", "the prompt is empty")
        length = len(place.token_ids) + label_tokens - 1
        if length >= self._profile.context:
            raise TextError("text.too_long", f"{length} tokens; the context is {self._profile.context}")

    async def aclose(self) -> None:
        """Gives up what is being asked."""
        await self._answers.aclose()

    async def spaced_is_likelier(
        self, place: Place, labels: tuple[str, ...], scores: LabelScores
    ) -> LabelScores | None:
        """The reading of the labels with a space before each, where the model would rather say those."""
        mass = scores.label_mass
        if mass is None or mass >= distributions.LOW_MASS or any(label.startswith(" ") for label in labels):
            return None
        try:
            spaced = await self.read(place, tuple(f" {label}" for label in labels))
        except RowError:  # a courtesy, which no row is to fail for
            refuse_absent(self._backend)  # which can't tell whether there is one
            return None
        return spaced if spaced.label_mass is not None and spaced.label_mass > mass else None


def _joined(logprobs: tuple[float, ...], reads: Sequence[LabelScores]) -> LabelScores:
    """One reading, from those of the branches.

    Raises:
        ScoreError: `score.mixed` where some came from the server and some from torch: those don't add up.
    """
    if len({read.route for read in reads}) > 1:
        raise ScoreError(
            "score.mixed",
            "the server shows some of the labels' tokens and not others; use labels of one token, or torch",
        )
    mass = distributions.mass(logprobs) if all(read.exact for read in reads) else None
    kept = (flag for flag in chain.from_iterable(r.flags for r in reads) if flag != "label_mass.low")
    return replace(
        reads[0],
        logprobs=logprobs,
        label_mass=mass,
        exact=all(read.exact for read in reads),
        flags=(*distributions.mass_flags(mass), *dict.fromkeys(kept)),
        attempts=sum(read.attempts for read in reads),
        chained=True,
    )
