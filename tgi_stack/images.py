"""From an image file's bytes to what is sent: an upright sRGB JPEG on the model's own grid.

The size is the one that the model's own image processor would choose (Qwen-VL's "smart resize": sides are
multiples of patch x merge, the area between the processor's min and max pixels), capped by `max_side_px`, so
that neither a server nor the engine resizes a second time. Everything that can be refused from the header is
refused before a pixel is decoded.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from cache.keys import digest
from tgi_stack.errors import ImageError, MachineError
from tgi_stack.types import PreparedImage

# A multi-picture JPEG (MPO) opens as a JPEG; its first picture is taken.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64_000_000
MAX_ASPECT = 200  # what Qwen's own processor refuses beyond
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Grid:
    """A model's image geometry: `factor` is patch x merge in pixels; `min_pixels`, `max_pixels` are areas.

    `mean` and `std` are what its processor normalises with, for pixel values from 0 to 1.
    """

    factor: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @classmethod
    def from_checkpoint(cls, folder: Path) -> Grid:
        """Read from a checkpoint's preprocessor_config.json."""
        path = folder / "preprocessor_config.json"
        try:
            config = json.loads(path.read_text())
            size = config.get("size", {})
            return cls(
                factor=config["patch_size"] * config["merge_size"],
                min_pixels=config.get("min_pixels") or size["shortest_edge"],
                max_pixels=config.get("max_pixels") or size["longest_edge"],
                mean=tuple(config["image_mean"]),
                std=tuple(config["image_std"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MachineError(
                f"{path}: no image geometry in it ({error!r}); is this a Qwen-VL checkpoint?"
            ) from error

    def tokens(self, width: int, height: int) -> int:
        """Visual tokens of an image already on the grid."""
        return (width // self.factor) * (height // self.factor)


# -- sizes ---------------------------------------------------------------------------------------------


def fit(width: int, height: int, grid: Grid, max_side_px: int | None = None) -> tuple[int, int]:
    """The (width, height) an image is sent with.

    The longer side is first brought to at most `max_side_px` (rounded down to the grid, never under one
    block), then the area into [min_pixels, max_pixels]. Where both can't hold, the floor wins and the sides
    may exceed the cap. The result is a fixed point: fitting it again changes nothing.

    Raises:
        ImageError: `image.aspect` beyond 200:1.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("image.aspect", f"{width} x {height} is more than {MAX_ASPECT}:1; crop it")
    w, h = float(width), float(height)
    if max_side_px is not None:
        cap = max(grid.factor, max_side_px // grid.factor * grid.factor)
        scale = min(1.0, cap / max(w, h))
        w, h = w * scale, h * scale
    sent = _smart_resize(w, h, grid)
    # At extreme aspects the processor's rule, asked again, gives another size: go on until it does not.
    while (again := _smart_resize(*sent, grid)) != sent and again[0] * again[1] < sent[0] * sent[1]:
        sent = again
    if max(sent) > MAX_ASPECT * min(sent):
        raise ImageError("image.aspect", f"{width} x {height} would be sent over {MAX_ASPECT}:1; crop it")
    return sent


def _smart_resize(w: float, h: float, grid: Grid) -> tuple[int, int]:
    """One application of Qwen-VL's rule."""
    columns, rows = round(w / grid.factor), round(h / grid.factor)
    area = columns * rows * grid.factor**2
    if area > grid.max_pixels:
        shrink = math.sqrt(w * h / grid.max_pixels)
        columns = max(1, math.floor(w / shrink / grid.factor))
        rows = max(1, math.floor(h / shrink / grid.factor))
    elif area < grid.min_pixels:
        grow = math.sqrt(grid.min_pixels / (w * h))
        columns, rows = math.ceil(w * grow / grid.factor), math.ceil(h * grow / grid.factor)
    return columns * grid.factor, rows * grid.factor


# -- files ---------------------------------------------------------------------------------------------


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of at most 64 MiB; never waits on a pipe or a device.

    Raises:
        ImageError: `image.missing`, `image.not_a_file`, `image.unreadable`, `image.too_large`, `image.empty`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError("image.missing", f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        kind = "image.not_a_file" if not _is_regular(path) else "image.unreadable"
        raise ImageError(kind, f"{path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("image.not_a_file", f"{path} is not a regular file")
        if status.st_size > MAX_BYTES:
            raise ImageError("image.too_large", f"{path} has {status.st_size:,} bytes; at most {MAX_BYTES:,}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES)
    except OSError as error:
        raise ImageError("image.unreadable", f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if not content:
        raise ImageError("image.empty", f"{path} has 0 bytes")
    return content


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return True  # whatever open said is the better reason


# -- pixels --------------------------------------------------------------------------------------------


def prepare(
    content: bytes,
    name: str,
    grid: Grid,
    *,
    max_side_px: int | None = 448,
    allow_truncated: bool = False,
) -> PreparedImage:
    """Decodes, sets upright, converts to sRGB, resizes and encodes one image.

    Args:
        content: the file's bytes, as `read_file` gives them.
        name: what to call it in messages.
        allow_truncated: take a JPEG that lacks its last bytes, flagged `image.truncated`.

    Raises:
        ImageError: see `docs/design/images.md` for the types.
    """
    try:
        upright, flags = _decoded(content, name, allow_truncated)
        size = fit(*upright.size, grid, max_side_px)
        whole = upright.size == size
        sent = upright if whole else upright.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
        sent.info.clear()  # a comment would be written again
        buffer = io.BytesIO()
        sent.save(buffer, "JPEG", quality=JPEG_QUALITY)
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything on hostile files
        raise ImageError("image.corrupt", f"{name}: {error or type(error).__name__}") from error
    return PreparedImage(buffer.getvalue(), digest(content), *upright.size, *size, flags)


def _decoded(content: bytes, name: str, allow_truncated: bool) -> tuple[Image.Image, tuple[str, ...]]:
    """The upright RGB image of a file, and what is to be noted of it."""
    with _open(content, name) as image:
        flags: tuple[str, ...] = ("image.frames",) if getattr(image, "is_animated", False) else ()
        is_jpeg = image.format in ("JPEG", "MPO")
        if is_jpeg and not _has_jpeg_end(content):
            if not allow_truncated:
                message = f"{name} ends early: its end marker is missing after {len(content):,} bytes"
                raise ImageError("image.truncated", message)
            flags += ("image.truncated",)
        _load(image, name, alone=allow_truncated, tolerant=allow_truncated and is_jpeg)
        return _to_rgb(ImageOps.exif_transpose(image)), flags


def _load(image: Image.Image, name: str, *, alone: bool, tolerant: bool) -> None:
    # Pillow has one switch for the whole process: where a run may turn it, images are decoded one by one.
    with _TOLERANCE if alone else nullcontext():
        if alone:
            ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
        try:
            image.load()
        except OSError as error:
            kind = "image.truncated" if "truncated" in str(error) else "image.corrupt"
            raise ImageError(kind, f"{name}: {error}") from error


_TOLERANCE = threading.Lock()


def _has_jpeg_end(content: bytes) -> bool:
    """Whether a JPEG's end marker stands where its segments end; what follows it (a trailer) does not matter.

    ITU-T T.81, annex B: segments carry their length; in coded data FF is followed by 00 or a restart marker.
    """
    place = 2
    while (place := content.find(b"\xff", place)) >= 0 and place + 1 < len(content):
        marker = content[place + 1]
        if marker == 0xD9:
            return True
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            place += 1 if marker == 0xFF else 2
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False


@contextmanager
def _open(content: bytes, name: str) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caps below are stricter than Pillow's warning
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise ImageError(
                "image.unrecognised", f"{name} begins with {content[:8]!r}; not a known image format"
            ) from error
        except Image.DecompressionBombError as error:
            raise ImageError("image.too_large", f"{name}: {error}") from error
        except Exception as error:  # decoders raise anything on hostile headers
            raise ImageError("image.corrupt", f"{name}: {error}") from error
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    "image.too_large", f"{name} is {width} x {height} pixels; at most {MAX_PIXELS:,}"
                )
            yield image


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB; alpha laid on white, 16-bit and float greys scaled to 8 bits (a plain conversion cuts them)."""
    if image.mode.startswith("I;16"):
        return _scaled(image.convert("I"), 0, 65535)
    if image.mode == "I":
        return _scaled(image, 0, 65535)  # 16 bits in 32, as scanners write them
    if image.mode == "F":
        low, high = image.getextrema()
        if not (math.isfinite(low) and math.isfinite(high)):  # type: ignore[arg-type]  # one band: two numbers
            raise ImageError("image.corrupt", "its pixels are not all finite numbers")
        return _scaled(image, float(low), float(high))  # type: ignore[arg-type]
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image, low: float, high: float) -> Image.Image:
    scale = 255.0 / ((high - low) or 1.0)
    return image.convert("F").point(lambda value: value * scale - low * scale).convert("L").convert("RGB")
