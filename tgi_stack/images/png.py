"""PNG data taken apart, freed of what codes no pixels, and held to its checksums.

Pillow refuses a file for any broken or large chunk, looks at no checksum of pixels, and takes a picture with
fewer rows than it says. So what codes no pixels is left out, and what does is proven.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from tgi_stack.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG, third edition: 11.2.1, table 8; 8.1
_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PALETTE = 3
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_ORIENTATIONS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that may tell how a picture lies
_READ = _TEXTS | {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"acTL", b"fcTL"}
_KEPT = _TEXTS | {b"tRNS", b"eXIf"}
_HEAD = struct.Struct(">I4s")
_MOST_TEXT = 2**18  # bytes; a thousand times that may come out of compressed ones
_PIECE = 2**20


class Chunk(NamedTuple):
    """A part of the file; `is_cut` where the file ends before it does."""

    kind: bytes
    data: bytes
    checksum: bytes
    is_cut: bool

    @property
    def is_sound(self) -> bool:
        """Whether its checksum holds."""
        return self.checksum == zlib.crc32(self.kind + self.data).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG file taken apart.

    Attributes:
        data: the file without what codes no pixels.
        frames: how many pictures it holds.
        pixels: the compressed rows.
        length: bytes that the rows should have, each with its filter.
    """

    data: bytes
    frames: int
    pixels: bytes
    length: int


def chunks(content: bytes, kinds: frozenset[bytes]) -> Iterator[Chunk]:
    """The chunks of a PNG up to its end that are of these kinds, and its first.

    Of texts those that may tell how the picture lies. The others are stepped over: a file may hold millions.
    """
    place, size, head = len(SIGNATURE), len(content), _HEAD.unpack_from
    while place + 8 <= size:
        length, kind = head(content, place)
        start, end = place + 8, place + 8 + length
        is_told = kind in kinds and (kind not in _TEXTS or content.startswith(_ORIENTATIONS, start))
        if is_told or place == len(SIGNATURE):
            yield Chunk(kind, content[start:end], content[end : end + 4], end + 4 > size)
        if kind == b"IEND":
            return
        place = end + 4


def read(content: bytes, name: str) -> Picture:
    """Takes a PNG file apart, and leaves out what decoders stumble over though it costs no pixel.

    Left out: colours (see `colour_tags`), texts, animations, unknown chunks, transparency of a wrong length,
    whatever else is broken and codes no pixels.

    Raises:
        ImageError: `image.corrupt` for a header or pixels whose checksum does not hold; `image.truncated`
            where the file ends among the pixels.
    """
    found = list(chunks(content, _READ))
    header = found[0].data if found and found[0].kind == b"IHDR" and found[0].is_sound else b""
    if (
        len(header) != 13
        or header[8] not in _DEPTHS.get(header[9], ())
        or header[10:12] != b"\0\0"
        or header[12] > 1
    ):
        raise ImageError("image.corrupt", f"{name}: its header (IHDR) is broken, or of no kind that there is")
    if header[9] == _PALETTE and not _has_palette(found):
        raise ImageError("image.corrupt", f"{name}: its palette (PLTE) is missing or broken")
    pixels = [one for one in found if one.kind == b"IDAT"]
    if not pixels or pixels[-1].is_cut:
        raise ImageError("image.truncated", f"{name} ends early: pixels (IDAT) are missing")
    if not all(one.is_sound for one in pixels):
        raise ImageError("image.corrupt", f"{name}: the checksum of its pixels (IDAT) does not hold")
    entries = next((len(one.data) // 3 for one in found if one.kind == b"PLTE"), 0)
    kept = [found[0], *(one for one in found[1:] if _codes_pixels(one, header[9], entries))]
    data = SIGNATURE + b"".join(_whole(one) for one in kept) + _whole(Chunk(b"IEND", b"", b"", False))
    return Picture(data, _frames(found), b"".join(one.data for one in pixels), _length(header))


def refuse_missing_rows(picture: Picture, image: Image.Image, name: str) -> None:
    """Raises ImageError for a picture whose rows are fewer than its header says: Pillow leaves them at 0.

    One of its last two rows is 0 throughout then (interlaced rows are completed in turns), which costs little
    to see.
    """
    last = image.crop((0, max(0, image.height - 2), *image.size))
    if not np.asarray(last).reshape(last.height, -1).any(1).all() and not _holds(picture):
        raise ImageError("image.truncated", f"{name} ends early: rows of its pixels are missing")


def _holds(picture: Picture) -> bool:
    """Whether there are as many bytes of rows as there should be."""
    inflate, left, length = zlib.decompressobj(), picture.pixels, picture.length
    try:
        while length > 0 and left and not inflate.eof:
            length -= len(inflate.decompress(left, min(length, _PIECE)))
            left = inflate.unconsumed_tail
    except zlib.error:
        return False
    return length <= 0


def packed_anew(picture: Picture) -> bytes | None:
    """The file with its rows packed anew, where they are whole and the sum behind them is wrong or missing.

    The chunks have checksums of their own, which hold: browsers show such a picture whole, Pillow refuses it.
    """
    try:
        rows = zlib.decompressobj(-15).decompress(picture.pixels[2:], picture.length)
    except zlib.error:
        return None
    if len(rows) < picture.length:
        return None
    first, *others = chunks(picture.data, _READ)
    pixels = Chunk(b"IDAT", zlib.compress(rows, 0), b"", False)
    kept = [one for one in others if one.kind != b"IDAT"]
    end = Chunk(b"IEND", b"", b"", False)
    return SIGNATURE + b"".join(_whole(one) for one in (first, *kept, pixels, end))


def _codes_pixels(chunk: Chunk, colours: int, entries: int) -> bool:
    """Whether a chunk is needed to read pixels (`entries`: of its palette), or tells how they lie."""
    if chunk.kind == b"IDAT":
        return True
    if chunk.kind == b"PLTE":
        return colours == _PALETTE  # a broken one is refused when it is read
    if chunk.kind not in _KEPT or not chunk.is_sound:
        return False
    if chunk.kind == b"tRNS":
        length = len(chunk.data)
        return 0 < length <= entries if colours == _PALETTE else length == {0: 2, 2: 6}.get(colours)
    return chunk.kind == b"eXIf" or _is_short(chunk)


def _is_short(chunk: Chunk) -> bool:
    """Whether a text stays under what Pillow takes, also once it is unpacked."""
    if len(chunk.data) > _MOST_TEXT:
        return False
    if chunk.kind == b"tEXt":
        return True
    place = chunk.data.find(b"\0") + 2  # behind the method of compression
    if chunk.kind == b"iTXt":
        return chunk.data[place - 1 : place] == b"\0"
    try:
        return len(zlib.decompressobj().decompress(chunk.data[place:], _MOST_TEXT + 1)) <= _MOST_TEXT
    except zlib.error:
        return False


def _frames(found: list[Chunk]) -> int:
    """How many pictures there are: those of an animation, of which the first may not be one.

    An animation is told before the pixels, and has controls of its pictures.
    """
    before = found[: [one.kind for one in found].index(b"IDAT")]
    told = next((one for one in before if one.kind == b"acTL" and one.is_sound and len(one.data) == 8), None)
    if told is None or not any(one.kind == b"fcTL" for one in found):
        return 1
    return int.from_bytes(told.data[:4], "big") + all(one.kind != b"fcTL" for one in before)


def _has_palette(found: list[Chunk]) -> bool:
    """Whether a palette that is sound stands before the pixels."""
    before = found[: [*(one.kind for one in found), b"IDAT"].index(b"IDAT")]
    return any(one.kind == b"PLTE" and one.is_sound and len(one.data) >= 3 for one in before)


def _whole(chunk: Chunk) -> bytes:
    checksum = chunk.checksum or zlib.crc32(chunk.kind + chunk.data).to_bytes(4, "big")
    return struct.pack(">I", len(chunk.data)) + chunk.kind + chunk.data + checksum


def _length(header: bytes) -> int:
    width, height = struct.unpack(">II", header[:8])
    bits = header[8] * _BANDS[header[9]]

    def rows(wide: int, high: int) -> int:
        return high * (1 + (wide * bits + 7) // 8) if wide > 0 else 0

    if header[12] == 0:
        return rows(width, height)
    return sum(rows(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in _PASSES)
