"""Reads labels after a prompt: proves them in their place, and asks for what has to be known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from tgi_stack import scoring
from tgi_stack.backends.base import Backend
from tgi_stack.errors import LabelError, TextError
from tgi_stack.fanout import together
from tgi_stack.labels import Ending, Prover, branches, chained, refuse_several_tokens
from tgi_stack.types import LabelScores, PreparedImage, ScoreRequest


@dataclass(frozen=True, slots=True)
class Place:
    """Where labels are read: a prompt, its token ids, its last words (all that labels could merge with).

    `parts` and `system` are what was said in its turns, for servers that render images themselves.
    """

    prompt: str
    token_ids: tuple[int, ...]
    ending: Ending
    parts: tuple[str | PreparedImage, ...] = ()
    system: str = ""


class Reader:
    """Asks one backend for labels."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._profile = backend.profile
        self._prover = Prover(backend.profile.tokenizer.encode)
        self.default_labels = self._prover.default

    async def read(self, place: Place, labels: tuple[str, ...]) -> LabelScores:
        """The labels' logarithms; of labels of several tokens by the chain rule over their prefix tree.

        Raises:
            LabelError: labels that can't be read here, see `labels.trace`.
            TextError: `text.empty`, `text.too_long`.
        """
        paths = self._prover.paths(labels, place.ending, (place.prompt, place.token_ids))
        self._refuse_length(place, max(map(len, paths)))
        if all(len(path) == 1 for path in paths):
            return await self._score(place, (), tuple(path[0] for path in paths), labels)
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

    async def spaced_is_likelier(
        self, place: Place, labels: tuple[str, ...], scores: LabelScores
    ) -> LabelScores | None:
        """The reading of the labels with a space before each, where the model would rather say those."""
        mass = scores.label_mass
        if mass is None or mass >= scoring.LOW_MASS or any(label.startswith(" ") for label in labels):
            return None
        try:
            spaced = await self.read(place, tuple(f" {label}" for label in labels))
        except LabelError:
            return None
        return spaced if spaced.label_mass is not None and spaced.label_mass > mass else None


def _joined(logprobs: tuple[float, ...], reads: Sequence[LabelScores]) -> LabelScores:
    """One reading, from those of the branches."""
    mass = scoring.mass(logprobs)
    kept = (flag for flag in chain.from_iterable(r.flags for r in reads) if flag != "label_mass.low")
    return replace(
        reads[0],
        logprobs=logprobs,
        label_mass=mass,
        exact=all(read.exact for read in reads),
        flags=(*scoring.mass_flags(mass), *dict.fromkeys(kept)),
        attempts=sum(read.attempts for read in reads),
    )
