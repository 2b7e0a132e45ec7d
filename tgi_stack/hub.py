"""From a model's name to a folder with its files: `tiny`, a path, or an id on the hub.

Nothing is fetched without a line that says so, and only data is: weights as safetensors, JSON and text.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported lazily

from tgi_stack import lfs
from tgi_stack.checkpoints import adapter, gguf
from tgi_stack.checkpoints.adapter import Adapter
from tgi_stack.checkpoints.gguf.header import Header
from tgi_stack.checkpoints.gguf.on_hub import Wanted, named
from tgi_stack.checkpoints.hub_answers import NO_ANSWER, reason
from tgi_stack.checkpoints.revision import LOCAL, revision_of
from tgi_stack.errors import CheckpointError, MachineError, NoEngineError, UsageError
from tgi_stack.settings import DEFAULT_MODELS
from tgi_stack.tiny import TINY

LOG = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"
FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files on this machine; `name` is what the user called it.

    With an `adapter`, `folder` is its base's, and `revision` stands for both. A model of one GGUF file
    has its header as `gguf`; `folder` is where the file lies.
    """

    name: str
    revision: str
    folder: Path
    adapter: Adapter | None = None
    gguf: Header | None = None

    @property
    def tokenizer_file(self) -> Path | None:
        """Its tokenizer.json; an adapter's own, where it comes with one; None for the one in a GGUF file."""
        own = None if self.adapter is None else self.adapter.folder / TOKENIZER
        if own is not None and own.is_file():
            return own
        beside = self.folder / TOKENIZER
        return None if self.gguf is not None and not beside.is_file() else beside

    @property
    def config(self) -> dict[str, Any]:
        """config.json, or what stands for it in a GGUF file."""
        if self.gguf is not None:
            return gguf.config_of(self.gguf)
        found = read_json(self.folder / "config.json")
        if found is None:
            raise UsageError(f"{self.folder} holds no readable config.json; is it a checkpoint?")
        return found

    @property
    def generation_config(self) -> dict[str, Any]:
        """generation_config.json; empty where there is none."""
        return {} if self.gguf is not None else read_json(self.folder / "generation_config.json") or {}

    @property
    def is_changed(self) -> bool:
        """Whether the files of a folder are not those that its revision is of; of a hub's they stay."""
        known = self.revision.partition("+")[0]  # what follows is an adapter's
        return known.startswith(LOCAL) and known != revision_of(_files(self.folder))

    @property
    def chat_template(self) -> str | None:
        """The model's template as text; it is looked at, never run.

        Raises:
            CheckpointError: a Git LFS pointer in its place, or nothing: prompts would be written otherwise.
        """
        if self.adapter is not None:
            trained = Checkpoint(self.name, self.revision, self.adapter.folder).chat_template
            if trained is not None:
                return trained
        if self.gguf is not None and isinstance(said := self.gguf.fields.get(gguf.TEMPLATE), str):
            return said
        own = self.folder / "chat_template.jinja"
        if own.is_file():
            text = own.read_bytes()
            if lfs.is_pointer(text):
                raise CheckpointError(lfs.cure(str(own)))
            if not text.strip():
                raise CheckpointError(f"{own} is empty; fetch it again")
            return text.decode("utf-8", "replace")
        template = (read_json(self.folder / "tokenizer_config.json") or {}).get("chat_template")
        if isinstance(template, list):  # several, each with a name
            named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None


def read_json(path: Path) -> dict[str, Any] | None:
    """An object of a checkpoint's small files; None where there is no such file.

    Raises:
        CheckpointError: a Git LFS pointer in its place.
        UsageError: it holds no object, or can't be read.
    """
    try:
        content = path.read_bytes()
        if lfs.is_pointer(content):
            raise CheckpointError(lfs.cure(str(path)))
        found = json.loads(content, object_pairs_hook=_once)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__} in place of an object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path.parent} holds no readable {path.name} ({reason(error)})") from error
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names stand once, or with one value: which of two is meant nobody can know."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise ValueError(f"{name} stands twice, with two values")
        found[name] = value
    return found


def locate(name: str | None, kind: str, revision: str | None, *, may_download: bool = True) -> Checkpoint:
    """The checkpoint a --model argument names.

    Args:
        name: `tiny`, a folder, a GGUF file, a hub id, a GGUF file of one (see `gguf.on_hub`), or None for
            the default of `kind`.
        kind: `text` or `vision`.
        may_download: whether a model that is not on this machine may be fetched.

    Raises:
        UsageError: no such model.
        NoEngineError: it is not on this machine and may not be downloaded.
        MachineError: it can't be downloaded from here.
    """
    if name == "tiny":
        weights = (TINY / kind / "model.safetensors").read_bytes()  # few: they may be trained anew
        return Checkpoint("tiny", f"shipped-{hashlib.sha256(weights).hexdigest()[:12]}", TINY / kind)
    name = name or DEFAULT_MODELS[kind]
    wanted = named(name)
    if wanted is None:
        if (header := _gguf(name)) is not None:
            return _of_gguf(name, header)
        if (folder := _folder(name, "--model")) is not None:
            return _checkpoint(name, folder, kind, None, may_download=may_download)
        if (found := _from_hub_cache(name, revision)) is not None:
            return _checkpoint(name, found, kind, found.name, may_download=may_download)
    file = (wanted or Wanted(name)).cached(revision)
    if file is None:
        if not may_download:
            raise NoEngineError(
                f"the weights of {name} are not on this machine; to download them and compute here: "
                "--engine torch; to try fastqwen without: --model tiny"
            )
        file = _download(name, revision, wanted)
    if file.is_dir():
        return _checkpoint(name, file, kind, file.name, may_download=may_download)
    LOG.info(f"{name}: {file.name}")
    return _of_gguf(name, gguf.read(file))


def _of_gguf(name: str, header: Header) -> Checkpoint:
    gguf.needs_its_package(header)
    return Checkpoint(name, f"gguf-{header.digest[:12]}", header.path.parent, gguf=header)


def _checkpoint(
    name: str, folder: Path, kind: str, revision: str | None, *, may_download: bool
) -> Checkpoint:
    """What a folder holds: a model, or an adapter, whose base is looked for as any other model."""
    if not adapter.is_adapter(folder):
        return Checkpoint(name, revision or revision_of(_files(folder)), folder)
    found = adapter.read(folder, read_json(folder / adapter.CONFIG) or {})
    try:
        base = locate(found.base, kind, found.base_revision, may_download=may_download)
    except (UsageError, MachineError, NoEngineError) as error:
        raise type(error)(
            f"{name} is an adapter of {found.base} ({adapter.CONFIG}: base_model_name_or_path): {error}"
        ) from error
    if base.adapter is not None:
        raise CheckpointError(f"{name} is an adapter of {found.base}, another adapter; merge that first")
    return Checkpoint(name, f"{base.revision}+lora-{found.digest[:12]}", base.folder, found)


def _files(folder: Path) -> Iterator[Path]:
    return (path for pattern in FILES for path in folder.glob(pattern))


def locate_files(name: str, kind: str, revision: str | None, *, may_download: bool = True) -> Checkpoint:
    """A model's small files (tokenizer, template, configurations); its weights may be elsewhere.

    An adapter's are its base's.

    Raises:
        UsageError: no such model.
        MachineError: they can't be downloaded from here, or may not be.
    """
    if (wanted := named(name)) is not None:
        # The tokenizer is in the file with the weights, which nobody wants who asks a server.
        if (file := wanted.cached(revision)) is None:
            raise MachineError(
                f"{name} is not on this machine, and its tokenizer is in it; name another: --tokenizer"
            )
        return Checkpoint(name, "", file.parent, gguf=gguf.read(file))
    if (header := _gguf(name)) is not None:
        return Checkpoint(name, "", header.path.parent, gguf=header)
    try:
        return Checkpoint(name, "", _files_of(name, kind, revision, may_download=may_download))
    except MachineError:
        if (file := Wanted(name).cached(revision)) is None:
            raise
        return Checkpoint(name, "", file.parent, gguf=gguf.read(file))


def _files_of(name: str, kind: str, revision: str | None, *, may_download: bool) -> Path:
    found = _small_files(name, kind, revision, may_download=may_download)
    fields = read_json(found / adapter.CONFIG) or {}
    base = fields.get("base_model_name_or_path")
    if not isinstance(base, str) or base == name:
        return found
    return _small_files(base, kind, fields.get("revision"), may_download=may_download)


def _small_files(name: str, kind: str, revision: str | None, *, may_download: bool) -> Path:
    if name == "tiny":
        return TINY / kind
    if (folder := _folder(name, "--model")) is not None:
        return folder
    small = [pattern for pattern in FILES if pattern != "*.safetensors"]
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=small, local_files_only=True))
        if (found / TOKENIZER).is_file() or adapter.is_adapter(found):
            return found
    except LocalEntryNotFoundError:
        pass
    if not may_download:
        raise MachineError(f"the tokenizer of {name} is not on this machine")
    LOG.info(f"downloading the tokenizer and configuration of {name}")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=small))
    except NO_ANSWER as error:
        raise MachineError(
            f"the tokenizer of {name} is not on this machine and can't be downloaded ({reason(error)}); "
            f"{_cure(error)}give its folder: --tokenizer PATH --model PATH"
        ) from error


def locate_tokenizer(name: str, kind: str, *, may_download: bool = True) -> Path:
    """The tokenizer.json that a --tokenizer argument names: a file, a folder, `tiny` or a hub id.

    Raises:
        UsageError: no such tokenizer.
        MachineError: it can't be downloaded from here, or may not be.
    """
    if name == "tiny":
        return TINY / kind / TOKENIZER
    if Path(name).is_file():
        return Path(name)
    if (folder := _folder(name, "--tokenizer")) is not None:
        return folder / TOKENIZER
    cached = try_to_load_from_cache(name, TOKENIZER)
    if isinstance(cached, str):
        return Path(cached)
    if not may_download:
        raise MachineError(f"the tokenizer of {name} is not on this machine")
    LOG.info(f"downloading the tokenizer of {name}")
    try:
        return Path(hf_hub_download(name, TOKENIZER))
    except NO_ANSWER as error:
        raise MachineError(f"the tokenizer of {name} can't be downloaded ({reason(error)})") from error


def _folder(name: str, option: str) -> Path | None:
    """The folder that a name stands for, or None for a hub id.

    Raises:
        UsageError: it is neither.
    """
    try:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
        if not folder.is_absolute() and not name.startswith((".", "~")) and name.count("/") == 1:
            validate_repo_id(name)
            return None
    except (HFValidationError, OSError, RuntimeError) as error:
        raise UsageError(f"{option} {name[:80]}: {_reason(error)}") from error
    raise UsageError(f"{option} {name}: no such folder, and no model id of the form OWNER/NAME")


def _gguf(name: str) -> Header | None:
    """The header of the GGUF file that a name stands for, or that is the only weights of its folder.

    Raises:
        UsageError: no such file; a folder with several.
        CheckpointError: see `header.read`.
    """
    try:
        path = Path(name).expanduser()
        is_folder = path.is_dir()
    except (OSError, ValueError, RuntimeError):  # no name of a file; `_folder` says why
        return None
    if name.lower().endswith(gguf.SUFFIX) and not is_folder:
        if not path.is_file():
            raise UsageError(f"--model {name}: no such file")
        return gguf.read(path)
    if not is_folder or any(path.glob("*.safetensors*")):
        return None
    files = sorted(path.glob(f"*{gguf.SUFFIX}"))
    if len(files) > 1:
        raise UsageError(f"--model {name} holds {len(files)} GGUF files, such as {files[0].name}; name one")
    return gguf.read(files[0]) if files else None


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _cure(error: Exception) -> str:
    """What to do about a model that may not be had without a token, or with this one."""
    if isinstance(error, GatedRepoError):
        return "it is gated: accept its terms on its page, then set HF_TOKEN to a token of yours; or "
    return ""


def _from_hub_cache(name: str, revision: str | None) -> Path | None:
    """The snapshot in the local hub cache, if its weights are whole (a download may have been cut short)."""
    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=list(FILES), local_files_only=True)
        )
        index = folder / "model.safetensors.index.json"
        wanted = {adapter.WEIGHTS if adapter.is_adapter(folder) else "model.safetensors"}
        if index.is_file():
            wanted = set(json.loads(index.read_text())["weight_map"].values())
    except (LocalEntryNotFoundError, OSError, ValueError, KeyError):
        return None
    return folder if all((folder / file).is_file() for file in wanted) else None


def _download(name: str, revision: str | None, wanted: Wanted | None) -> Path:
    """A folder with a checkpoint, or a GGUF file: one that is wanted, or where there are no other weights."""
    repository = name if wanted is None else wanted.repository
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=15)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        if wanted is None and _holds_gguf_alone(sizes):
            wanted = Wanted(name)
        names = [file for file in sizes if _wanted(file)] if wanted is None else [wanted.chosen([*sizes])]
        size = sum(sizes[file] for file in names)
        LOG.info(f"downloading {name} at {info.sha}: {len(names)} files, {size:,} bytes")
        # By the name that was given, not by the commit: so that it is found by that name without the hub.
        if wanted is not None:
            return wanted.fetched(names, revision)
        return Path(snapshot_download(name, revision=revision, allow_patterns=names))
    except NO_ANSWER as error:
        raise MachineError(
            f"{name} is not on this machine and can't be downloaded ({reason(error)}); "
            f"{_cure(error)}use --model tiny or a folder with its files"
        ) from error


def _holds_gguf_alone(files: Iterable[str]) -> bool:
    suffixes = {Path(file).suffix.lower() for file in files}
    return gguf.SUFFIX in suffixes and ".safetensors" not in suffixes


def _wanted(path: str) -> bool:
    return "/" not in path and any(Path(path).match(pattern) for pattern in FILES)
