"""Samples of any depth keep their tones, or the row fails and names the depth; files are written by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tgi_stack.errors import ImageError
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.tiny import TINY

GRID = Grid.from_checkpoint(TINY / "vision")
SIDE = 256  # on the grid, so that nothing is resized
RAMP = np.tile(np.arange(SIDE) / (SIDE - 1), (SIDE, 1))  # from black to white


def sent(content: bytes) -> np.ndarray:
    pixels: np.ndarray = np.asarray(Image.open(io.BytesIO(prepare(content, "x", GRID).jpeg)), float)
    return pixels


def tiff(
    data: bytes,
    bits: int,
    *,
    order: str = "<",
    photometric: int = 1,
    kind: int = 1,
    samples: int = 1,
    **more: int,
) -> bytes:
    """One strip."""
    values = {256: SIDE, 257: SIDE, 259: 1, 262: photometric, 273: 8, 277: samples, 278: SIDE, 279: len(data)}
    values |= {258: bits, 339: kind, **{int(tag[1:]): value for tag, value in more.items()}}
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(values.items()))
    return (
        mark
        + struct.pack(order + "I", 8 + len(data))
        + data
        + struct.pack(order + "H", len(values))
        + entries
        + bytes(4)
    )


def packed(levels: np.ndarray, bits: int) -> bytes:
    """Unsigned samples of any number of bits, the rows on whole bytes."""
    each = ((levels[..., None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
    return np.packbits(each.reshape(levels.shape[0], -1), axis=1).tobytes()


def stored(bits: int, order: str, kind: int) -> bytes:
    if kind == 3:
        return bytes(RAMP.astype(f"{order}f{bits // 8}").tobytes())
    most = 2 ** (bits - (kind == 2)) - 1
    levels = (RAMP * most).round()
    if bits in (8, 16, 32):
        return bytes(levels.astype(f"{order}{'i' if kind == 2 else 'u'}{bits // 8}").tobytes())
    return packed(levels.astype(np.int64), bits)


SAMPLES = [*((bits, 1) for bits in (1, 2, 4, 8, 10, 12, 14, 16, 24, 32, 64)), (8, 2), (16, 2), (32, 2)]
SAMPLES += [(16, 3), (32, 3), (64, 3)]


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "kind"), SAMPLES)
def test_tones_are_kept_or_the_depth_named(bits: int, kind: int, order: str, photometric: int) -> None:
    data = stored(bits, order, kind) if bits not in (24, 64) or kind == 3 else bytes(SIDE * SIDE * bits // 8)
    content = tiff(data, bits, order=order, photometric=photometric, kind=kind)
    most = 2 ** min(bits, 8) - 1 if kind == 1 else 255
    right = np.round(RAMP * most) * 255 / most
    try:
        found = sent(content)[..., 0]
    except ImageError as error:
        assert error.type == "image.unsupported"  # noqa: PT017
        assert f"{bits} bits" in str(error)  # noqa: PT017
        assert kind != 1 or photometric != 1 or bits not in (1, 2, 4, 8, 16)
        return
    expected = right if photometric else 255 - right
    assert np.abs(found - expected).mean() < (12 if bits < 4 else 3)  # edges ring in what is sent


@pytest.mark.parametrize("bits", [16, 32])
@given(level=st.integers(0, 65_535))
def test_each_level_of_16_bits_is_scaled(bits: int, level: int) -> None:
    data = np.full((SIDE, SIDE), level, f"<u{bits // 8}").tobytes()
    assert abs(sent(tiff(data, bits)).mean() - level / 257) <= 1.5


@pytest.mark.parametrize("level", [2**31, 2**32 - 1, 2**31 - 1, 2**30])
def test_levels_of_32_bits_do_not_wrap(level: int) -> None:
    data = np.full((SIDE, SIDE), level, "<u4").tobytes()
    assert abs(sent(tiff(data, 32)).mean() - level / (2**32 - 1) * 255) <= 1.5


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_samples_below_zero_are_refused(bits: int) -> None:
    levels = np.full((SIDE, SIDE), -1, f"<i{bits // 8}")
    with pytest.raises(ImageError, match=f"signed, of {bits} bits"):
        prepare(tiff(levels.tobytes(), bits, kind=2), "x", GRID)


RANGES: list[tuple[float, float, int, float]] = [
    (0, 1, 0, 1),
    (1, 1, 0, 1),
    (0.5, 0.5, 0, 1),
    (0, 200, 0, 255),
    (0, 9_999, 0, 65_535),
]
RANGES += [(-3, 5, -3, 5), (0, 1e6, 0, 1e6)]


@pytest.mark.parametrize(("low", "high", "black", "white"), RANGES)
def test_floats_have_the_range_that_holds_them(low: float, high: float, black: float, white: float) -> None:
    data = (low + RAMP * (high - low)).astype("<f4")
    right = (data - black) / (white - black) * 255
    assert np.abs(sent(tiff(data.tobytes(), 32, kind=3))[..., 0] - right).mean() < 3


def test_floats_that_are_all_one_are_no_tone() -> None:
    data = np.full((SIDE, SIDE), -7, "<f4").tobytes()
    with pytest.raises(ImageError, match="floats, are -7"):
        prepare(tiff(data, 32, kind=3), "x", GRID)


# -- PNG -----------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: bytes, bits: int, colour: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, 0))
    length = len(rows) // SIDE
    lines = b"".join(b"\0" + rows[at : at + length] for at in range(0, len(rows), length))
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("key", ["none", "black", "middle", "white"])
def test_the_transparent_grey_is_white(bits: int, key: str) -> None:
    most = 2**bits - 1
    levels = (RAMP * most).round().astype(np.int64)
    chosen = {"none": None, "black": 0, "middle": int(levels[0, SIDE // 2]), "white": most}[key]
    chunks = [] if chosen is None else [chunk(b"tRNS", struct.pack(">H", chosen))]
    right = (
        np.where(levels == chosen, 255, levels * 255 / most) if chosen is not None else levels * 255 / most
    )
    found = sent(png(packed(levels, bits), bits, 0, *chunks))[..., 0]
    assert np.abs(found - right).mean() < (14 if bits < 4 else 4)


@pytest.mark.parametrize("level", [0, 30_000, 65_535])
@pytest.mark.parametrize("alpha", [0, 32_768, 65_535])
def test_16_bits_with_alpha_are_laid_on_white(level: int, alpha: int) -> None:
    right = 255 - alpha / 65_535 * (255 - level / 257)
    for bands, colour in ((1, 4), (3, 6)):
        pixel = struct.pack(">H", level) * bands + struct.pack(">H", alpha)
        assert abs(sent(png(pixel * SIDE * SIDE, 16, colour)).mean() - right) <= 2


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white_or_refused(bits: int) -> None:
    key = struct.pack(">3H", 10, 20, 30)
    pixel = bytes([10, 20, 30]) if bits == 8 else key
    content = png(pixel * SIDE * SIDE, bits, 2, chunk(b"tRNS", key))
    if bits == 8:
        assert sent(content).min() > 252
        return
    with pytest.raises(ImageError, match="16 bits with a transparent colour"):
        prepare(content, "x", GRID)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("alpha", [b"\0", b"\xff\0", b"\x80\x80", b"\xff\xff"])
def test_the_clear_of_a_palette_is_white(bits: int, alpha: bytes) -> None:
    palette = chunk(b"PLTE", bytes([200, 40, 40, 20, 60, 160]))
    index = 1
    levels = np.full((SIDE, SIDE), index)
    found = sent(png(packed(levels, bits), bits, 3, palette, chunk(b"tRNS", alpha)))
    share = (alpha[index] if len(alpha) > index else 255) / 255
    right = share * np.array([20, 60, 160]) + (1 - share) * 255
    assert np.abs(found.reshape(-1, 3).mean(0) - right).max() < 3


# -- other TIFFs -----------------------------------------------------------------------------------------


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", **options)
    return buffer.getvalue()


def scene() -> Image.Image:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return Image.fromarray(np.stack([x, y, (x + y) // 2], -1).astype(np.uint8))


def test_big_tiffs_and_packed_ones_are_read() -> None:
    plain = sent(saved(scene()))
    for options in ({"big_tiff": True}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}):
        assert np.array_equal(sent(saved(scene(), **options)), plain)


def test_planes_of_their_own_are_read() -> None:
    data = np.asarray(scene()).transpose(2, 0, 1).tobytes()
    size, at = SIDE * SIDE, 8 + 3 * SIDE * SIDE
    extra = struct.pack("<3H3I3I", 8, 8, 8, 8, 8 + size, 8 + 2 * size, size, size, size)
    entries = {256: (4, 1, SIDE), 257: (4, 1, SIDE), 258: (3, 3, at), 259: (3, 1, 1), 262: (3, 1, 2)}
    entries |= {273: (4, 3, at + 6), 277: (3, 1, 3), 278: (4, 1, SIDE), 279: (4, 3, at + 18), 284: (3, 1, 2)}
    body = b"".join(struct.pack("<HHII", tag, *rest) for tag, rest in sorted(entries.items()))
    content = (
        b"II*\0" + struct.pack("<I", at + len(extra)) + data + extra + struct.pack("<H", 10) + body + bytes(4)
    )
    assert np.abs(sent(content) - np.asarray(scene(), float)).mean() < 3


def test_cielab_is_converted() -> None:
    """sRGB's red is L* 54.29, a* 80.81, b* 69.89 under D50, which TIFF means."""
    pixel = bytes([round(54.29 * 2.55), 81, 70])
    bits = struct.pack("<3H", 8, 8, 8)
    data = bits + bytes(2) + pixel * SIDE * SIDE
    values = {256: SIDE, 257: SIDE, 259: 1, 262: 8, 273: 16, 277: 3, 278: SIDE, 279: 3 * SIDE * SIDE}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()]
    entries.append(struct.pack("<HHII", 258, 3, 3, 8))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    content = (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", 9)
        + b"".join(entries)
        + bytes(4)
    )
    assert np.abs(sent(content).reshape(-1, 3).mean(0) - [255, 0, 0]).max() < 8


def test_inks_of_a_tiff_are_no_colours() -> None:
    content = saved(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)))
    assert np.abs(sent(content).reshape(-1, 3).mean(0) - [255, 0, 0]).max() < 4


def test_a_palette_of_16_bits_is_read() -> None:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert np.abs(sent(saved(image)).reshape(-1, 3).mean(0) - [200, 100, 50]).max() < 3


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(
    ("bits", "used"), [(16, 8), (16, 9), (16, 10), (16, 12), (16, 14), (32, 12), (32, 24)]
)
def test_bits_that_are_used_are_white(bits: int, used: int, photometric: int) -> None:
    """10 or 12 bits in 16, as MaxSampleValue says."""
    if bits == 32 and photometric == 0:
        pytest.skip("not read at all")
    levels = (RAMP * (2**used - 1)).round().astype(f"<u{bits // 8}")
    found = sent(tiff(levels.tobytes(), bits, photometric=photometric, t281=2**used - 1))
    wanted = RAMP if photometric else 1 - RAMP
    assert np.abs(found.mean(axis=2) - 255 * wanted).max() <= 4  # of JPEG


@pytest.mark.parametrize("most", [3000, 0, 1, 127, 65535, 2**31])
def test_other_greatest_values_say_nothing(most: int) -> None:
    """They may be the greatest that stands in the file; TIFF 6.0 has them change no picture."""
    levels = (RAMP * 65535).round().astype("<u2")
    assert np.abs(sent(tiff(levels.tobytes(), 16, t281=most)).mean(axis=2) - 255 * RAMP).max() <= 4
    above = sent(tiff(levels.tobytes(), 16, t281=4095))  # and one that does not hold
    assert np.abs(above.mean(axis=2) - 255 * RAMP).max() <= 4


def test_a_tiff_cut_short_is_told() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (99, 99), "red").save(buffer, "TIFF", compression="tiff_lzw")
    whole = buffer.getvalue()
    for end in (len(whole) // 2, len(whole) // 4):
        with pytest.raises(ImageError, match="ends early") as caught:
            prepare(whole[:end], "x.tif", GRID)
        assert caught.value.type == "image.truncated"
