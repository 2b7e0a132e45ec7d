"""What stands for the revision of a checkpoint that no hub knows: another one where its files change."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from cache.system import system

LOCAL = "local-"
PIECES = 256  # of a file of weights: to read gigabytes would take longer than to answer rows that are known
PIECE_BYTES = 4096


def revision_of(files: Iterable[Path]) -> str:
    """Made of the small files' contents; of weights of their names, sizes, times and pieces all over them.

    A time alone says nothing where it is copied, or the same for all files of an image: weights that were
    trained on have the size that they had.
    """
    whole = hashlib.sha256()
    for path in sorted(files):
        status = path.stat()
        whole.update(f"{path.name} {status.st_size}\n".encode())
        if path.suffix == ".safetensors":
            whole.update(f"{status.st_mtime_ns}\n".encode())
            for piece in _pieces(path, status.st_size):
                whole.update(piece)
        else:
            whole.update(path.read_bytes())
    return f"{LOCAL}{whole.hexdigest()[:12]}"


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """All of a small file; of a large one pieces at equal distances.

    Of one that can't be read there are none: whoever loads it says why.
    """
    step = max(PIECE_BYTES, size // PIECES)
    with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
        for place in range(0, size, step):
            yield system.read_at(file.fileno(), PIECE_BYTES, place)
