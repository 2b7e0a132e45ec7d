"""`probs`: the distribution over labels after prompts of the user's own."""

from __future__ import annotations

from typing import Any

from tgi_stack import scoring
from tgi_stack.backends.base import Backend
from tgi_stack.errors import TextError
from tgi_stack.jobs.run import Job
from tgi_stack.labels import Prover
from tgi_stack.rows.reader import RawRow
from tgi_stack.rows.schema import probs_row
from tgi_stack.settings import Settings
from tgi_stack.types import ProbsRow, ScoreRequest


class Probs:
    """Asks a backend for one reading a row; prompts go verbatim, with --chat as one harmless turn."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._prover = Prover(backend.profile.tokenizer.encode)
        self._turn_ending = (backend.profile.tail, backend.profile.tokenizer.encode(backend.profile.tail))

    def job(self) -> Job[ProbsRow]:
        """The job that `run` runs."""
        return Job(self._parse, self.answer, self._backend.appetite)

    def _parse(self, raw: RawRow) -> ProbsRow:
        return probs_row(raw, self._settings.labels)

    async def answer(self, row: ProbsRow) -> dict[str, Any]:
        """The fields of the row's record."""
        request, labels = self._request(row)
        scores = await self._backend.score(request)
        identity = self._backend.identity
        return {
            "labels": list(labels),
            "probabilities": list(scoring.softmax(scores.logprobs)),
            "logprobs": list(scores.logprobs) if scores.normalised == "vocabulary" else None,
            "label_mass": scores.label_mass,
            "exact": scores.exact,
            "route": scores.route,
            "engine": identity.engine,
            "model": identity.model,
            "revision": identity.revision,
            "from_cache": False,
            "flags": list(scores.flags),
            "usage": {"prompt_tokens": scores.prompt_tokens},
            "attempts": scores.attempts,
        }

    def _request(self, row: ProbsRow) -> tuple[ScoreRequest, tuple[str, ...]]:
        profile = self._backend.profile
        if self._settings.chat:
            prompt, ids = profile.turn(row.prompt)
            ending = self._turn_ending
        else:
            prompt = row.prompt
            profile.refuse_hopeless(prompt)
            ids, ending = profile.tokenizer.encode_with_ending(prompt)
        if not ids:
            raise TextError("text.empty", "the prompt is empty")
        if len(ids) >= profile.context:
            raise TextError("text.too_long", f"{len(ids)} tokens; the context is {profile.context}")
        labels = self._prover.default(row.labels) if isinstance(row.labels, int) else row.labels
        label_ids = self._prover.ids(labels, ending, (prompt, ids))
        return ScoreRequest(prompt, ids, labels, label_ids), labels
