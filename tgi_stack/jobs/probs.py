"""`probs`: the distribution over labels after prompts of the user's own."""

from __future__ import annotations

from typing import Any

from cache.store import Store
from tgi_stack.backends.base import Backend
from tgi_stack.jobs.label_reader import Reader
from tgi_stack.jobs.pipeline import Job
from tgi_stack.rows.reader import RawRow
from tgi_stack.rows.schema import probs_row
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.types import ProbsRow


class Probs:
    """Asks a backend for one reading a row; prompts go verbatim, with --chat as one harmless turn."""

    def __init__(self, backend: Backend, settings: Settings, store: Store | None = None) -> None:
        self._backend = backend
        self._settings = settings
        self._reader = Reader(backend, settings, store)

    def job(self) -> Job[ProbsRow]:
        """The job that `run` runs."""
        return Job(self._parse, self.answer, self._backend.appetite, aclose=self._reader.aclose)

    def _parse(self, raw: RawRow) -> ProbsRow:
        return probs_row(raw, self._settings.labels)

    async def answer(self, row: ProbsRow) -> dict[str, Any]:
        """The fields of the row's record."""
        place = (self._reader.turn if self._settings.chat else self._reader.verbatim)(row.prompt)
        count = row.labels
        labels = self._reader.default_labels(count) if isinstance(count, int) else count
        scores = await self._reader.read(place, labels)
        spaced = await self._reader.spaced_is_likelier(place, labels, scores)
        identity = self._backend.identity
        return {
            "labels": list(labels),
            "probabilities": list(distributions.softmax(scores.logprobs)),
            "logprobs": list(scores.logprobs) if scores.normalised == "vocabulary" else None,
            "label_mass": scores.label_mass,
            "exact": scores.exact,
            "route": scores.route,
            "engine": identity.engine,
            "model": identity.model,
            "revision": identity.revision,
            "from_cache": scores.from_cache and (spaced is None or spaced.from_cache),
            "flags": [*scores.flags, *([] if spaced is None else ["labels.spaced_likelier"])],
            "usage": {"prompt_tokens": scores.prompt_tokens},
            "attempts": scores.attempts + (0 if spaced is None else spaced.attempts),
        }
