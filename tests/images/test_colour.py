"""Colours are what a profile contains; right values are computed here, from formulas."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageCms

from tgi_stack.images import colour, colour_tags
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.tiny import TINY

GRID = Grid.from_checkpoint(TINY / "vision")
# White, red, green, blue as x, y; and the matrices from linear RGB to XYZ (IEC 61966-2-1; SMPTE EG 432-1).
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
FROM_SRGB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
FROM_P3 = np.array([[0.4866, 0.2657, 0.1982], [0.2290, 0.6917, 0.0793], [0.0, 0.0451, 1.0439]])
FROM_ADOBE = np.array([[0.5767, 0.1856, 0.1882], [0.2973, 0.6274, 0.0753], [0.0270, 0.0707, 0.9911]])
COLOURS = [(60, 60, 60), (200, 120, 90), (90, 140, 110), (255, 255, 255), (0, 0, 0), (40, 60, 120)]


def shown(stored: Sequence[float], gamma: float | None, matrix: np.ndarray = FROM_SRGB) -> np.ndarray:
    """What sRGB shows of stored values: linear light, other primaries, sRGB's own curve."""
    values = np.array(stored, float) / 255
    linear = (
        values**gamma
        if gamma
        else np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    )
    light = (np.linalg.inv(FROM_SRGB) @ matrix @ linear).clip(0, 1)
    seen: np.ndarray = 255 * np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    return seen


def grey_profile(gamma: float) -> bytes:
    tone = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = [(b"kTRC", tone), (b"wtpt", white)]
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4xI4s4s4s", size, 0x02400000, b"mntr", b"GRAY", b"XYZ ").ljust(36, b"\0")
    head += b"acsp" + bytes(28) + white[8:]
    return head.ljust(128, b"\0") + table + body


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if format == "JPEG":
        options |= {"quality": 98, "subsampling": 0}
    if format in ("AVIF", "HEIF"):
        options |= {"quality": 98}
    if format == "WEBP":
        options |= {"lossless": True}
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def sent(content: bytes, flags: tuple[str, ...] = ()) -> np.ndarray:
    prepared = prepare(content, "x", GRID)
    assert prepared.flags == flags
    mean: np.ndarray = np.asarray(Image.open(io.BytesIO(prepared.jpeg)), float).reshape(-1, 3).mean(0)
    return mean


FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"]
SPACES = {
    "linear": (SRGB, 1.0, FROM_SRGB),
    "gamma 1.8": (SRGB, 1.8, FROM_SRGB),
    "gamma 2.2": (SRGB, 2.2, FROM_SRGB),
    "Display P3": (P3, None, FROM_P3),
    "Adobe RGB": (ADOBE, 2.2, FROM_ADOBE),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("space", SPACES)
def test_a_profile_is_applied_in_each_format(format: str, space: str) -> None:
    points, gamma, matrix = SPACES[space]
    icc = colour_tags.profile(points, gamma or colour_tags.SRGB_CURVE)
    for stored in COLOURS:
        found = sent(encoded(Image.new("RGB", (256, 256), stored), format, icc_profile=icc))
        assert np.abs(found - shown(stored, gamma, matrix)).max() < 4, (stored, found)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
@pytest.mark.parametrize("level", [0, 60, 128, 255])
def test_a_grey_profile_is_applied(format: str, gamma: float, level: int) -> None:
    content = encoded(Image.new("L", (256, 256), level), format, icc_profile=grey_profile(gamma))
    assert np.abs(sent(content) - shown([level] * 3, gamma)).max() < 4


def test_grey_in_colour_has_colours_profile() -> None:
    icc = colour_tags.profile(SRGB, 1.0)
    assert np.abs(sent(encoded(Image.new("L", (256, 256), 60), "JPEG", icc_profile=icc)) - 133).max() < 3


@pytest.mark.parametrize(
    "icc",
    [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), colour_tags.profile(SRGB, 0.0)],
)
def test_srgb_is_known_by_what_it_makes(icc: bytes) -> None:
    assert colour._transform(icc.replace("sRGB".encode("utf-16-be"), bytes(8)), "RGB") is None


@pytest.mark.parametrize(("points", "gamma"), [(SRGB, 1.0), (SRGB, 2.4), (P3, 0.0), (ADOBE, 2.2)])
def test_what_is_not_srgb_is_converted(points: tuple[float, ...], gamma: float) -> None:
    assert colour._transform(colour_tags.profile(points, gamma), "RGB") is not None


LINEAR = colour_tags.profile(SRGB, 1.0)
BROKEN = {
    "no profile": b"no profile",
    "cut": LINEAR[:200],
    "header alone": LINEAR[:128],
    "of greys": grey_profile(1.0),
    "of inks": LINEAR[:16] + b"CMYK" + LINEAR[20:],
    "of Lab": LINEAR[:16] + b"Lab " + LINEAR[20:],
    "a link": LINEAR[:12] + b"link" + LINEAR[16:],
    "zeros": bytes(500),
}


@pytest.mark.parametrize("format", FORMATS[:4])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_profile_is_flagged(format: str, name: str) -> None:
    content = encoded(Image.new("RGB", (256, 256), (90, 140, 110)), format, icc_profile=BROKEN[name])
    assert np.abs(sent(content, ("image.profile",)) - (90, 140, 110)).max() < 4


def test_a_profile_with_a_missing_part_is_flagged() -> None:
    content = encoded(Image.new("RGB", (256, 256), (90, 140, 110)), "JPEG", icc_profile=LINEAR)
    place = content.index(b"ICC_PROFILE\0") + 13
    missing = content[:place] + b"\2" + content[place + 1 :]  # this one is the first of two
    assert np.abs(sent(missing, ("image.profile",)) - (90, 140, 110)).max() < 4


def test_parts_that_contradict_are_flagged() -> None:
    content = encoded(Image.new("RGB", (256, 256), (90, 140, 110)), "JPEG", icc_profile=LINEAR)
    place = content.index(b"ICC_PROFILE\0") - 4
    part = content[place : place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")]
    twice = content[:place] + part + content[place:]
    assert np.abs(sent(twice) - sent(content)).max() == 0
    for other in (part[:-1] + b"\7", part[:17] + b"\2" + part[18:]):  # other content, another count
        spoilt = content[:place] + other + content[place:]
        assert np.abs(sent(spoilt, ("image.profile",)) - (90, 140, 110)).max() < 4


def test_a_profile_in_many_parts_is_joined() -> None:
    large = LINEAR + bytes(200_000)
    large = struct.pack(">I", len(large)) + large[4:]
    content = encoded(Image.new("RGB", (256, 256), (60, 60, 60)), "JPEG", icc_profile=large)
    assert content.count(b"ICC_PROFILE\0") == 4
    assert np.abs(sent(content) - 133).max() < 3


# -- PNG's own words ---------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes, *, checksum: bool = True) -> bytes:
    crc = zlib.crc32(kind + data) if checksum else 1
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def gamma(value: int) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", value))


def chromaticities(points: Sequence[float]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(n * 100_000) for n in points)))


def coded(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


ICCP = chunk(b"iCCP", b"x\0\0" + zlib.compress(LINEAR))
NAMED = {
    "gAMA of sRGB": (gamma(45455), None, FROM_SRGB),
    "gAMA linear": (gamma(100_000), 1.0, FROM_SRGB),
    "gAMA 1.8": (gamma(55556), 1.8, FROM_SRGB),
    "cHRM of P3": (chromaticities(P3), None, FROM_P3),
    "cHRM of sRGB, gAMA": (chromaticities(SRGB) + gamma(45455), None, FROM_SRGB),
    "sRGB before gAMA": (gamma(100_000) + chunk(b"sRGB", b"\0"), None, FROM_SRGB),
    "iCCP before sRGB": (ICCP + chunk(b"sRGB", b"\0"), 1.0, FROM_SRGB),
    "cICP before iCCP": (ICCP + coded(12, 13), None, FROM_P3),
    "cICP of sRGB": (coded(1, 13), None, FROM_SRGB),
    "cICP linear": (coded(1, 8), 1.0, FROM_SRGB),
}
STORED = (90, 140, 110)


def png(chunks: bytes, mode: str = "RGB") -> bytes:
    content = encoded(Image.new(mode, (256, 256), STORED if mode == "RGB" else (*STORED, 128)), "PNG")
    return content[:33] + chunks + content[33:]


@pytest.mark.parametrize("name", NAMED)
def test_what_a_png_names_is_applied(name: str) -> None:
    chunks, exponent, matrix = NAMED[name]
    assert np.abs(sent(png(chunks)) - shown(STORED, exponent, matrix)).max() < 4


@pytest.mark.parametrize(
    "chunks",
    [
        gamma(0),
        chromaticities([0] * 8),
        chunk(b"gAMA", b"\0"),
        coded(9, 16),  # HDR
        chunk(b"iCCP", b"x\0\0" + zlib.compress(LINEAR)[:50]),
        chunk(b"iCCP", b"x\0\7" + zlib.compress(LINEAR)),
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**25))),
        chunk(b"iCCP", b"x"),
        chunk(b"iCCP", b"x\0\0" + zlib.compress(LINEAR), checksum=False),
    ],
)
def test_broken_words_of_a_png_are_flagged(chunks: bytes) -> None:
    assert np.abs(sent(png(chunks), ("image.profile",)) - STORED).max() < 4


def test_an_avif_that_names_primaries_is_converted() -> None:
    content = encoded(Image.new("RGB", (256, 256), STORED), "AVIF")
    place = content.index(b"colrnclx") + 8
    content = content[:place] + struct.pack(">HH", 12, 13) + content[place + 4 :]
    assert np.abs(sent(content) - shown(STORED, None, FROM_P3)).max() < 5


# -- what is clear -----------------------------------------------------------------------------------


def test_the_clear_is_white_by_seen_colours() -> None:
    half = 128 / 255
    right = half * shown(STORED, 1.0) + (1 - half) * 255
    assert np.abs(sent(png(ICCP, "RGBA")) - right).max() < 4


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_the_clear_is_white_in_each_format(format: str) -> None:
    content = encoded(Image.new("RGBA", (256, 256), (0, 0, 0, 0)), format)
    assert sent(content).min() > 252


def test_a_profile_of_other_bands_is_flagged() -> None:
    content = encoded(Image.new("CMYK", (256, 256), (10, 200, 180, 20)), "TIFF", icc_profile=LINEAR)
    sent(content, ("image.profile",))
