"""Small pictures for the page: WebP of at most 160 pixels a side, from files or from the cache."""

from __future__ import annotations

import asyncio
import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from cache.keys import Keys
from cache.store import Store
from tgi_stack import hub
from tgi_stack.answers.images import ImageCodec, recipe
from tgi_stack.answers.kept import Kept
from tgi_stack.concurrency import fan_out
from tgi_stack.errors import FastqwenError, ImageError
from tgi_stack.images.files import checked, read_file
from tgi_stack.images.grid import Grid
from tgi_stack.images.pool import ImagePool
from tgi_stack.report.outputs import Output
from tgi_stack.settings import Settings
from tgi_stack.types import PreparedImage

SIDE_PX = 160
QUALITY = 60  # of WebP: 3 to 6 kB a picture
WORKERS = 8
SMALL = Grid(factor=1, min_pixels=1, max_pixels=SIDE_PX * SIDE_PX)


@dataclass(frozen=True)
class Picture:
    """Where a picture may be found: in a file, among the prepared ones of the cache by the file's digest."""

    file: Path | bytes | None = None
    sha256: str | None = None


@dataclass
class Thumbnails:
    """Pictures as the page holds them.

    Attributes:
        base64: each thumbnail, WebP.
        places: for each picture that was asked for, where its thumbnail stands; None where there is none.
        missing: why pictures have none, by type.
        left: how many were left out, since enough were drawn.
    """

    base64: list[str] = field(default_factory=list)
    places: list[int | None] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    left: int = 0


class KeptPictures:
    """The prepared images of the cache that a run saw.

    Args:
        store: the cache; None for none.
        output: what the run was asked, and of which model.
    """

    def __init__(self, store: Store | None, output: Output) -> None:
        grid = None if store is None else _grid_of(output)
        self._kept: Kept[PreparedImage] = Kept(None if grid is None else store, "image", ImageCodec)
        names = ("max_side", "allow_truncated")
        asked = {name: output.asked.get(f"--{name.replace('_', '-')}") for name in names}
        known = {name: value for name, value in asked.items() if value is not None}
        settings = Settings(**known)
        self._keys = None if grid is None else Keys("image", recipe(grid, settings))

    def find(self, sha256: str | None) -> bytes | None:
        """The JPEG that was sent in place of a file."""
        if sha256 is None or self._keys is None:
            return None
        found = self._kept.known(self._keys.key(sha256=sha256))
        return None if found is None else found.jpeg


def _grid_of(output: Output) -> Grid | None:
    """The geometry of the model's images, where its files are on this machine; nothing is downloaded."""
    identity = output.noted.get("identity") or {}
    for name in (output.asked.get("--tokenizer"), identity.get("root"), identity.get("model")):
        if not name:
            continue
        try:
            files = hub.locate_files(name, "vision", None, may_download=False)
            return Grid.from_checkpoint(files.folder)
        except (FastqwenError, OSError, ValueError):
            continue
    return None


def inside(folder: Path, name: str) -> Path | None:
    """A file under a folder by its relative path; None for what leads out of it."""
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) else None
    except (OSError, ValueError):  # no name of a file
        return None


def draw(pictures: Sequence[Picture], kept: KeptPictures, most: int) -> Thumbnails:
    """Thumbnails of the first `most` pictures that can be found; equal ones stand in the page once."""
    return asyncio.run(_draw(pictures, kept, most))


async def _draw(pictures: Sequence[Picture], kept: KeptPictures, most: int) -> Thumbnails:
    pool = ImagePool()
    drawn: list[bytes | str | None] = [None] * len(pictures)
    wanted = [place for place, one in enumerate(pictures) if one.file is not None or one.sha256 is not None]

    async def work(place: int) -> None:
        try:
            drawn[place] = await _thumbnail(pictures[place], kept, pool)
        except ImageError as error:
            drawn[place] = error.type

    try:
        await fan_out(wanted[:most], work, workers=WORKERS)
    finally:
        await pool.aclose()
    return _gathered(drawn, len(wanted) - len(wanted[:most]))


def _gathered(drawn: Sequence[bytes | str | None], left: int) -> Thumbnails:
    found = Thumbnails(left=left)
    places: dict[bytes, int] = {}
    for one in drawn:
        if isinstance(one, bytes) and one not in places:
            places[one] = len(found.base64)
            found.base64.append(base64.b64encode(one).decode())
        elif isinstance(one, str):
            found.missing[one] += 1
        found.places.append(places[one] if isinstance(one, bytes) else None)
    return found


async def _thumbnail(picture: Picture, kept: KeptPictures, pool: ImagePool) -> bytes:
    """Raises ImageError for what can't be shown, or is nowhere."""
    if (jpeg := kept.find(picture.sha256)) is not None:
        return await asyncio.to_thread(_webp, jpeg)
    if picture.file is None:
        raise ImageError("image.missing", "neither a file nor in the cache")
    if isinstance(picture.file, bytes):
        content = checked(picture.file, "a picture")
    else:
        content = await asyncio.to_thread(read_file, picture.file)
    small = await pool.prepare(content, "a picture", SMALL, max_side_px=SIDE_PX, allow_truncated=True)
    return await asyncio.to_thread(_webp, small.jpeg)


def _webp(jpeg: bytes) -> bytes:
    """A JPEG of our own as a thumbnail."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        image.thumbnail((SIDE_PX, SIDE_PX))
        out = io.BytesIO()
        image.save(out, "WEBP", quality=QUALITY, method=4)
    return out.getvalue()
