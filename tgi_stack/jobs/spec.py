"""What makes a job, as plain data: other processes can make the same one from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cache.store import Store
from tgi_stack.backends.base import Backend
from tgi_stack.jobs.pipeline import Job
from tgi_stack.jobs.probs import Probs
from tgi_stack.jobs.rerank.items import join_items
from tgi_stack.jobs.rerank.job import Rerank
from tgi_stack.jobs.summarize import Summarize
from tgi_stack.rows.reader import Source
from tgi_stack.rows.schema import Schema
from tgi_stack.settings import Settings

Name = Literal["summarize", "rerank", "probs"]


@dataclass(frozen=True)
class JobSpec:
    """A job before there is a backend.

    Attributes:
        base: the folder that relative image paths begin at.
        items: what the ids in rows of `rerank` stand for.
        template: a prompt file's text in place of the built-in prompt.
    """

    name: Name
    settings: Settings
    base: Path
    items: tuple[Source, ...] = ()
    template: str | None = None

    @property
    def kind(self) -> Literal["text", "vision"]:
        """Which sort of model the job asks."""
        sees = self.name == "summarize" or (self.name == "rerank" and self.settings.item_images)
        return "vision" if sees else "text"

    @property
    def schema(self) -> Schema:
        """How the job's rows are read."""
        return Schema(self.name, self.settings.labels)

    def job(self, backend: Backend, store: Store | None, *, replay: bool = False) -> Job[Any]:
        """The job that `run` runs; in a `replay` the cache alone answers, and the backend is not asked."""
        settings, base, template = self.settings, self.base, self.template
        if self.name == "summarize":
            return Summarize(backend, settings, base, template, store, replay=replay).job()
        if self.name == "rerank":
            skip = settings.skip_bad_rows
            items = join_items(self.items, pictures=settings.item_images, skip_bad_rows=skip)
            for one in self.items:
                one.refuse_changed()
            return Rerank(backend, settings, items, template, base, store, replay=replay).job()
        return Probs(backend, settings, store, replay=replay).job()
