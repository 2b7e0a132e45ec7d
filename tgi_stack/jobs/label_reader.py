"""Reads labels after a prompt, and whether the model would rather say them with a space before."""

from __future__ import annotations

from dataclasses import replace

from cache.store import Store
from tgi_stack.answers.contexts import PromptContext, PromptEncoder
from tgi_stack.answers.questions import LabelQuestion
from tgi_stack.backends.cached import CachedBackend
from tgi_stack.errors import RowError
from tgi_stack.prompting.labels import MERGES
from tgi_stack.scoring import distributions
from tgi_stack.types import LabelScores


class LabelReader:
    """Asks one backend for labels.

    Args:
        store: where token ids are kept.
        merging: see `PromptEncoder`.

    Attributes:
        encoder: writes the prompts.
    """

    def __init__(self, backend: CachedBackend, store: Store | None, *, merging: bool = False) -> None:
        self._backend = backend
        self.encoder = PromptEncoder(backend.profile, store, merging=merging)

    async def read(
        self, context: PromptContext, labels: tuple[str, ...], along: tuple[str, ...] = ()
    ) -> LabelScores:
        """The labels' logarithms; see `CachedBackend.score`."""
        scores = await self._backend.score(LabelQuestion(context, labels), along)
        encoder = self.encoder
        whole = (context.prompt, context.token_ids) if encoder.merging else None
        if encoder.merging and encoder.prover.merge(labels, context.ending, whole):
            return replace(scores, flags=(*scores.flags, MERGES))
        return scores

    async def read_and_spaced(
        self, context: PromptContext, labels: tuple[str, ...]
    ) -> tuple[LabelScores, LabelScores | None]:
        """The reading of the labels; and with a space before each, where the model would rather say those."""
        plain = not any(label.startswith(" ") for label in labels)
        spaced = tuple(f" {label}" for label in labels) if plain else ()
        firsts = self.encoder.prover.beginnings(spaced) if spaced else ()
        scores = await self.read(context, labels, firsts)
        mass = scores.label_mass
        if not spaced or mass is None or not distributions.mass_flags(mass):
            return scores, None
        try:
            if firsts not in ((), spaced) and await self._mass_after(context, spaced, firsts) <= mass:
                return scores, None
            other = await self.read(context, spaced)
        except RowError:  # a courtesy, which no row is to fail for
            return scores, None
        return scores, other if (other.label_mass or 0.0) > mass else None

    async def _mass_after(
        self, context: PromptContext, labels: tuple[str, ...], firsts: tuple[str, ...]
    ) -> float:
        """The most that the labels' mass can be, from that of their first tokens; 1 where it is not known."""
        if not self._backend.takes_tokens:
            return 0.0  # they can't be read
        prover, whole = self.encoder.prover, (context.prompt, context.token_ids)
        both = (prover.paths(texts, context.ending, whole) for texts in (labels, firsts))
        begun, ends = ({path[0] for path in paths} for paths in both)
        if begun != ends:  # in this place they begin otherwise than at the start of a line
            return 1.0
        scores = await self.read(context, firsts)
        return 1.0 if scores.label_mass is None or not scores.exact else scores.label_mass
