"""PNGs: what codes no pixels may be broken or large; pixels are held to their checksums and their number."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.images.test_jpeg import GRID, SIDE, put, scene
from tgi_stack.errors import ImageError
from tgi_stack.images import png
from tgi_stack.images.prepare import prepare
from tgi_stack.types import PreparedImage


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, checksum: bytes | None = None) -> bytes:
    sum = zlib.crc32(kind + data).to_bytes(4, "big") if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + sum


def drawn(
    rows: bytes, bits: int = 8, colours: int = 2, *, interlaced: bool = False, more: bytes = b""
) -> bytes:
    """A PNG of these rows, each with its filter before it."""
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colours, 0, 0, interlaced)
    return (
        png.SIGNATURE
        + chunk(b"IHDR", header)
        + more
        + chunk(b"IDAT", zlib.compress(rows, 1))
        + chunk(b"IEND", b"")
    )


SOUND = encoded(scene())
FIRST = 33  # where the first chunk behind the header begins
PIXELS = SOUND.index(b"IDAT") - 4
PACKED = SOUND[PIXELS + 8 : -16]


def before(*chunks: bytes) -> bytes:
    return put(SOUND, FIRST, b"".join(chunks))


def with_pixels(*parts: bytes) -> bytes:
    return SOUND[:PIXELS] + b"".join(parts) + SOUND[-12:]


def pixels(prepared: PreparedImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(prepared.jpeg)))


ODDITIES = {
    **{
        f"a broken {kind.decode()}": before(chunk(kind, b"\0" * 9, b"none"))
        for kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"pHYs", b"tIME", b"bKGD", b"acTL", b"tRNS", b"abCd")
    },
    **{
        f"a short {kind.decode()}": before(chunk(kind, b""))
        for kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"pHYs", b"tRNS", b"acTL", b"fcTL", b"sBIT", b"hIST")
    },
    "a text that unpacks to 2 MiB": before(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**21)))),
    "its orientation unpacks to 2 MiB": before(
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**21)))
    ),
    "an orientation that is none": before(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0garbage")),
    "many texts": before(*[chunk(b"tEXt", b"k\0" + bytes(2**20))] * 70),
    "a palette that is none": before(chunk(b"PLTE", b"abcd")),
    "an unknown chunk that must be known": before(chunk(b"ABCD", b"x")),
    "pixels in parts": with_pixels(
        chunk(b"IDAT", PACKED[:99]), chunk(b"IDAT", b""), chunk(b"IDAT", PACKED[99:])
    ),
    "pixels with a text between": with_pixels(
        chunk(b"IDAT", PACKED[:99]), chunk(b"tEXt", b"k\0v", b"none"), chunk(b"IDAT", PACKED[99:])
    ),
    "a wrong sum behind the rows": with_pixels(chunk(b"IDAT", PACKED[:-4] + b"none")),
    "no sum behind the rows": with_pixels(chunk(b"IDAT", PACKED[:-4])),
    "an animation that has no pictures": before(chunk(b"acTL", struct.pack(">II", 1, 0))),
    "an animation told too late": put(SOUND, len(SOUND) - 12, chunk(b"acTL", struct.pack(">II", 9, 0))),
    "more than pixels": with_pixels(chunk(b"IDAT", PACKED + b"more")),
    "no end": SOUND[:-12],
    "a broken end": SOUND[:-4] + b"none",
    "a trailer": SOUND + SOUND,
}


@pytest.mark.parametrize("name", ODDITIES)
def test_oddities_that_cost_no_pixel_pass(name: str) -> None:
    prepared = prepare(ODDITIES[name], "x.png", GRID)
    assert prepared.flags == ()
    assert np.array_equal(pixels(prepared), pixels(prepare(SOUND, "x.png", GRID)))


def of_header(place: int, value: int) -> bytes:
    header = bytearray(SOUND[16:29])
    header[place] = value
    return put(SOUND, 8, chunk(b"IHDR", bytes(header)), FIRST - 8)


DAMAGE = {
    "a wrong checksum": (with_pixels(chunk(b"IDAT", PACKED, b"none")), "image.corrupt"),
    "a broken header": (put(SOUND, FIRST - 4, b"none", 4), "image.corrupt"),
    **{
        f"no such kind of header: {place}, {value}": (of_header(place, value), "image.corrupt")
        for place, value in ((8, 3), (8, 0), (9, 5), (9, 1), (10, 1), (11, 1), (12, 2))
    },
    "no palette": (of_header(9, 3), "image.corrupt"),
    "a palette behind the pixels": (
        of_header(9, 3)[:-12] + chunk(b"PLTE", bytes(768)) + SOUND[-12:],
        "image.corrupt",
    ),
    "no pixels": (with_pixels(), "image.truncated"),
    "cut in its pixels": (SOUND[: len(SOUND) // 2], "image.truncated"),
    "cut in their checksum": (SOUND[:-14], "image.truncated"),
    "a part of the pixels is missing": (with_pixels(chunk(b"IDAT", PACKED[:99])), "image.truncated"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_costs_pixels_is_refused(name: str) -> None:
    content, type = DAMAGE[name]
    with pytest.raises(ImageError, match=r"x\.png") as caught:
        prepare(content, "x.png", GRID)
    assert caught.value.type == type


def test_any_changed_bit_is_found() -> None:
    chosen = random.Random(5)
    right = pixels(prepare(SOUND, "x.png", GRID))
    for place in chosen.sample(range(len(png.SIGNATURE), len(SOUND)), 150):
        spoilt = put(SOUND, place, bytes([SOUND[place] ^ 1 << chosen.randrange(8)]), 1)
        with contextlib.suppress(ImageError):
            assert np.array_equal(pixels(prepare(spoilt, "x.png", GRID)), right), place


def passes(bits: int) -> list[int]:
    """Bytes of rows in each pass of an interlaced picture, whose side is a multiple of 8."""
    sides = [(8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2)]
    return [SIDE // dy * (1 + SIDE // dx * bits // 8) for dx, dy in sides]


@pytest.mark.parametrize(
    ("bits", "colours", "bands"), [(8, 2, 3), (8, 0, 1), (16, 0, 1), (8, 6, 4), (1, 0, 1)]
)
def test_rows_that_are_missing_are_noticed(bits: int, colours: int, bands: int) -> None:
    length = SIDE * (1 + SIDE * bits * bands // 8)
    interlaced = passes(bits * bands)
    for rows, turns in ((length, False), (sum(interlaced), True)):
        black = bytes(rows)
        assert prepare(drawn(black, bits, colours, interlaced=turns), "x.png", GRID).flags == ()
        white = b"".join(b"\0" + b"\xff" * (length // SIDE - 1) for _ in range(SIDE))[:rows]
        for missing in (1, rows // 2, rows - interlaced[0], rows):
            for content in (black, white) if not turns else (black,):
                with pytest.raises(ImageError, match=r"x\.png") as caught:
                    prepare(drawn(content[: rows - missing], bits, colours, interlaced=turns), "x.png", GRID)
                assert caught.value.type == "image.truncated"


@pytest.mark.parametrize(
    ("colours", "key", "counts"),
    [(0, b"\0\x3c", True), (0, b"\0\x3c\0\0", False), (2, b"\0\x3c" * 3, True), (2, b"\0\x3c", False)],
)
def test_transparency_of_a_wrong_length_is_none(colours: int, key: bytes, counts: bool) -> None:
    row = b"\0" + b"\x3c" * SIDE * (3 if colours == 2 else 1)
    prepared = prepare(drawn(row * SIDE, 8, colours, more=chunk(b"tRNS", key)), "x.png", GRID)
    assert abs(int(pixels(prepared)[9, 9, 0]) - (255 if counts else 60)) <= 2


@pytest.mark.parametrize(
    ("content", "frames"),
    [
        (encoded(scene()), False),
        (encoded(scene(), save_all=True, append_images=[scene().rotate(90)]), True),
        (encoded(scene(), save_all=True, append_images=[scene().rotate(9)], default_image=True), True),
        (before(chunk(b"acTL", struct.pack(">II", 1, 0)), chunk(b"fcTL", bytes(26))), False),
    ],
)
def test_animations_are_told(content: bytes, frames: bool) -> None:
    assert prepare(content, "x.png", GRID).flags == (("image.frames",) if frames else ())
