"""`summarize`: an image (and what is known of the item) in, a short semantic summary out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from cache.store import Store
from tgi_stack.answers.tables import Summary, SummaryAnswers, TokenAnswers
from tgi_stack.backends.base import Backend, refuse_absent
from tgi_stack.errors import ImageError, TextError, UsageError
from tgi_stack.jobs.image_source import Images, Reading, told_of
from tgi_stack.jobs.pipeline import Job
from tgi_stack.prompting import prompts
from tgi_stack.rows.schema import summarize_row
from tgi_stack.scoring.caption_flags import caption_flags
from tgi_stack.settings import Settings
from tgi_stack.types import CaptionRequest, PreparedImage, SummarizeRow

MAX_KNOWN_TOKENS = 512  # of the title, and of the text: a description, not a book


class Summarize:
    """Asks a backend for one summary a row.

    Args:
        base: the folder that relative image paths begin at.
        template: a prompt file's text in place of the built-in prompt.
        reading: how files are read, see `images.Reading`.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        base: Path,
        template: str | None = None,
        store: Store | None = None,
        reading: Reading = asyncio.to_thread,
    ) -> None:
        if backend.profile.grid is None and not settings.allow_text_only:
            raise UsageError(f"{backend.identity.model} reads no images; use a Qwen-VL model")
        prompts.check_template(template, settings.instruction, prompts.SUMMARY_PLACEHOLDERS)
        self._backend = backend
        self._settings = settings
        self._template = template
        grid = backend.profile.grid
        self._images = None if grid is None else Images(grid, settings, base, store, reading)
        self._answers = SummaryAnswers(store, backend.identity, settings, grid)
        self._tokens = TokenAnswers(store, backend.profile.tokenizer)

    def job(self) -> Job[SummarizeRow]:
        """The job that `run` runs."""
        return Job(summarize_row, self.answer, self._backend.appetite, aclose=self.aclose)

    async def aclose(self) -> None:
        """Gives up what is being asked, and ends the processes that decode images."""
        await self._answers.aclose()
        if self._images is not None:
            await self._images.aclose()

    async def answer(self, row: SummarizeRow) -> dict[str, Any]:
        """The fields of the row's record."""
        if row.image is None and not self._settings.allow_text_only:
            raise ImageError(
                "image.missing", "the row names no image; to summarise text alone: --allow-text-only"
            )
        if row.image is None or self._images is None:
            return await self._ask(row.title, row.text, None, None)
        content, sha256 = await self._images.read(row.image, row.image_name)
        prepare = partial(self._images.prepared, content, sha256)
        with told_of(row.image_name):
            return await self._ask(row.title, row.text, sha256, prepare)

    async def ask(self, title: str | None, text: str | None, image: PreparedImage) -> dict[str, Any]:
        """The fields of the record for an image that is prepared already."""

        async def prepared() -> PreparedImage:
            return image

        return await self._ask(title, text, image.sha256, prepared)

    async def _ask(
        self,
        title: str | None,
        text: str | None,
        sha256: str | None,
        prepare: Callable[[], Awaitable[PreparedImage]] | None,
    ) -> dict[str, Any]:
        title, title_cut = self._shorten(title)
        text, text_cut = self._shorten(text)
        body = self._body(title, text)

        async def compute() -> Summary:
            refuse_absent(self._backend)
            image = None if prepare is None else await prepare()
            request = self._request(body, image)
            found = Summary(await self._backend.caption(request), image)
            self._answers.keep_question(body, sha256, request)
            return found

        summary, from_cache = await self._answers.get(body, sha256, compute)
        caption, image = summary.caption, summary.image
        flags = [
            *(() if image is None else image.flags),
            *(["text.truncated"] if title_cut or text_cut else []),
        ]
        identity = self._backend.identity
        return {
            "summary": caption.text,
            "finish_reason": caption.finish_reason,
            "flags": [*flags, *caption_flags(caption)],
            "engine": identity.engine,
            "route": caption.route,
            "model": identity.model,
            "revision": identity.revision,
            "from_cache": from_cache,
            "image": None if image is None else _sizes(image),
            "usage": {"prompt_tokens": caption.prompt_tokens, "completion_tokens": caption.completion_tokens},
            "attempts": caption.attempts,
        }

    def _body(self, title: str | None, text: str | None) -> str:
        """What is said in the turn besides the image, made harmless."""
        body = prompts.summary_body(
            title, text, instruction=self._settings.instruction, template=self._template
        )
        return self._backend.profile.tokenizer.harmless(prompts.without_marks(body))

    def _request(self, body: str, image: PreparedImage | None) -> CaptionRequest:
        profile, settings = self._backend.profile, self._settings
        visual = []
        if image is not None and profile.grid is not None:
            visual = [profile.grid.tokens(image.sent_width, image.sent_height)]
        prompt, frame = profile.render(prompts.IMAGE_MARK * len(visual) + body, visual)
        encode = partial(profile.tokenizer.encode_prompt, prompt, frame)
        ids = self._tokens.get(prompt, encode, framed=True)
        if len(ids) + settings.max_new_tokens > profile.context:
            raise TextError(
                "text.too_long",
                f"{len(ids)} prompt tokens and {settings.max_new_tokens} new ones exceed "
                f"the context of {profile.context}",
            )
        return CaptionRequest(
            prompt, body, ids, image, settings.max_new_tokens, settings.temperature, settings.seed
        )

    def _shorten(self, text: str | None) -> tuple[str | None, bool]:
        return self._backend.profile.tokenizer.truncate(text, MAX_KNOWN_TOKENS) if text else (text, False)


def _sizes(image: PreparedImage) -> dict[str, Any]:
    names = ("sha256", "width", "height", "sent_width", "sent_height")
    return {name: getattr(image, name) for name in names}
