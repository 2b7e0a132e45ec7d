"""Pixels of any depth to 8 bits a band, with the tones that they have: white is white."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from tgi_stack.errors import ImageError
from tgi_stack.images import colour

# TIFF 6.0
_WIDTH, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SAMPLES = 256, 258, 262, 339, 277
_MAX_SAMPLE_VALUE = 281
_WHITE_IS_ZERO, _SIGNED = 0, 2
_TIFF = (b"II", b"MM")
MOST = {8: 2**8 - 1, 16: 2**16 - 1, 32: 2**32 - 1}


def to_8_bits(image: Image.Image, content: bytes) -> Image.Image:
    """The image in mode L, RGB, RGBA or CMYK.

    Args:
        content: the file, whose header tells what Pillow keeps to itself.

    Raises:
        ImageError: `image.unsupported` for samples whose tones nobody can know.
    """
    if image.format == "TIFF" and (grey := _of_tiff(image)) is not None:
        return grey
    if image.mode.startswith("I"):
        return _with_key(image, _scaled(np.asarray(image), MOST[16]), image.info.get("transparency"))
    if image.mode == "F":
        return _scaled_floats(np.asarray(image))
    if image.mode == "LAB":
        return colour.lab_to_srgb(image)
    if image.format == "PNG" and isinstance(image.info.get("transparency"), int | tuple):
        _mend_key(image, content)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def is_grey(image: Image.Image) -> bool:
    """Whether a file's pixels are levels of grey."""
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;")


def told(content: bytes, name: str) -> ImageError | None:
    """What to say of a TIFF that Pillow does not open: it is cut short, or its depth; None for no TIFF."""
    if not content.startswith(_TIFF):
        return None
    try:
        file = io.BytesIO(content)
        tags = TiffImagePlugin.ImageFileDirectory_v2(
            content[: 16 if content[2] == 43 or content[3] == 43 else 8]
        )
        file.seek(tags.next)
        tags.load(file)
        if _WIDTH not in tags:
            return ImageError(
                "image.truncated", f"{name} ends early: the fields that describe it are missing"
            )
        bits = tags.get(_BITS, (1,))
        kind = {1: "unsigned", 2: "signed", 3: "float"}.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "other")
        said = f"{kind} samples of {'+'.join(map(str, bits))} bits, photometric {tags.get(_PHOTOMETRIC)}"
    except Exception:  # noqa: BLE001  # no header that can be read
        return None
    return ImageError(
        "image.unsupported", f"{name} is a TIFF of {said}, which is not read; save it with 8 or 16"
    )


def _of_tiff(image: Image.Image) -> Image.Image | None:
    """Grey of more or other samples than unsigned ones of 8 bits; None for all else."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (1,))[0]
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
    if image.mode == "F":
        grey = _scaled_floats(np.asarray(image))
    elif image.mode.startswith("I"):
        values = np.asarray(image)
        values = values if signed or bits < 32 else values.view(np.uint32)
        used = bits if signed else _used_bits(tags, bits, values)
        grey = _scaled_integers(values, used, signed)
    elif image.mode == "L" and signed:
        return _scaled_integers(np.asarray(image).view(np.int8), 8, signed)
    else:
        return None
    return Image.eval(grey, lambda level: 255 - level) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey


def _used_bits(tags: Any, bits: int, values: np.ndarray) -> int:
    """How many of a sample's bits are used: cameras write 10 or 12 into 16, and say which is the most."""
    most = tags.get(_MAX_SAMPLE_VALUE, ())
    used = int(most[0]).bit_length() if isinstance(most, tuple) and most else bits
    is_depth = 8 <= used < bits and most[0] == 2**used - 1
    return used if is_depth and values.max() <= most[0] else bits


def _scaled_integers(values: np.ndarray, bits: int, signed: bool) -> Image.Image:
    if signed and values.min() < 0:
        message = f"its samples are signed, of {bits} bits, some below zero: nobody knows which one is black"
        raise ImageError("image.unsupported", f"{message}; save it with unsigned ones")
    most = 2 ** (bits - signed) - 1
    if bits == 32 and values.max() <= MOST[16]:
        most = MOST[16]  # 16 bits in 32, as scanners write them
    return _scaled(values, most)


def _scaled(values: np.ndarray, most: int) -> Image.Image:
    if most == MOST[16]:
        wide = values.astype(np.uint32) if values.min() >= 0 else values.clip(0, most).astype(np.uint32)
        return Image.fromarray(((wide * 255 + most // 2) // most).clip(0, 255).astype(np.uint8))
    return Image.fromarray((values * (255.0 / most) + 0.5).clip(0, 255).astype(np.uint8))


def _scaled_floats(values: np.ndarray) -> Image.Image:
    """Floats from 0 to 1, 255 or 65,535, the first of these that holds all; else from least to most."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError("image.corrupt", "its pixels are not all finite numbers")
    if low >= 0 and high <= MOST[16]:
        low, high = 0.0, next(float(most) for most in (1, MOST[8], MOST[16]) if high <= most)
    if low == high:
        message = f"all its samples, floats, are {low:g}: nobody knows which tone that is"
        raise ImageError("image.unsupported", f"{message}; save it as integers")
    scaled = (values.astype(np.float64) - low) * (255 / (high - low)) + 0.5
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


# -- PNG's transparent colour --------------------------------------------------------------------------


def _with_key(image: Image.Image, grey: Image.Image, key: object) -> Image.Image:
    """Grey with the pixels clear that are of the key's own 16 bits."""
    if not isinstance(key, int):
        return grey
    alpha = np.where(np.asarray(image) == key, 0, 255).astype(np.uint8)
    found = grey.convert("RGBA")
    found.putalpha(Image.fromarray(alpha))
    return found


def _mend_key(image: Image.Image, content: bytes) -> None:
    """Pillow scales pixels of 1, 2 and 4 bits, and of 16 in colour, and leaves the key as it stands."""
    bits, key = content[24], image.info["transparency"]
    if image.mode == "L" and bits < 8:
        image.info["transparency"] = key * 255 // (2**bits - 1)
    elif image.mode == "RGB" and bits == 16:
        message = (
            "it is a PNG of 16 bits with a transparent colour, which is not read; save it with an alpha band"
        )
        raise ImageError("image.unsupported", message)
