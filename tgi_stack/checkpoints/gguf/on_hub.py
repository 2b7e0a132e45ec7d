"""GGUF files in a repository of a hub: which of them a name stands for, and where it lies on this machine.

`OWNER/NAME:FILE.gguf` names a file, `OWNER/NAME:Q4_K_M` the one of that packing, `OWNER/NAME` the only one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported lazily

from tgi_stack.checkpoints.gguf.header import SUFFIX
from tgi_stack.errors import UsageError

_NAMED = re.compile(r"(\w[\w.-]*/[\w.-]+):([\w.+/-]+)")
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_EYES = "mmproj"  # what llama.cpp calls the part of a model that sees; no model by itself
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a name asks of a repository; `what` is a file, a packing, or None for its only file."""

    repository: str
    what: str | None = None

    def chosen(self, files: Sequence[str]) -> str:
        """The file that is meant, of all that the repository has.

        Raises:
            UsageError: none is, or several are; a part of a model.
        """
        found = sorted(file for file in files if file.lower().endswith(SUFFIX))
        models = [file for file in found if not PurePosixPath(file).name.lower().startswith(_EYES)]
        matching = [file for file in models if self._is_meant(file)]
        if self.what in found:
            matching = [str(self.what)]
        if len(matching) == 1:
            if _is_part(matching[0]):
                raise self._refused(f"{matching[0]} is a part of a model", matching)
            return matching[0]
        if self.what is None:
            raise self._refused(f"it holds {len(models)} GGUF files", models)
        raise self._refused(f"{len(matching) or 'none'} of its GGUF files is {self.what}", matching or models)

    def _is_meant(self, file: str) -> bool:
        if self.what is None:
            return True
        stem = _PART.sub("", PurePosixPath(file).stem).lower()
        return stem.endswith((f"-{self.what.lower()}", f".{self.what.lower()}"))

    def _refused(self, why: str, files: Sequence[str]) -> UsageError:
        whole = [file for file in files if not _is_part(file)]
        cure = "name another repository"
        if whole:
            shown = ", ".join(whole[:SHOWN]) + (", ..." if len(whole) > SHOWN else "")
            cure = f"name one: --model {self.repository}:{whole[0]} (there are {shown})"
        elif files:
            cure = "fetch its parts, join them (llama-gguf-split --merge FIRST OUT) and name that file"
        return UsageError(f"--model {self}: {why}; {cure}")

    def __str__(self) -> str:
        return self.repository if self.what is None else f"{self.repository}:{self.what}"

    def cached(self, revision: str | None) -> Path | None:
        """The file in the hub's cache; None where it, or one that may be meant, is not there."""
        try:
            folder = Path(snapshot_download(self.repository, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, OSError):
            return None
        files = [path.relative_to(folder).as_posix() for path in folder.rglob(f"*{SUFFIX}") if path.is_file()]
        try:
            return folder / self.chosen(files)
        except UsageError:
            return None

    def fetched(self, files: Sequence[str], revision: str | None) -> Path:
        """The file, downloaded; raises what the hub's client does."""
        return Path(hf_hub_download(self.repository, self.chosen(files), revision=revision))


def _is_part(file: str) -> bool:
    return _PART.search(PurePosixPath(file).stem) is not None


def named(name: str) -> Wanted | None:
    """What a name of the form OWNER/NAME:WHAT asks for; None for any other."""
    found = _NAMED.fullmatch(name)
    if found is None or Path(name).exists():
        return None
    try:
        validate_repo_id(found[1])
    except HFValidationError:  # `hub` says why it is no name
        return None
    return Wanted(*found.groups())
