"""From an image file's bytes to what is sent: an upright sRGB JPEG on the model's own grid.

Everything that can be refused from the header is refused before a pixel is decoded; a JPEG is decoded no
larger than needed; nothing of the metadata goes along. Runs in a process of its own (`pool`): decoders crash
and hang.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import NamedTuple

from PIL import Image, ImageFile, UnidentifiedImageError

from cache.keys import digest
from tgi_stack.errors import ImageError
from tgi_stack.images import colour, colour_tags, depth, jpeg, png
from tgi_stack.images.files import HEAD_BYTES, HEIF_BRANDS, is_picture
from tgi_stack.images.grid import Grid, fit
from tgi_stack.types import PreparedImage

try:
    import pic_scale
except ImportError:  # no wheel for this platform: Pillow's own filter, five times slower, is within 55 dB
    pic_scale = None

# A multi-picture JPEG (MPO) opens as a JPEG; its first picture is taken.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 64_000_000
JPEG_QUALITY = 90
# Wider than this times the filter's reach, pixels are averaged in whole blocks first.
REDUCING_GAP = 3


def prepare(
    content: bytes,
    name: str,
    grid: Grid,
    *,
    max_side_px: int | None = 448,
    allow_truncated: bool = False,
) -> PreparedImage:
    """Decodes, sets upright, resizes, converts to sRGB and encodes one image.

    Args:
        content: the file's bytes, as `files.read_file` gives them.
        name: what to call it in messages.
        allow_truncated: take a JPEG whose data are damaged or end early, flagged `image.truncated`.

    Raises:
        ImageError: see `docs/design/images.md` for the types.
    """
    try:
        parts = _taken_apart(content, name)
        with _open(content if parts is None else parts.data, content, name) as image:
            found = _File(content, name, image, parts)
            return _prepared(found, grid, max_side_px, allow_truncated)
    except ImageError as error:
        if name in str(error):
            raise
        raise ImageError(error.type, f"{name}: {error}") from error
    except Exception as error:  # decoders raise anything on hostile files
        reason = str(error) or type(error).__name__
        # So Pillow says what it knows and does not read: masks of a BMP. A depth called so is none of BMP.
        if "Unsupported" in reason and "pixel depth" not in reason:
            raise ImageError("image.unsupported", f"{name}: {reason}; save it as PNG") from error
        raise ImageError("image.corrupt", f"{name}: {reason}") from error


def _taken_apart(content: bytes, name: str) -> jpeg.Stream | png.Picture | None:
    """What a JPEG or a PNG is made of: Pillow is to read its `data`."""
    if content.startswith(_JPEG):
        return jpeg.read(content, name)
    return png.read(content, name) if content.startswith(png.SIGNATURE) else None


_JPEG = b"\xff\xd8\xff"


class _File(NamedTuple):
    """An image file: its bytes, what to call it, how Pillow opens it, and what it is made of."""

    content: bytes
    name: str
    image: ImageFile.ImageFile
    parts: jpeg.Stream | png.Picture | None


def _prepared(file: _File, grid: Grid, max_side_px: int | None, allow_truncated: bool) -> PreparedImage:
    content, name, image, parts = file
    flags: tuple[str, ...] = ("image.frames",) if _has_frames(file) else ()
    if isinstance(parts, jpeg.Stream):
        profile = parts.profile
        turn = _TURNS.get(_orientation(image))
        wanted = fit(*image.size, grid, max_side_px)  # the stored picture lies as it will after the same turn
        decoded, whole = _decode_jpeg(image, parts, name, wanted, allow_truncated)
        flags += ("image.truncated",) if not whole else ("image.coarse",) if parts.is_coarse else ()
        width, height = image.size[::-1] if turn in _SWAPPING else image.size
    else:
        fit(*image.size, grid, max_side_px)  # an aspect that is refused is, before anything is decoded
        decoded = _decode(image, name) if parts is None else _decode_png(image, parts, name)
        profile = colour_tags.profile_of(image, content)
        turn = _TURNS.get(_orientation(decoded))  # Pillow has turned a TIFF by itself, and says so here
        width, height = decoded.size[::-1] if turn in _SWAPPING else decoded.size
    plain = depth.to_8_bits(decoded, content)
    upright = plain if turn is None else plain.transpose(turn)
    size = fit(width, height, grid, max_side_px)
    sent, usable = _in_srgb(upright, profile, size, is_grey=depth.is_grey(image))
    flags += () if usable else (colour.IGNORED,)
    sent.info.clear()  # a comment would be written again
    buffer = io.BytesIO()
    sent.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return PreparedImage(buffer.getvalue(), digest(content), width, height, *size, flags)


def _has_frames(file: _File) -> bool:
    """Whether a file holds several pictures, of which the first is taken."""
    if isinstance(file.parts, png.Picture):
        return file.parts.frames > 1
    if file.parts is None:
        return bool(getattr(file.image, "is_animated", False))
    if not file.parts.is_set:
        return False
    with suppress(Exception), Image.open(io.BytesIO(file.content), formats=("JPEG",)) as image:
        return bool(getattr(image, "is_animated", False))
    return False


_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}


def _orientation(image: Image.Image) -> int:
    """What EXIF (or XMP) says of how the picture lies; 1, upright, where that can't be read."""
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001  # the picture itself may be sound
        return 1
    return found if isinstance(found, int) else 1


# -- opening and decoding ------------------------------------------------------------------------------


@contextmanager
def _open(data: bytes, content: bytes, name: str) -> Iterator[ImageFile.ImageFile]:
    """What Pillow makes of `data`; `content` is the file as it was."""
    formats = FORMATS + _heif(content, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caps below are stricter than Pillow's warning
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except UnidentifiedImageError as error:
            raise depth.told(content, name) or _no_picture(content, name) from error
        except Image.DecompressionBombError as error:
            raise ImageError("image.too_large", f"{name}: {error}") from error
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    "image.too_large", f"{name} is {width} x {height} pixels; at most {MAX_PIXELS:,}"
                )
            yield image


def _no_picture(content: bytes, name: str) -> ImageError:
    if is_picture(content[:HEAD_BYTES]):
        return ImageError(
            "image.corrupt", f"{name} begins as a picture, but its header says none (0 pixels?)"
        )
    return ImageError("image.unrecognised", f"{name} begins with {content[:8]!r}; not a known image format")


# ISO/IEC 18181-2
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")


def _heif(content: bytes, name: str) -> tuple[str, ...]:
    """The format to allow besides, for a file that says it is HEIF.

    Raises:
        ImageError: `image.unsupported`, with what would help.
    """
    if content.startswith(_JPEG_XL):
        raise ImageError("image.unsupported", f"{name} is JPEG XL, which is not read; save it as JPEG or PNG")
    if content[4:8] != b"ftyp" or content[8:12] not in HEIF_BRANDS:
        return ()
    if b"avif" in content[8:64]:  # of the general brand mif1, but with AV1 inside: Pillow reads it
        return ()
    if importlib.util.find_spec("pillow_heif") is None:
        raise ImageError("image.unsupported", f"{name} is HEIC; install: pip install 'fastqwen[heif]'")
    _register_heif()
    return ("HEIF",)


@lru_cache(maxsize=1)
def _register_heif() -> None:
    importlib.import_module("pillow_heif").register_heif_opener()


def _decode_jpeg(
    image: ImageFile.ImageFile,
    stream: jpeg.Stream,
    name: str,
    wanted: tuple[int, int],
    allow_truncated: bool,
) -> tuple[Image.Image, bool]:
    """The pixels, reduced where that is enough, and whether the data are whole."""
    try:
        mode = "RGB" if image.mode != "CMYK" else "CMYK;I" if "adobe" in image.info else "CMYK"
        return jpeg.decode(stream, name, jpeg.reduced_size(image.size, wanted), mode), True
    except jpeg.UnknownSamplingError:
        return _decode(image, name), True
    except ImageError:
        if not allow_truncated:
            raise
    # Pillow's switch is for the whole process; here one image is decoded at a time.
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        return _decode(image, name), False
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _decode_png(image: ImageFile.ImageFile, picture: png.Picture, name: str) -> Image.Image:
    try:
        decoded = _decode(image, name)
    except ImageError:
        anew = png.packed_anew(picture)
        if anew is None:
            raise
        with Image.open(io.BytesIO(anew), formats=("PNG",)) as found:
            return _decode(found, name)
    png.refuse_missing_rows(picture, decoded, name)
    return decoded


def _decode(image: ImageFile.ImageFile, name: str) -> Image.Image:
    try:
        image.load()
    except OSError as error:
        kind = "image.truncated" if "truncated" in str(error) else "image.corrupt"
        raise ImageError(kind, f"{name}: {error}") from error
    return image


# -- pixels --------------------------------------------------------------------------------------------


def _in_srgb(
    plain: Image.Image, profile: bytes | None, size: tuple[int, int], *, is_grey: bool
) -> tuple[Image.Image, bool]:
    """The RGB image in sRGB, resized, what is clear in it white; and whether its profile could be used.

    A picture is resized before its colours are converted, which is cheaper. One that is clear in places is
    laid on white by the colours that are seen, so it is converted first.
    """
    if plain.mode == "RGBA":
        seen, usable = colour.to_srgb(plain.convert("RGB"), profile, is_grey=is_grey)
        seen.putalpha(plain.getchannel("A"))
        white = Image.new("RGBA", seen.size, "white")
        return _resized(Image.alpha_composite(white, seen).convert("RGB"), size), usable
    if plain.mode == "L" and profile is None:
        plain = plain.convert("RGB")
    return colour.to_srgb(_resized(plain, size), profile, is_grey=is_grey)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Lanczos; four bands (CMYK) go through Pillow, since they are no alpha."""
    if image.size == size:
        return image
    if pic_scale is None or image.mode != "RGB":
        return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    factor = min(image.width // size[0], image.height // size[1]) // REDUCING_GAP
    if factor > 1:
        image = image.reduce(factor)
    resized: Image.Image = pic_scale.resize(image, size, pic_scale.Resampling.LANCZOS)
    return resized
