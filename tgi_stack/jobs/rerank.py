"""`rerank`: a history or a query and candidates in, the candidates in order of fit out.

Listwise: one prompt lists all candidates, each behind a label, and the distribution of the next token over
the labels ranks them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tgi_stack import prompts, scoring
from tgi_stack.backends.base import Backend
from tgi_stack.errors import InputError, ItemError, RowError, TextError
from tgi_stack.jobs.run import Job
from tgi_stack.labels import Prover
from tgi_stack.rows import schema
from tgi_stack.rows.reader import Source
from tgi_stack.settings import Settings
from tgi_stack.types import Item, LabelScores, RerankRow, ScoreRequest


class Rerank:
    """Asks a backend for one reading a row.

    Args:
        items: what ids stand for.
        template: a prompt file's text in place of the built-in prompt.
    """

    def __init__(
        self, backend: Backend, settings: Settings, items: Mapping[str, Item], template: str | None = None
    ) -> None:
        prompts.check_template(template, settings.instruction, prompts.RERANK_PLACEHOLDERS)
        self._backend = backend
        self._settings = settings
        self._items = items
        self._template = template
        self._prover = Prover(backend.profile.tokenizer.encode)
        self._ending = (backend.profile.tail, backend.profile.tokenizer.encode(backend.profile.tail))

    def job(self) -> Job[RerankRow]:
        """The job that `run` runs."""
        return Job(schema.rerank_row, self.answer, self._backend.appetite, _about)

    async def answer(self, row: RerankRow) -> dict[str, Any]:
        """The fields of the row's record."""
        candidates = [self._resolve(entry) for entry in row.candidates]
        labels = self._prover.default(len(candidates))
        request, flags = self._request(row, candidates, labels)
        scores = await self._backend.score(request)
        identity = self._backend.identity
        return {
            "ranking": _ranking(candidates, scores),
            "label_mass": scores.label_mass,
            "exact": scores.exact,
            "route": scores.route,
            "reads": [_read(candidates, labels, scores)],
            "engine": identity.engine,
            "model": identity.model,
            "revision": identity.revision,
            "from_cache": False,
            "flags": [*flags, *scores.flags],
            **_about(row),
            "usage": {"prompt_tokens": scores.prompt_tokens},
            "attempts": scores.attempts,
        }

    def _resolve(self, entry: Item | str) -> Item:
        if isinstance(entry, Item):
            return entry
        if entry not in self._items:
            raise ItemError("item.unknown", f"item {entry!r} is in no --items file")
        return self._items[entry]

    def _line(self, item: Item) -> tuple[str, bool]:
        text = prompts.item_text(item, self._settings.item_fields)
        if not text:
            fields = ", ".join(self._settings.item_fields)
            raise ItemError("item.empty", f"item {item.id!r} has none of the fields {fields}")
        return self._backend.profile.tokenizer.truncate(text, self._settings.max_item_tokens)

    def _request(
        self, row: RerankRow, candidates: Sequence[Item], labels: tuple[str, ...]
    ) -> tuple[ScoreRequest, tuple[str, ...]]:
        """The prompt that fits the context: the oldest history goes first, candidates never."""
        kept = row.history[max(0, len(row.history) - self._settings.max_history) :]
        past = [self._line(self._resolve(entry)) for entry in kept]
        offered = [self._line(item) for item in candidates]
        cut = any(was_cut for _, was_cut in (*past, *offered))
        history = [line for line, _ in past]
        while True:
            prompt, ids = self._turn(row, [line for line, _ in offered], labels, history)
            if len(ids) < self._backend.profile.context:
                break
            if not history:
                raise TextError(
                    "text.too_long",
                    f"{len(ids)} tokens without any history; the context is {self._backend.profile.context}; "
                    "lower --max-item-tokens",
                )
            history, cut = history[1:], True
        request = ScoreRequest(prompt, ids, labels, self._prover.ids(labels, self._ending))
        return request, ("text.truncated",) if cut else ()

    def _turn(
        self, row: RerankRow, offered: Sequence[str], labels: Sequence[str], history: Sequence[str]
    ) -> tuple[str, tuple[int, ...]]:
        body = prompts.listwise_body(
            labels,
            offered,
            history=history,
            query=row.query,
            instruction=self._settings.instruction,
            template=self._template,
        )
        return self._backend.profile.turn(body)


def _about(row: RerankRow) -> dict[str, Any]:
    """What `eval` needs of a row, failed ones included."""
    return {} if row.positive is None else {"positive": list(row.positive)}


def _ranking(candidates: Sequence[Item], scores: LabelScores) -> list[dict[str, Any]]:
    probabilities = scoring.softmax(scores.logprobs)
    full = scores.normalised == "vocabulary"
    return [
        {
            "id": candidates[index].id,
            "rank": rank,
            "score": probabilities[index],
            "probability": probabilities[index],
            "logprob": scores.logprobs[index] if full else None,
        }
        for rank, index in enumerate(scoring.order(probabilities), 1)
    ]


def _read(candidates: Sequence[Item], labels: Sequence[str], scores: LabelScores) -> dict[str, Any]:
    return {
        "order": [item.id for item in candidates],
        "labels": list(labels),
        "logprobs": list(scores.logprobs),
        "normalised": scores.normalised,
        "label_mass": scores.label_mass,
    }


def join_items(sources: Iterable[Source]) -> dict[str, Item]:
    """Items of several files, joined by id: a later file fills in what an earlier one lacks.

    Failed records of `summarize` are passed over.

    Raises:
        InputError: a line that is no item.
    """
    items: dict[str, Item] = {}
    for source in sources:
        for raw in source:
            if isinstance(raw.value, dict) and raw.value.get("status") == "failed":
                continue
            try:
                found = schema.item(schema.fields(raw))
            except RowError as error:
                raise InputError(f"--items {source.name}, row {raw.number}: {error}") from error
            items[found.id] = _merge(items.get(found.id), found)
    return items


def _merge(old: Item | None, new: Item) -> Item:
    if old is None:
        return new
    return Item(
        id=old.id,
        title=old.title or new.title,
        text=old.text or new.text,
        summary=old.summary or new.summary,
        image=old.image or new.image,
    )
