"""Images as jobs need them: read once, prepared once, in processes of their own."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from cache.keys import digest
from cache.memo import Memo
from tgi_stack.images.files import checked, read_file
from tgi_stack.images.grid import Grid
from tgi_stack.images.pool import ImagePool
from tgi_stack.settings import Settings
from tgi_stack.types import PreparedImage

REMEMBERED_BYTES = 64 * 2**20


class Images:
    """Prepares images for one grid; the same content under several paths is prepared once.

    Args:
        base: the folder that relative paths begin at.
    """

    def __init__(self, grid: Grid, settings: Settings, base: Path) -> None:
        self._grid = grid
        self._settings = settings
        self._base = base
        self._pool = ImagePool()
        self._prepared: Memo[str, PreparedImage] = Memo(REMEMBERED_BYTES, lambda image: len(image.jpeg))

    async def get(self, content: str | bytes, name: str) -> PreparedImage:
        """The image of a path, or of a file's bytes; `name` is what to call it in messages.

        Raises:
            ImageError: see `images.prepare`.
        """
        if isinstance(content, str):
            content = await asyncio.to_thread(read_file, self._base / content)
        else:
            checked(content, name)
        prepare = partial(
            self._pool.prepare,
            content,
            name,
            self._grid,
            max_side_px=self._settings.max_side,
            allow_truncated=self._settings.allow_truncated,
        )
        return await self._prepared.get(digest(content), prepare)

    async def aclose(self) -> None:
        """Ends the processes that decode images."""
        await self._prepared.aclose()
        await self._pool.aclose()
