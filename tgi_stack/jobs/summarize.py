"""`summarize`: an image (and what is known of the item) in, a short semantic summary out."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from cache.keys import digest
from cache.memo import Memo
from tgi_stack import prompts
from tgi_stack.backends.base import Backend
from tgi_stack.errors import ImageError, TextError, UsageError
from tgi_stack.images.files import checked, read_file
from tgi_stack.images.pool import ImagePool
from tgi_stack.jobs.run import Job
from tgi_stack.quality import caption_flags
from tgi_stack.rows.schema import summarize_row
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, PreparedImage, SummarizeRow

MAX_KNOWN_TOKENS = 512  # of the title, and of the text: a description, not a book
# What the same content under another path, and the same question, is answered from.
REMEMBERED_IMAGE_BYTES = 64 * 2**20
REMEMBERED_CAPTIONS = 4096


class Summarize:
    """Asks a backend for one summary a row.

    Args:
        base: the folder that relative image paths begin at.
        template: a prompt file's text in place of the built-in prompt.
    """

    def __init__(self, backend: Backend, settings: Settings, base: Path, template: str | None = None) -> None:
        if backend.profile.grid is None and not settings.allow_text_only:
            raise UsageError(f"{backend.identity.model} reads no images; use a Qwen-VL model")
        prompts.check_template(template, settings.instruction, prompts.SUMMARY_PLACEHOLDERS)
        self._backend = backend
        self._settings = settings
        self._base = base
        self._template = template
        self._pool = ImagePool()
        self._images: Memo[str, PreparedImage] = Memo(REMEMBERED_IMAGE_BYTES, lambda image: len(image.jpeg))
        self._captions: Memo[tuple[str, str | None], Caption] = Memo(REMEMBERED_CAPTIONS)

    def job(self) -> Job[SummarizeRow]:
        """The job that `run` runs."""
        return Job(summarize_row, self.answer, self._backend.appetite, aclose=self.aclose)

    async def aclose(self) -> None:
        """Ends the processes that decode images."""
        await self._captions.aclose()
        await self._images.aclose()
        await self._pool.aclose()

    async def answer(self, row: SummarizeRow) -> dict[str, Any]:
        """The fields of the row's record."""
        return await self.ask(row.title, row.text, await self._image(row))

    async def ask(self, title: str | None, text: str | None, image: PreparedImage | None) -> dict[str, Any]:
        """The fields of the record for an image that is prepared already."""
        request, flags = self._request(title, text, image)
        caption = await self._caption(request)
        flags += caption_flags(caption)
        identity = self._backend.identity
        return {
            "summary": caption.text,
            "finish_reason": caption.finish_reason,
            "flags": list(flags),
            "engine": identity.engine,
            "route": caption.route,
            "model": identity.model,
            "revision": identity.revision,
            "from_cache": False,
            "image": None if image is None else _sizes(image),
            "usage": {"prompt_tokens": caption.prompt_tokens, "completion_tokens": caption.completion_tokens},
            "attempts": caption.attempts,
        }

    async def _caption(self, request: CaptionRequest) -> Caption:
        ask = partial(self._backend.caption, request)
        if request.temperature > 0 and request.seed is None:  # another draw each time
            return await ask()
        seen = None if request.image is None else request.image.sha256
        return await self._captions.get((request.prompt, seen), ask)

    async def _image(self, row: SummarizeRow) -> PreparedImage | None:
        if row.image is None:
            if not self._settings.allow_text_only:
                raise ImageError(
                    "image.missing", "the row names no image; to summarise text alone: --allow-text-only"
                )
            return None
        grid = self._backend.profile.grid
        if grid is None:
            return None
        name, content = row.image_name, row.image
        if isinstance(content, str):
            content = await asyncio.to_thread(read_file, self._base / content)
        else:
            checked(content, name)
        prepare = partial(
            self._pool.prepare,
            content,
            name,
            grid,
            max_side_px=self._settings.max_side,
            allow_truncated=self._settings.allow_truncated,
        )
        return await self._images.get(digest(content), prepare)

    def _request(
        self, title: str | None, text: str | None, image: PreparedImage | None
    ) -> tuple[CaptionRequest, tuple[str, ...]]:
        profile, settings = self._backend.profile, self._settings
        title, title_cut = self._shorten(title)
        text, text_cut = self._shorten(text)
        seen = None
        if image is not None and profile.grid is not None:
            seen = profile.grid.tokens(image.sent_width, image.sent_height)
        body = prompts.summary_body(title, text, instruction=settings.instruction, template=self._template)
        body = profile.tokenizer.harmless(body)
        prompt, ids = profile.turn(body, seen)
        if len(ids) + settings.max_new_tokens > profile.context:
            raise TextError(
                "text.too_long",
                f"{len(ids)} prompt tokens and {settings.max_new_tokens} new ones exceed "
                f"the context of {profile.context}",
            )
        request = CaptionRequest(
            prompt, body, ids, image, settings.max_new_tokens, settings.temperature, settings.seed
        )
        flags = image.flags if image is not None else ()
        return request, flags + (("text.truncated",) if title_cut or text_cut else ())

    def _shorten(self, text: str | None) -> tuple[str | None, bool]:
        return self._backend.profile.tokenizer.truncate(text, MAX_KNOWN_TOKENS) if text else (text, False)


def _sizes(image: PreparedImage) -> dict[str, Any]:
    names = ("sha256", "width", "height", "sent_width", "sent_height")
    return {name: getattr(image, name) for name in names}
