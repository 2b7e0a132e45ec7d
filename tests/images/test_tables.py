"""Profiles that hold tables, of inks too: what they make of each corner is right here by construction."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest
from PIL import Image

from tests.images.test_colour import encoded, sent, shown

# From linear sRGB to XYZ, adapted to daylight of 5000 K (IEC 61966-2-1 with Bradford); and that light itself.
TO_D50 = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
D50 = np.array([0.9642, 1.0, 0.8249])
MODES = {1: ("L", b"GRAY"), 3: ("RGB", b"RGB "), 4: ("CMYK", b"CMYK")}
TOLERANCE = 8  # levels: of JPEG, of 8 bits of Lab, and of how the engine brings black to black
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
Corners = dict[tuple[int, ...], tuple[int, ...]]


def corners(inputs: int) -> Corners:
    """What each mixture of none and all of the inputs is to look like: nothing that is guessed by chance.

    But white is white and black is black: the engine sees to that by itself, whatever a table says.
    """
    drawn = random.Random(inputs)
    every = product((0, 1), repeat=inputs)
    found: Corners = {corner: tuple(drawn.randint(60, 200) for _ in range(3)) for corner in every}
    none, whole = (0,) * inputs, (1,) * inputs
    return found | dict(zip((none, whole), (WHITE, BLACK) if inputs == 4 else (BLACK, WHITE), strict=True))


def lab(colour: tuple[int, ...]) -> np.ndarray:
    values = np.array(colour) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    light = TO_D50 @ linear / D50
    x, y, z = np.where(light > (6 / 29) ** 3, np.cbrt(light), light * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def profile(space: bytes, pcs: bytes, version: int, table: bytes) -> bytes:
    """One tag, A2B0, with this content."""
    size = 128 + 4 + 12 + len(table)
    head = struct.pack(">I4xI4s4s4s", size, version, b"prtr", space, pcs).ljust(36, b"\0")
    head += b"acsp" + bytes(28) + struct.pack(">3i", *(round(value * 65536) for value in D50))
    return head.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


IDENTITY = struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))


def of_8_bits(inputs: int, entries: Iterator[np.ndarray]) -> tuple[bytes, bytes, int]:
    """lut8Type (ICC.1, 10.10)."""
    straight = bytes(range(256))
    values = b"".join(bytes((e * [2.55, 1, 1] + [0, 128, 128]).round().astype(np.uint8)) for e in entries)
    head = b"mft1" + bytes(4) + bytes([inputs, 3, 2, 0]) + IDENTITY
    return head + straight * inputs + values + straight * 3, b"Lab ", 0x02400000


def of_16_bits(inputs: int, entries: Iterator[np.ndarray]) -> tuple[bytes, bytes, int]:
    """lut16Type (10.11), whose Lab ends at 0xFF00."""
    scaled = ((e + np.array([0, 128, 128])) * [652.8, 256, 256] for e in entries)
    return lut16(inputs, scaled), b"Lab ", 0x02400000


def lut16(inputs: int, entries: Iterator[np.ndarray]) -> bytes:
    straight = struct.pack(">HH", 0, 65535)
    values = b"".join(e.round().astype(">u2").tobytes() for e in entries)
    head = b"mft2" + bytes(4) + bytes([inputs, 3, 2, 0]) + IDENTITY + struct.pack(">HH", 2, 2)
    return head + straight * inputs + values + straight * 3


def of_curves(inputs: int, entries: Iterator[np.ndarray]) -> tuple[bytes, bytes, int]:
    """lutAToBType (10.12): curves before a table and behind it."""
    straight = b"curv" + bytes(8)
    scaled = ((e + np.array([0, 128, 128])) * [655.35, 257, 257] for e in entries)
    values = b"".join(e.round().astype(">u2").tobytes() for e in scaled)
    table = bytes([2] * inputs).ljust(16, b"\0") + bytes([2, 0, 0, 0]) + values
    table += bytes(-len(table) % 4)
    places = (32, 0, 0, 32 + 36, 32 + 36 + len(table))
    head = b"mAB " + bytes(4) + bytes([inputs, 3, 0, 0]) + struct.pack(">5I", *places)
    return head + straight * 3 + table + straight * inputs, b"Lab ", 0x04200000


KINDS: dict[str, Callable[[int, Iterator[np.ndarray]], tuple[bytes, bytes, int]]] = {
    "mft1": of_8_bits, "mft2": of_16_bits, "mAB": of_curves,
}  # fmt: skip


def tabled(kind: str, inputs: int) -> bytes:
    table, pcs, version = KINDS[kind](inputs, map(lab, corners(inputs).values()))
    return profile(MODES[inputs][1], pcs, version, table)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("inputs", "format"),
    [(1, "PNG"), (1, "JPEG"), (3, "PNG"), (3, "JPEG"), (3, "TIFF"), (3, "WEBP"), (4, "JPEG"), (4, "TIFF")],
)
def test_a_table_is_applied(kind: str, inputs: int, format: str) -> None:
    icc = tabled(kind, inputs)
    for corner, looks in corners(inputs).items():
        stored = tuple(255 * part for part in corner)
        image = Image.new(MODES[inputs][0], (256, 256), stored if inputs > 1 else stored[0])
        found = sent(encoded(image, format, icc_profile=icc))
        assert np.abs(found - looks).max() < TOLERANCE, (corner, looks, found)


@pytest.mark.parametrize("stored", [(60, 60, 60), (200, 120, 90), (255, 255, 255), (0, 0, 0)])
def test_a_table_to_xyz_is_applied(stored: tuple[int, int, int]) -> None:
    entries = (TO_D50 @ corner * 32768 for corner in product((0, 1), repeat=3))  # linear: two points do
    icc = profile(b"RGB ", b"XYZ ", 0x02400000, lut16(3, entries))
    found = sent(encoded(Image.new("RGB", (256, 256), stored), "PNG", icc_profile=icc))
    assert np.abs(found - shown(stored, 1.0)).max() < TOLERANCE


def spoilt(icc: bytes, how: str) -> bytes:
    """A profile of tables that is cut, too long, or says more than it holds."""
    place = 144  # of the table
    if how.startswith("cut"):
        return icc[: int(how[4:])]
    return {
        "longer than it says": icc + bytes(1000),
        "shorter than it says": struct.pack(">I", 2 * len(icc)) + icc[4:],
        "a table beyond its end": icc[:136] + struct.pack(">II", len(icc) + 100, 500) + icc[144:],
        "a table of 4 GiB": icc[:140] + b"\xff\xff\xff\xff" + icc[144:],
        "many tags": icc[:128] + b"\xff\xff\xff\xff" + icc[132:],
        "no inputs": icc[: place + 8] + b"\0" + icc[place + 9 :],
        "more inputs": icc[: place + 8] + b"\x0f" + icc[place + 9 :],
        "a huge grid": icc[: place + 10] + b"\xff" + icc[place + 11 :],
        "no table's name": icc[:place] + b"none" + icc[place + 4 :],
        "no magic": icc[:36] + b"none" + icc[40:],
    }[how]


SPOILT = ["cut 0", "cut 1", "cut 127", "cut 128", "cut 140", "cut 160", "cut 200", "longer than it says",
          "shorter than it says", "a table beyond its end", "a table of 4 GiB", "many tags", "no inputs",
          "more inputs", "a huge grid", "no table's name", "no magic"]  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [3, 4])
def test_a_spoilt_table_harms_no_picture(how: str, kind: str, inputs: int) -> None:
    """It is applied as far as it is whole, or ignored with a flag."""
    icc, corner = spoilt(tabled(kind, inputs), how), (1, 0, 1, 0)[:inputs]
    stored = tuple(255 * part for part in corner)
    content = encoded(Image.new(MODES[inputs][0], (256, 256), stored), "TIFF", icc_profile=icc)
    without = sent(encoded(Image.new(MODES[inputs][0], (256, 256), stored), "TIFF"))
    looks = corners(inputs)[corner]
    try:
        assert np.abs(sent(content, ("image.profile",)) - without).max() < TOLERANCE
    except AssertionError:
        assert np.abs(sent(content) - (without if how == "cut 0" else looks)).max() < TOLERANCE
