"""`summarize`: an image (and what is known of the item) in, a short semantic summary out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from cache.memo import Memo
from tgi_stack import prompts
from tgi_stack.backends.base import Backend
from tgi_stack.errors import ImageError, TextError, UsageError
from tgi_stack.jobs.images import Images
from tgi_stack.jobs.run import Job
from tgi_stack.quality import caption_flags
from tgi_stack.rows.schema import summarize_row
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, PreparedImage, SummarizeRow

MAX_KNOWN_TOKENS = 512  # of the title, and of the text: a description, not a book
REMEMBERED_CAPTIONS = 4096  # for the same question about the same content under another path


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
        self._template = template
        grid = backend.profile.grid
        self._images = None if grid is None else Images(grid, settings, base)
        self._captions: Memo[tuple[str, str | None], Caption] = Memo(REMEMBERED_CAPTIONS)

    def job(self) -> Job[SummarizeRow]:
        """The job that `run` runs."""
        return Job(summarize_row, self.answer, self._backend.appetite, aclose=self.aclose)

    async def aclose(self) -> None:
        """Ends the processes that decode images."""
        await self._captions.aclose()
        if self._images is not None:
            await self._images.aclose()

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
        return None if self._images is None else await self._images.get(row.image, row.image_name)

    def _request(
        self, title: str | None, text: str | None, image: PreparedImage | None
    ) -> tuple[CaptionRequest, tuple[str, ...]]:
        profile, settings = self._backend.profile, self._settings
        title, title_cut = self._shorten(title)
        text, text_cut = self._shorten(text)
        visual = []
        if image is not None and profile.grid is not None:
            visual = [profile.grid.tokens(image.sent_width, image.sent_height)]
        body = prompts.summary_body(title, text, instruction=settings.instruction, template=self._template)
        body = profile.tokenizer.harmless(prompts.without_marks(body))
        prompt, ids = profile.turn(prompts.IMAGE_MARK * len(visual) + body, visual)
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
