"""Git LFS pointers: what a clone without Git LFS holds in place of a large file."""

from __future__ import annotations

_BEGINNING = b"version https://git-lfs"


def is_pointer(content: bytes) -> bool:
    """Whether a file that begins so is a pointer."""
    return content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_BEGINNING)


def cure(name: str) -> str:
    """What is wrong with such a file, and what to do."""
    return f"{name} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull"
