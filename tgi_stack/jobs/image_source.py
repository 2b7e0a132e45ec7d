"""Where a row's image comes from: a path or bytes, read once and told of under the row's own name for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.keys import digest
from cache.store import Store
from tgi_stack.answers.images import UNNAMED, ImageFile, PreparedImages
from tgi_stack.errors import ImageError
from tgi_stack.images.files import checked, read_file
from tgi_stack.images.grid import Grid
from tgi_stack.settings import Settings
from tgi_stack.types import PreparedImage


@contextmanager
def told_of(name: str) -> Iterator[None]:
    """What is wrong with an image is told under a row's own name of it."""
    try:
        yield
    except ImageError as error:
        said = str(error)
        told = said.replace(UNNAMED, name, 1) if said.startswith(UNNAMED) else f"{name}: {said}"
        raise ImageError(error.type, told, error.flags, error.attempts) from error


class ImageSource:
    """Reads images for one grid; the same content under several paths is prepared once.

    Args:
        base: the folder that relative paths begin at.
        store: where prepared images are kept.
        processes: how many decode images; None for one a core.

    Attributes:
        images: prepares what was read.
    """

    def __init__(
        self,
        grid: Grid,
        settings: Settings,
        base: Path,
        store: Store | None,
        processes: int | None = None,
    ) -> None:
        self._base = base
        self.images = PreparedImages(grid, settings, store, processes)

    def read(self, content: str | bytes, name: str) -> ImageFile:
        """A path's bytes, or given ones, once they are known to be an image's.

        Args:
            name: what to call it in messages.

        Raises:
            ImageError: see `images.files`.
        """
        if isinstance(content, bytes):
            checked(content, name)
        else:
            content = read_file(Path(os.path.join(self._base, content)))
        return ImageFile(digest(content), content, self.images)

    async def prepared(self, content: str | bytes, name: str) -> PreparedImage:
        """The image that is sent.

        Raises:
            ImageError: see `images.files` and `images.prepare`.
        """
        file = await asyncio.to_thread(self.read, content, name)
        with told_of(name):
            return await self.images.prepared(file)

    async def aclose(self) -> None:
        """Ends the processes that decode images."""
        await self.images.aclose()
