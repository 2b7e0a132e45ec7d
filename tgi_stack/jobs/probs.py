"""`probs`: the distribution over labels after prompts of the user's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

from cache.store import Store
from tgi_stack.backends.base import Backend
from tgi_stack.backends.cached import CachedBackend
from tgi_stack.errors import UsageError
from tgi_stack.jobs.label_reader import LabelReader
from tgi_stack.jobs.pipeline import Job
from tgi_stack.prompting.vocabulary import refuse_missing_marks
from tgi_stack.rows.reader import RawRow
from tgi_stack.rows.schema import probs_row
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.types import ProbsRow


class Probs:
    """Asks a backend for one reading a row; prompts go verbatim, with --chat as one harmless turn.

    Args:
        store: where answers are kept.
    """

    def __init__(self, backend: Backend, settings: Settings, store: Store | None = None) -> None:
        if settings.chat:
            refuse_missing_marks(backend.profile.tokenizer, "the tokenizer", images=False)
        self._backend = CachedBackend(backend, store, settings)
        self._settings = settings
        self._reader = LabelReader(self._backend, store, merging=settings.merging_labels == "read")

    def job(self) -> Job[ProbsRow]:
        """The job that `run` runs."""
        return Job(self._parse, self.answer, self._backend.max_concurrency)

    def _parse(self, raw: RawRow) -> ProbsRow:
        return probs_row(raw, self._settings.labels)

    async def answer(self, row: ProbsRow) -> dict[str, Any]:
        """The fields of the row's record."""
        encoder, given = self._reader.encoder, row.labels
        context = encoder.turn([row.prompt]) if self._settings.chat else encoder.verbatim(row.prompt)
        prefix = self._settings.label_prefix
        if isinstance(given, int):
            labels = encoder.prover.default(given, prefix)
        else:
            labels = tuple(prefix + label for label in given)
        scores, spaced = await self._reader.read_and_spaced(context, labels)
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


def candidate_counts(given: object, prompts: int) -> list[int]:
    """How many candidates each prompt has, of one number or of one each, which may be numpy's.

    Raises:
        UsageError: not as many numbers as prompts, or no whole numbers.
    """
    plain = given.tolist() if hasattr(given, "tolist") else given
    numbers = list(plain) if isinstance(plain, Iterable) and not isinstance(plain, str) else [plain] * prompts
    if len(numbers) != prompts:
        raise UsageError(f"{prompts} prompts, but {len(numbers)} numbers of candidates")
    found = []
    for number in numbers:
        if type(number).__name__ in ("bool", "bool_") or not isinstance(number, SupportsIndex):
            raise UsageError(f"a number of candidates is a whole number, not {number!r:.60}")
        found.append(int(number))
    return found
