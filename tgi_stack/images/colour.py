"""Colours to sRGB, by what a profile contains, never by its name."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

IGNORED = "image.profile"  # the flag of a picture whose profile counts for nothing
SAME = 2  # levels of 255 that a profile may differ from sRGB by, and be called sRGB
_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_CLASSES = (b"mntr", b"scnr", b"prtr", b"spac")  # ICC.1, table 18; the others are no spaces of pictures
_ERRORS = (ImageCms.PyCMSError, OSError, ValueError, TypeError)


class ProfileError(ValueError):
    """A profile that can't be used."""


def to_srgb(image: Image.Image, profile: bytes | None, *, is_grey: bool = False) -> tuple[Image.Image, bool]:
    """An RGB image in sRGB, and whether the profile was one that could be used.

    Args:
        image: of mode L, RGB or CMYK.
        profile: as the file has it; without one colours are sRGB's.
        is_grey: three bands of an image all hold its grey.
    """
    if profile is None:
        return image.convert("RGB"), True
    try:
        space = _space(profile)
        if space == "L" and image.mode == "RGB" and is_grey:
            image = image.getchannel(0)
        elif space == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if space != image.mode:
            raise ProfileError
        transform = _transform(profile, space)
        converted = image if transform is None else ImageCms.applyTransform(image, transform)
        return (converted or image).convert("RGB"), True
    except _ERRORS:
        return image.convert("RGB"), False


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """An image of CIELAB, which needs no profile."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image


def _space(profile: bytes) -> str:
    """The mode of the pixels that a profile is for (ICC.1, table 15)."""
    if profile[36:40] != b"acsp" or profile[12:16] not in _CLASSES or profile[16:20] not in _SPACES:
        raise ProfileError
    return _SPACES[profile[16:20]]


@lru_cache(maxsize=32)
def _transform(profile: bytes, space: str) -> Any:
    """What brings pixels of a profile to sRGB; None for one that is sRGB by what it makes of colours."""
    source = ImageCms.getOpenProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), space, "RGB")
    if space == "CMYK":
        return transform
    probe = _ramp() if space == "L" else _cube()
    seen = ImageCms.applyTransform(probe, transform)
    if seen is None:
        raise ProfileError
    difference = np.asarray(seen, int) - np.asarray(probe.convert("RGB"), int)
    return transform if np.abs(difference).max() > SAME else None


def _ramp() -> Image.Image:
    return Image.fromarray(np.arange(256, dtype=np.uint8)[None])


def _cube() -> Image.Image:
    """Nine levels of each colour, all with all."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3))
