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

    async def read(self, context: PromptContext, labels: tuple[str, ...]) -> LabelScores:
        """The labels' logarithms; see `CachedBackend.score`."""
        scores = await self._backend.score(LabelQuestion(context, labels))
        encoder = self.encoder
        whole = (context.prompt, context.token_ids) if encoder.merging else None
        if encoder.merging and encoder.prover.merge(labels, context.ending, whole):
            return replace(scores, flags=(*scores.flags, MERGES))
        return scores

    async def spaced_is_likelier(
        self, context: PromptContext, labels: tuple[str, ...], scores: LabelScores
    ) -> LabelScores | None:
        """The reading of the labels with a space before each, where the model would rather say those."""
        mass = scores.label_mass
        if mass is None or mass >= distributions.LOW_MASS or any(label.startswith(" ") for label in labels):
            return None
        try:
            spaced = await self.read(context, tuple(f" {label}" for label in labels))
        except RowError:  # a courtesy, which no row is to fail for
            return None
        return spaced if spaced.label_mass is not None and spaced.label_mass > mass else None
