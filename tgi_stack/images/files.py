"""The bytes of an image file, or the reason why it is none; never waits on a pipe or a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cache.system import system
from tgi_stack.errors import ImageError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
)
MAX_BYTES = 64 * 2**20
HEAD_BYTES = 64  # of a file, which tell its format
_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"II+\0\x08\0\0\0",  # BigTIFF
    b"MM\0+\0\x08\0\0",
)
# ISO/IEC 14496-12: a box of type `ftyp`, then its brand.
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BRANDS = {*HEIF_BRANDS, b"avif", b"avis"}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so is of a format that is read."""
    if head.startswith(_MAGIC) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
        return True
    if head.startswith(b"BM"):
        return int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of at most 64 MiB; never waits on a pipe or a device.

    Raises:
        ImageError: `image.missing`, `image.not_a_file`, `image.unreadable`, `image.too_large`, `image.empty`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | system.NO_WAIT | system.OPEN)
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
            content = file.read(MAX_BYTES + 1)  # it may have grown
    except OSError as error:
        raise ImageError("image.unreadable", f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return checked(content, str(path))


def checked(content: bytes, name: str) -> bytes:
    """The same bytes, where there are neither none nor too many."""
    if not content:
        raise ImageError("image.empty", f"{name} has 0 bytes")
    if len(content) > MAX_BYTES:
        raise ImageError("image.too_large", f"{name} has {len(content):,} bytes; at most {MAX_BYTES:,}")
    return content


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return True  # whatever open said is the better reason
