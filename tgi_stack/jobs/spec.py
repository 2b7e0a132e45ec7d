"""What makes a job, as plain data: other processes can make the same one from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cache.store import Store
from tgi_stack.backends.base import Backend
from tgi_stack.errors import InputError, UsageError
from tgi_stack.jobs.pipeline import Job
from tgi_stack.jobs.probs import Probs
from tgi_stack.jobs.rerank.items import Items, join_items
from tgi_stack.jobs.rerank.job import Rerank
from tgi_stack.jobs.summarize import Summarize
from tgi_stack.prompting import prompts
from tgi_stack.prompting.forms import form_of
from tgi_stack.prompting.template_file import read_template
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.reader import Source
from tgi_stack.rows.schema import Schema
from tgi_stack.rows.stores.urls import place_of
from tgi_stack.settings import Settings

Name = Literal["summarize", "rerank", "probs"]
READINGS = 3  # of items, which are read anew where somebody wrote to them meanwhile
PLACEHOLDERS = {"summarize": prompts.SUMMARY_PLACEHOLDERS, "rerank": prompts.RERANK_PLACEHOLDERS}


@dataclass(frozen=True)
class JobSpec:
    """A job before there is a backend.

    Attributes:
        base: the folder that relative image paths begin at.
        items: what the ids in rows of `rerank` stand for.
        template: a prompt file's text in place of the built-in prompt.
        form: what answers of `summarize` are held to; see `forms.form_of`.
    """

    name: Name
    settings: Settings
    base: Path
    items: tuple[Source, ...] = ()
    template: str | None = None
    form: str | None = None

    @property
    def kind(self) -> Literal["text", "vision"]:
        """Which sort of model the job asks."""
        sees = self.name == "summarize" or (self.name == "rerank" and self.settings.item_images)
        return "vision" if sees else "text"

    @property
    def schema(self) -> Schema:
        """How the job's rows are read."""
        return Schema(self.name, self.settings.labels)

    def joined(self) -> Items:
        """What ids in rows of `rerank` stand for; see `join_items`.

        Raises:
            InputError: lines that are no items; an items file that changes while it is read.
        """
        skip = self.settings.skip_bad_rows
        for _ in range(READINGS):
            before = [one.states() for one in self.items]
            items = join_items(self.items, pictures=self.settings.item_images, skip_bad_rows=skip)
            for one in self.items:
                one.refuse_changed()
            # Whoever writes the same rows anew has them half there for a while, of which no digest tells.
            if before == [one.states() for one in self.items]:
                return items
        names = ", ".join(one.name for one in self.items)
        raise InputError(f"--items {names}: written to while it was read; give a file that nobody writes to")

    def job(
        self, backend: Backend, store: Store | None, items: Items | None = None, images: int | None = None
    ) -> Job[Any]:
        """The job that `run` runs.

        Args:
            items: see `joined`.
            images: how many processes decode images; None for one a core.
        """
        settings, base, template = self.settings, self.base, self.template
        if self.name == "summarize":
            return Summarize(
                backend, settings, base, template, store, image_processes=images, form=self.form
            ).job()
        if self.name == "rerank":
            known = self.joined() if items is None else items
            return Rerank(backend, settings, known, template, base, store, image_processes=images).job()
        return Probs(backend, settings, store).job()


def opened(
    name: Name, input: str, items: Sequence[str], columns: Mapping[str, str], settings: Settings
) -> tuple[JobSpec, Source]:
    """A job, and where its rows are.

    Args:
        columns: our names of fields -> the files' own.

    Raises:
        UsageError: a prompt file or a schema that won't do.
        InputError: an input that can't be opened.
    """
    if settings.offline and any(place_of(one) is not None for one in (input, *items)):
        raise UsageError("--offline opens no connection; give inputs that are on this host")
    source = open_source(input, folders=name == "summarize", columns=columns, kind=name, limit=settings.limit)
    return opened_without_rows(name, source.base, items, columns, settings), source


def opened_without_rows(
    name: Name, base: Path, items: Sequence[str], columns: Mapping[str, str], settings: Settings
) -> JobSpec:
    """A job whose rows come otherwise; see `opened`."""
    known = tuple(open_source(one, columns=columns, kind="item") for one in items)
    placeholders = PLACEHOLDERS.get(name)
    prompt = None if placeholders is None else read_template(settings, placeholders)
    if name == "summarize":
        return JobSpec(name, settings, base, template=prompt, form=form_of(settings))
    return JobSpec(name, settings, base, known, prompt)
