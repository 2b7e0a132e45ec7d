"""`rerank`: a history or a query and candidates in, the candidates in order of fit out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cache.store import Store
from tgi_stack.backends.base import Backend
from tgi_stack.backends.cached import CachedBackend
from tgi_stack.concurrency import together
from tgi_stack.errors import ImageError, ItemError, PromptFileError, UsageError
from tgi_stack.jobs.image_source import ImageSource
from tgi_stack.jobs.label_reader import LabelReader
from tgi_stack.jobs.pipeline import Job
from tgi_stack.jobs.rerank.prompts import Candidate, Prompts, Query
from tgi_stack.jobs.rerank.rankings import Listwise, Outcome, Pointwise, Ranker, Reading
from tgi_stack.prompting import prompts
from tgi_stack.prompting.rerankers import VISUAL_TOKENS, recipe
from tgi_stack.prompting.vocabulary import refuse_missing_marks
from tgi_stack.rows import schema
from tgi_stack.rows.reader import RawRow
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.types import Item, NoPicture, RerankRow

REMEMBERED = 65_536  # lines of items
REMEMBERED_DOCUMENTS = 1024  # which may be long
LISTED = 128  # tokens of an item in a list


class RenderedItem(NamedTuple):
    """An item as it stands in a prompt, and whether its text was cut."""

    candidate: Candidate
    cut: bool


class Rerank:
    """Ranks the candidates of each row.

    Args:
        items: what ids stand for; an error is what rows that need it fail with.
        template: a prompt file's text in place of the built-in prompt.
        base: the folder that the images of candidates written out in a row begin at.
        store: where answers are kept.
        image_processes: how many decode images; None for one a core.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        items: Mapping[str, Item | ItemError],
        template: str | None = None,
        base: Path = Path(),
        store: Store | None = None,
        *,
        image_processes: int | None = None,
    ) -> None:
        refuse_missing_marks(backend.profile.tokenizer, "the tokenizer", images=settings.item_images)
        prompts.check_template(template, settings.instruction, prompts.RERANK_PLACEHOLDERS)
        self._backend = CachedBackend(backend, store, settings)
        self._settings = settings
        self._items = items
        self._rendered: dict[Item | str, RenderedItem] = {}
        self._documents: dict[Item | str, RenderedItem] = {}
        if settings.item_images and template is not None and prompts.times(template, "candidates") > 1:
            raise PromptFileError("{{candidates}} stands twice in the prompt file; with --item-images once")
        self._images = _images(backend, settings, base, store, image_processes)
        reader = LabelReader(self._backend, store)
        self._encoder = reader.encoder
        written = Prompts(self._encoder, settings, template)
        self._pointwise = settings.mode == "pointwise"
        self._longest = min(backend.profile.context, recipe(sees=backend.profile.grid is not None).longest)
        self._ranker: Ranker = (Pointwise if self._pointwise else Listwise)(reader, written, settings)

    def job(self) -> Job[RerankRow]:
        """The job that `run` runs."""
        return Job(schema.rerank_row, self.answer, self._backend.max_concurrency, _about, self.aclose)

    async def aclose(self) -> None:
        """Ends the processes that decode images."""
        if self._images is not None:
            await self._images.aclose()

    async def answer(self, row: RerankRow) -> dict[str, Any]:
        """The fields of the row's record."""
        kept = row.history[max(0, len(row.history) - self._settings.max_history) :]
        past = [self._rendered.get(entry) or self._render(entry) for entry in kept]
        query = Query(tuple([item.candidate.words for item in past]), row.query)
        if self._images is None:
            known = self._documents if self._pointwise else self._rendered
            items = [known.get(entry) or self._shown(entry) for entry in row.candidates]
        else:
            items = await together(*(self._render_image(self._images, entry) for entry in row.candidates))
        candidates, cuts = zip(*items, strict=True)
        outcome = await self._ranker.rank(query, candidates)
        cut = any(cuts) or any(item.cut for item in past) or any(read.cut for read in outcome.reads)
        flags = ["text.truncated"] if cut else []
        if self._images is not None:
            flags += [flag for one in candidates if one.image is not None for flag in one.image.flags]
        ids = [one.id for one in candidates]
        return (
            _record(ids, outcome, flags) | self._identity(outcome) | _positive(row.positive) | _cost(outcome)
        )

    def _resolve(self, entry: Item | str) -> Item:
        if isinstance(entry, Item):
            return entry
        found = self._items.get(entry)
        if found is None:
            raise ItemError("item.unknown", f"item {entry!r} is in no --items file")
        if isinstance(found, ItemError):
            raise ItemError(found.type, str(found))
        return found

    def _render(self, entry: Item | str) -> RenderedItem:
        """An item, or what an id stands for, as a line; remembered, since items come again and again."""
        if len(self._rendered) >= REMEMBERED:
            self._rendered.clear()
        item = self._resolve(entry)
        line, cut = self._line(item)
        rendered = self._rendered[entry] = RenderedItem(Candidate.of(item.id, line), cut)
        return rendered

    def _shown(self, entry: Item | str) -> RenderedItem:
        """A candidate: a line of a list, or a document of its own, remembered alike."""
        if not self._pointwise:
            return self._rendered.get(entry) or self._render(entry)
        if (known := self._documents.get(entry)) is not None:
            return known
        if len(self._documents) >= REMEMBERED_DOCUMENTS:
            self._documents.clear()
        item = self._resolve(entry)
        text, cut = self._document(item)
        rendered = self._documents[entry] = RenderedItem(Candidate.of(item.id, text), cut)
        return rendered

    async def _render_image(self, images: ImageSource, entry: Item | str) -> RenderedItem:
        item = self._resolve(entry)
        if item.image is None:
            return self._shown(entry)
        name = item.image if isinstance(item.image, str) else f"the image of item {item.id!r}"
        if isinstance(item.image, NoPicture):
            raise ImageError(item.image.type, f"{name}: {item.image.message}")
        image = await images.prepared(item.image, name)
        lines = self._document if self._pointwise else self._line
        text, cut = lines(item, optional=True)
        return RenderedItem(Candidate.of(item.id, text, image), cut)

    def _line(self, item: Item, *, optional: bool = False) -> tuple[str, bool]:
        text = prompts.item_text(item, self._settings.item_fields)
        return self._cut(item, text, self._settings.max_item_tokens or LISTED, optional=optional)

    def _document(self, item: Item, *, optional: bool = False) -> tuple[str, bool]:
        text = prompts.item_text(item, self._settings.item_fields, alone=True)
        return self._cut(item, text, self._settings.max_item_tokens or self._longest, optional=optional)

    def _cut(self, item: Item, text: str, most: int, *, optional: bool) -> tuple[str, bool]:
        if not text and not optional:
            fields = ", ".join(self._settings.item_fields)
            raise ItemError("item.empty", f"item {item.id!r} has none of the fields {fields}")
        return self._encoder.truncate(text, most)

    def _identity(self, outcome: Outcome) -> dict[str, Any]:
        routes = dict.fromkeys(read.scores.route for read in outcome.reads)
        identity = self._backend.identity
        return {
            "route": "+".join(routes),
            "engine": identity.engine,
            "model": identity.model,
            "revision": identity.revision,
        }


def _images(
    backend: Backend, settings: Settings, base: Path, store: Store | None, processes: int | None
) -> ImageSource | None:
    if not settings.item_images:
        return None
    if backend.profile.grid is None:
        raise UsageError(f"--item-images: {backend.identity.model} reads no images; use a Qwen-VL model")
    grid = backend.profile.grid
    if settings.mode == "pointwise":
        grid = grid.within(*VISUAL_TOKENS)
    return ImageSource(grid, settings, base, store, processes)


def _about(raw: RawRow) -> dict[str, Any]:
    """What `eval` needs of a failed row, also where something else in it is wrong."""
    return _positive(schema.positive_of(raw))


def _positive(names: Sequence[str] | None) -> dict[str, Any]:
    return {} if names is None else {"positive": list(names)}


def _record(ids: Sequence[str], outcome: Outcome, seen: Sequence[str]) -> dict[str, Any]:
    reads = outcome.reads
    masses = [read.scores.label_mass for read in reads]
    known = [mass for mass in masses if mass is not None]
    flags = dict.fromkeys([*seen, *(flag for read in reads for flag in read.scores.flags)])
    window = None if outcome.window is None else dict(zip(("size", "stride"), outcome.window, strict=True))
    return {
        "ranking": _ranking(ids, outcome),
        **({} if window is None else {"window": window}),
        "label_mass": sum(known) / len(known) if len(known) == len(masses) else None,
        "exact": all(read.scores.exact for read in reads),
        "reads": [_read(ids, read) for read in reads],
        "from_cache": all(read.scores.from_cache for read in reads),
        "flags": list(flags),
    }


def _ranking(ids: Sequence[str], outcome: Outcome) -> list[dict[str, Any]]:
    unknown = [None] * len(ids)
    scores = outcome.scores
    probabilities, logprobs = outcome.probabilities or unknown, outcome.logprobs or unknown
    order = distributions.order(scores)
    ranking: list[dict[str, Any]] = [
        {
            "id": ids[index],
            "rank": rank,
            "score": scores[index],
            "probability": probabilities[index],
            "logprob": logprobs[index],
        }
        for rank, index in enumerate(order, 1)
    ]
    if outcome.spread is not None:
        for index, entry in zip(order, ranking, strict=True):
            entry["spread"] = outcome.spread[index]
    return ranking


def _read(ids: Sequence[str], read: Reading) -> dict[str, Any]:
    return {
        "order": [ids[index] for index in read.order],
        "labels": list(read.labels),
        "logprobs": list(read.scores.logprobs),
        "normalised": read.scores.normalised,
        "label_mass": read.scores.label_mass,
        **({} if read.prior is None else {"prior": list(read.prior)}),
    }


def _cost(outcome: Outcome) -> dict[str, Any]:
    scores = [read.scores for read in outcome.reads]
    return {
        "usage": {"prompt_tokens": sum(one.prompt_tokens for one in scores)},
        "attempts": sum(one.attempts for one in scores),
    }
