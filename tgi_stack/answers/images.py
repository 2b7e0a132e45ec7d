"""Images as they are asked about: each content prepared once, in processes of their own, and kept.

An `ImageFile` stands for an image whose pixels nobody has needed yet: keys are made of its digest.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from typing import Any

from cache.keys import Keys, Part
from cache.store import Store
from tgi_stack import images
from tgi_stack.answers import checks
from tgi_stack.answers.kept import Kept
from tgi_stack.answers.turns import Turns
from tgi_stack.images.grid import Grid
from tgi_stack.images.pool import ImagePool
from tgi_stack.settings import Settings
from tgi_stack.types import PreparedImage

REMEMBERED_BYTES = 64 * 2**20
JPEG = b"\xff\xd8", b"\xff\xd9"  # how one begins and ends
SIDES = ("width", "height", "sent_width", "sent_height")
UNNAMED = "{image}"  # stands for the name in what is told of an image whose content several rows may hold


def recipe(grid: Grid, settings: Settings) -> dict[str, Part]:
    """What a prepared image depends on besides the file's bytes."""
    return {
        "image_version": images.VERSION,
        "factor": grid.factor,
        "min_pixels": grid.min_pixels,
        "max_pixels": grid.max_pixels,
        "max_side": settings.max_side,
        "allow_truncated": settings.allow_truncated,
    }


class ImageCodec:
    """An image with its pixels."""

    @staticmethod
    def encode(image: PreparedImage) -> bytes:
        head = json.dumps(measures(image)).encode()
        return struct.pack("<I", len(head)) + head + image.jpeg

    @staticmethod
    def decode(payload: bytes) -> PreparedImage:
        """Raises ValueError, KeyError, TypeError, RecursionError or struct.error for what is no image."""
        (length,) = struct.unpack_from("<I", payload)
        image = of_measures(payload[4 + length :], json.loads(payload[4 : 4 + length]))
        # Whether its pixels can be decoded is not looked at, which would take as long as making it.
        checks.refuse(not image.jpeg.startswith(JPEG[0]) or not image.jpeg.endswith(JPEG[1]), "jpeg")
        return image


def measures(image: PreparedImage) -> dict[str, Any]:
    """All of an image but its pixels."""
    names = ("sha256", "width", "height", "sent_width", "sent_height", "flags")
    return {name: getattr(image, name) for name in names}


def of_measures(jpeg: bytes, known: dict[str, Any]) -> PreparedImage:
    """The image that was measured; raises ValueError, KeyError or TypeError for what are no measures."""
    width, height, sent_width, sent_height = [checks.count(known[name], name, 1) for name in SIDES]
    sha256 = checks.text(known["sha256"], "sha256")
    flags = checks.texts(known["flags"], "flags")
    return PreparedImage(jpeg, sha256, width, height, sent_width, sent_height, flags)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The bytes of an image's file, their digest, and who prepares it where somebody must see it."""

    sha256: str
    content: bytes
    images: PreparedImages


def without_pixels(image: PreparedImage | None) -> PreparedImage | None:
    """What is left of an image in a record."""
    return None if image is None else replace(image, jpeg=b"")


class PreparedImages:
    """Prepares images for one grid, by the digests of their files and by how they are prepared.

    Args:
        store: where prepared images are kept.
        processes: how many decode them; None for one a core.
    """

    def __init__(
        self, grid: Grid, settings: Settings, store: Store | None, processes: int | None = None
    ) -> None:
        self._grid = grid
        self._settings = settings
        self._pool = ImagePool(processes)
        self._keys = Keys("image", recipe(grid, settings))
        self._kept: Kept[PreparedImage] = Kept(store, "image", ImageCodec)
        self._turns: Turns[PreparedImage] = Turns(
            store, "image", memory=REMEMBERED_BYTES, size=lambda image: len(image.jpeg)
        )

    def key(self, sha256: str) -> str:
        """Under which key the image that a file with this digest becomes is kept."""
        return self._keys.key(sha256=sha256)

    async def prepared(self, file: ImageFile) -> PreparedImage:
        """What is sent in place of a file.

        Raises:
            ImageError: see `images.prepare`; it speaks of the image as UNNAMED.
        """
        key = self.key(file.sha256)
        if (known := self._kept.known(key)) is not None:
            return known
        if self._kept.has_tier and (known := await self._kept.brought(key)) is not None:
            return known
        async with self._turns.turn(key) as turn:
            if turn.answer is None and turn.leased:
                turn.answer = self._kept.known(key, again=True)
            if turn.answer is None:
                turn.answer = await self._pool.prepare(
                    file.content,
                    UNNAMED,
                    self._grid,
                    max_side_px=self._settings.max_side,
                    allow_truncated=self._settings.allow_truncated,
                )
                self._kept.keep(key, turn.answer, turn)
            return turn.answer

    async def aclose(self) -> None:
        """Ends the processes that decode images."""
        await self._pool.aclose()
