"""`summarize`: an image (and what is known of the item) in, a short semantic summary out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from cache.store import Store
from tgi_stack.answers.images import ImageFile
from tgi_stack.answers.questions import SummaryQuestion, SummaryWriter
from tgi_stack.backends.base import Backend
from tgi_stack.backends.cached import CachedBackend
from tgi_stack.errors import ImageError, UsageError
from tgi_stack.jobs.image_source import ImageSource, told_of
from tgi_stack.jobs.pipeline import Job
from tgi_stack.prompting import prompts
from tgi_stack.prompting.forms import TOLD, new_tokens
from tgi_stack.prompting.vocabulary import refuse_missing_marks
from tgi_stack.rows.schema import summarize_row
from tgi_stack.scoring.caption_flags import caption_flags
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, PreparedImage, SummarizeRow

MAX_KNOWN_TOKENS = 512  # of the title, and of the text: a description, not a book


class Summarize:
    """Asks a backend for one summary a row.

    Args:
        base: the folder that relative image paths begin at.
        template: a prompt file's text in place of the built-in prompt.
        store: where answers are kept.
        image_processes: how many decode images; None for one a core.
        form: what answers are held to; see `prompting.forms`.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        base: Path,
        template: str | None = None,
        store: Store | None = None,
        *,
        image_processes: int | None = None,
        form: str | None = None,
    ) -> None:
        if backend.profile.grid is None and not settings.allow_text_only:
            raise UsageError(f"{backend.identity.model} reads no images; use a Qwen-VL model")
        refuse_missing_marks(
            backend.profile.tokenizer, "the tokenizer", images=backend.profile.grid is not None
        )
        prompts.check_template(template, settings.instruction, prompts.SUMMARY_PLACEHOLDERS)
        if form is not None and settings.max_new_tokens is None:
            budget = new_tokens(form, backend.profile.tokenizer)
            settings = settings.model_copy(update={"max_new_tokens": budget})
        self._backend = CachedBackend(backend, store, settings)
        self._settings = settings
        self._template = template
        self._writer = SummaryWriter(backend.profile, settings, store, form)
        grid = backend.profile.grid
        self._images = None if grid is None else ImageSource(grid, settings, base, store, image_processes)

    def job(self) -> Job[SummarizeRow]:
        """The job that `run` runs."""
        return Job(summarize_row, self.answer, self._backend.max_concurrency, aclose=self.aclose)

    async def aclose(self) -> None:
        """Ends the processes that decode images."""
        if self._images is not None:
            await self._images.aclose()

    async def answer(self, row: SummarizeRow) -> dict[str, Any]:
        """The fields of the row's record."""
        if row.image is None and not self._settings.allow_text_only:
            raise ImageError(
                "image.missing", "the row names no image; to summarise text alone: --allow-text-only"
            )
        image: ImageFile | None = None
        if row.image is not None and self._images is not None:
            image = await asyncio.to_thread(self._images.read, row.image, row.image_name)
        question, cut = self._question(row.title, row.text, image)
        with told_of(row.image_name):
            caption = await self._backend.caption(question)
        return self._record(caption, cut)

    async def ask(self, title: str | None, text: str | None, image: PreparedImage) -> dict[str, Any]:
        """The fields of the record for an image that is prepared already."""
        question, cut = self._question(title, text, image)
        return self._record(await self._backend.caption(question), cut)

    def _question(
        self, title: str | None, text: str | None, image: ImageFile | PreparedImage | None
    ) -> tuple[SummaryQuestion, bool]:
        """What is asked, and whether what is known of the item was cut."""
        title, title_cut = self._shorten(title)
        text, text_cut = self._shorten(text)
        return SummaryQuestion(self._body(title, text), image, self._writer), title_cut or text_cut

    def _record(self, caption: Caption, cut: bool) -> dict[str, Any]:
        image = caption.image
        flags = [*(() if image is None else image.flags), *(["text.truncated"] if cut else [])]
        identity = self._backend.identity
        form = self._writer.form
        return {
            "summary": caption.text,
            **({} if form is None else {"data": json.loads(caption.text)}),
            "finish_reason": caption.finish_reason,
            "flags": [*flags, *caption_flags(caption)],
            "engine": identity.engine,
            "route": caption.route,
            "model": identity.model,
            "revision": identity.revision,
            "from_cache": caption.from_cache,
            "image": None if image is None else _sizes(image),
            "usage": {"prompt_tokens": caption.prompt_tokens, "completion_tokens": caption.completion_tokens},
            "attempts": caption.attempts,
        }

    def _body(self, title: str | None, text: str | None) -> str:
        """What is said in the turn besides the image, made harmless."""
        body = prompts.summary_body(
            title, text, instruction=self._settings.instruction, template=self._template
        )
        if self._writer.form is not None:
            body = f"{body}\n{TOLD}{self._writer.form}"
        return self._backend.profile.tokenizer.harmless(prompts.without_marks(body))

    def _shorten(self, text: str | None) -> tuple[str | None, bool]:
        return self._backend.profile.tokenizer.truncate(text, MAX_KNOWN_TOKENS) if text else (text, False)


def _sizes(image: PreparedImage) -> dict[str, Any]:
    names = ("sha256", "width", "height", "sent_width", "sent_height")
    return {name: getattr(image, name) for name in names}
