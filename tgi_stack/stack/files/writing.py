"""Files that other programs read while they are written."""

from __future__ import annotations

from pathlib import Path

from cache.storage.replacing import replacing
from cache.system import system
from tgi_stack.errors import DiskError


def write_whole(path: Path, content: str) -> None:
    """Whole or not at all, and readable by the users that containers run as."""
    try:
        with replacing(path, overwrite=True) as file:
            system.set_mode(file.fileno(), 0o644)
            file.write(content.encode())
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror or error}") from error
