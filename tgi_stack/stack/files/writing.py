"""Files that other programs read while they are written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tgi_stack.errors import DiskError


def write_whole(path: Path, content: str) -> None:
    """Whole or not at all."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}") from error
