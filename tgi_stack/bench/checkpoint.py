"""The latest results of a benchmark, in a file as well: whatever ends it, what was measured is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.storage.replacing import Replacement
from tgi_stack.errors import UsageError
from tgi_stack.writing import Given, refuse_present, write_json


class Checkpoint:
    """Keeps what it is told last.

    Attributes:
        found: that.

    Raises:
        UsageError: `path` names something other than a file, one that is read, or one that is there already.
        OSError: nothing can be written beside it.
    """

    def __init__(self, path: Path | None, *, overwrite: bool = False, inputs: Sequence[Given] = ()) -> None:
        self.found: dict[str, Any] = {}
        self._path = path
        if path is not None:
            if path.exists() and not path.is_file():
                raise UsageError(f"-o {path} is no file; give a name for one")
            refuse_present("-o", path, inputs, overwrite=overwrite)
            # What can't be written is found out before minutes of measuring.
            Replacement(path, overwrite=overwrite).close()

    def keep(self, found: dict[str, Any]) -> None:
        """Replaces the file whole: who reads it finds the results of before or these.

        Raises:
            DiskError: it can't be written.
        """
        self.found = found
        if self._path is not None:
            write_json(self._path, found)
