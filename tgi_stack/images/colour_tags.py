"""Colour spaces that files name by numbers in place of a profile: chunks of PNG, boxes of AVIF and HEIC."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

import numpy as np
from PIL import Image

from tgi_stack.images.png import chunks

Chromaticities = tuple[float, ...]  # x, y of white, red, green, blue

# ITU-T H.273, tables 2 and 3
_D65 = (0.3127, 0.3290)
_PRIMARIES: dict[int, Chromaticities] = {
    1: (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),  # BT.709 and sRGB
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
_UNKNOWN = 2
_COLOURS = frozenset((b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"))
_MOST_BYTES = 16 * 2**20  # of a profile
SRGB_CURVE = 0.0  # in place of an exponent
# BT.709 and its kin name a camera's curve; viewers show such pictures by sRGB's.
_GAMMAS = {
    13: SRGB_CURVE,
    1: SRGB_CURVE,
    6: SRGB_CURVE,
    14: SRGB_CURVE,
    15: SRGB_CURVE,
    4: 2.2,
    5: 2.8,
    8: 1.0,
}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])


def profile_of(image: Image.Image, content: bytes) -> bytes | None:
    """The colour profile of a file, or one made of what it names in its place.

    None stands for sRGB, or for a file that says nothing; empty bytes for what can't be used.
    """
    if image.format == "PNG":
        return _of_png(content)
    if image.info.get("icc_profile"):
        return bytes(image.info["icc_profile"])
    if image.format in ("AVIF", "HEIF"):
        place = content.find(b"colrnclx")
        if place >= 0 and len(content) >= place + 12:
            return _of_codes(*struct.unpack(">HH", content[place + 8 : place + 12]))
    return None


def _of_png(png: bytes) -> bytes | None:
    """PNG, third edition, 4.3: cICP counts first, then iCCP, sRGB, gAMA and cHRM."""
    found: dict[bytes, bytes] = {}
    for one in chunks(png, _COLOURS | {b"IDAT"}):
        if one.kind == b"IDAT":
            break
        if one.kind in _COLOURS:
            found.setdefault(one.kind, one.data if one.is_sound else b"")
    if len(coded := found.get(b"cICP", b"")) == 4:
        return _of_codes(coded[0], coded[1])
    if b"iCCP" in found:
        return _unzipped(found[b"iCCP"])
    gamma, points = found.get(b"gAMA"), found.get(b"cHRM")
    if b"sRGB" in found or (gamma is None and points is None):
        return None
    if (gamma is not None and len(gamma) != 4) or (points is not None and len(points) != 32):
        return b""
    exponent = None if gamma is None else int.from_bytes(gamma, "big") / 100_000
    if exponent is not None and not 0.1 <= exponent <= 10:
        return b""
    where = _PRIMARIES[1] if points is None else tuple(n / 100_000 for n in struct.unpack(">8I", points))
    return profile(where, SRGB_CURVE if exponent is None or _is_srgb(exponent) else 1 / exponent)


def _unzipped(chunk: bytes) -> bytes:
    """The profile of an iCCP chunk, behind its name, a zero and the method; empty where it is broken."""
    packed = chunk.partition(b"\0")[2]
    try:
        found = zlib.decompressobj().decompress(packed[1:], _MOST_BYTES + 1)
    except zlib.error:
        return b""
    return found if packed[:1] == b"\0" and len(found) <= _MOST_BYTES else b""


def _is_srgb(exponent: float) -> bool:
    """Whether an exponent is the one that writers of sRGB give, 1/2.2, within five hundredths."""
    return abs(exponent * 2.2 - 1) < 0.05


def _of_codes(primaries: int, transfer: int) -> bytes | None:
    if primaries == _UNKNOWN or transfer == _UNKNOWN:
        return None
    if primaries not in _PRIMARIES or transfer not in _GAMMAS:
        return b""
    return profile(_PRIMARIES[primaries], _GAMMAS[transfer])


# -- profiles (ICC.1:2010) -----------------------------------------------------------------------------


@lru_cache(maxsize=32)
def profile(points: Chromaticities, gamma: float) -> bytes:
    """A profile of these chromaticities and this exponent; empty where no colours are so."""
    try:
        matrix = _to_d50(np.array(points, float).reshape(4, 2))
    except (np.linalg.LinAlgError, ValueError):
        return b""
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 4:
        return b""
    tags = [(b"wtpt", _xyz(_D50)), *zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, matrix.T), strict=True)]
    tags += [(name, _curve(gamma)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s", 128 + len(table) + len(body), bytes(4), 0x04200000, b"mntr", b"RGB ", b"XYZ "
    )
    head = head.ljust(36, b"\0") + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return head.ljust(128, b"\0") + table + body


def _to_d50(points: np.ndarray) -> np.ndarray:
    """The matrix from linear RGB to XYZ, adapted to the white that profiles are told by."""
    xyz = np.stack([points[:, 0], points[:, 1], 1 - points.sum(1)], 1) / points[:, 1:]
    white, primaries = xyz[0], xyz[1:].T
    scaled = primaries * np.linalg.solve(primaries, white)
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted: np.ndarray = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ scaled
    return adapted


def _curve(gamma: float) -> bytes:
    if gamma == SRGB_CURVE:  # IEC 61966-2-1
        return struct.pack(">4s4xHH", b"para", 3, 0) + _fixed(
            2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045
        )
    return struct.pack(">4s4xHH", b"para", 0, 0) + _fixed(gamma)


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)
