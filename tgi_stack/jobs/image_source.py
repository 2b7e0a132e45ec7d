"""Images as jobs need them: read once, prepared once, in processes of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cache.keys import digest
from cache.store import Store
from tgi_stack.answers.tables import ImageAnswers
from tgi_stack.errors import ImageError
from tgi_stack.images.files import checked, read_file
from tgi_stack.images.grid import Grid
from tgi_stack.images.pool import ImagePool
from tgi_stack.settings import Settings
from tgi_stack.types import PreparedImage

# Calls a function that waits for a disk: elsewhere, so that the event loop goes on, or where there is none.
Reading = Callable[..., Awaitable[Any]]

UNNAMED = "{image}"  # stands for the name in what is told of an image whose content several rows may hold


@contextmanager
def told_of(name: str) -> Iterator[None]:
    """What is wrong with an image is told under a row's own name of it."""
    try:
        yield
    except ImageError as error:
        said = str(error)
        told = said.replace(UNNAMED, name, 1) if said.startswith(UNNAMED) else f"{name}: {said}"
        raise ImageError(error.type, told, error.flags, error.attempts) from error


class Images:
    """Prepares images for one grid; the same content under several paths is prepared once.

    Args:
        base: the folder that relative paths begin at.
        store: where prepared images are remembered.
        reading: how files are read.
    """

    def __init__(
        self,
        grid: Grid,
        settings: Settings,
        base: Path,
        store: Store | None = None,
        reading: Reading = asyncio.to_thread,
    ) -> None:
        self._reading = reading
        self._grid = grid
        self._settings = settings
        self._base = base
        self._pool = ImagePool()
        self._answers = ImageAnswers(store, grid, settings)

    async def read(self, content: str | bytes, name: str) -> tuple[bytes, str]:
        """The bytes of a path, or given ones, once they are known to be an image's; and their SHA-256.

        Args:
            name: what to call it in messages.

        Raises:
            ImageError: see `images.files`.
        """
        if isinstance(content, str):
            found: tuple[bytes, str] = await self._reading(_read, os.path.join(self._base, content))
            return found
        checked(content, name)
        return content, digest(content)

    async def prepared(self, content: bytes, sha256: str) -> PreparedImage:
        """What is sent in place of a file with these bytes.

        Raises:
            ImageError: see `images.prepare`; to be told under a name, see `told_of`.
        """
        prepare = partial(
            self._pool.prepare,
            content,
            UNNAMED,
            self._grid,
            max_side_px=self._settings.max_side,
            allow_truncated=self._settings.allow_truncated,
        )
        return await self._answers.get(sha256, prepare)

    async def get(self, content: str | bytes, name: str) -> PreparedImage:
        """`read` and `prepared` at once."""
        found, sha256 = await self.read(content, name)
        with told_of(name):
            return await self.prepared(found, sha256)

    async def aclose(self) -> None:
        """Ends the processes that decode images."""
        await self._answers.aclose()
        await self._pool.aclose()


def _read(path: str) -> tuple[bytes, str]:
    content = read_file(Path(path))
    return content, digest(content)
