"""From a model's name to a folder with its files: `tiny`, a path, or an id on the hub.

Nothing is fetched without a line that says so, and only data is: weights as safetensors, JSON and text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from tgi_stack.errors import MachineError, NoEngineError, UsageError
from tgi_stack.tiny import TINY

DEFAULT_MODELS = {"text": "Qwen/Qwen3-0.6B", "vision": "Qwen/Qwen3-VL-2B-Instruct"}
FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files on this machine; `name` is what the user called it."""

    name: str
    revision: str
    folder: Path

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / "tokenizer.json"

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        try:
            return dict(json.loads((self.folder / "config.json").read_text()))
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.folder} holds no readable config.json; is it a checkpoint?") from error

    @property
    def chat_template(self) -> str | None:
        """The model's template as text; it is looked at, never run."""
        own = self.folder / "chat_template.jinja"
        if own.is_file():
            return own.read_text()
        settings = self.folder / "tokenizer_config.json"
        template = json.loads(settings.read_text()).get("chat_template") if settings.is_file() else None
        return template if isinstance(template, str) else None


def locate(
    name: str | None, kind: str, revision: str | None, say: Say, *, may_download: bool = True
) -> Checkpoint:
    """The checkpoint a --model argument names.

    Args:
        name: `tiny`, a folder, a hub id, or None for the default of `kind`.
        kind: `text` or `vision`.
        say: told, in one line, before anything is downloaded.
        may_download: whether a model that is not on this machine may be fetched.

    Raises:
        UsageError: no such model.
        NoEngineError: it is not on this machine and may not be downloaded.
        MachineError: it can't be downloaded from here.
    """
    if name == "tiny":
        return Checkpoint("tiny", "shipped", TINY / kind)
    name = name or DEFAULT_MODELS[kind]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Checkpoint(name, "local", folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise UsageError(f"--model {name}: no such folder, and no model id of the form OWNER/NAME")
    found = _from_hub_cache(name, revision)
    if found is None:
        if not may_download:
            raise NoEngineError(
                f"the weights of {name} are not on this machine; to download them and compute here: "
                "--engine torch; to try fastqwen without: --model tiny"
            )
        found = _download(name, revision, say)
    return Checkpoint(name, found.name, found)


def _from_hub_cache(name: str, revision: str | None) -> Path | None:
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(FILES), local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None


def _download(name: str, revision: str | None, say: Say) -> Path:
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=15)
        wanted = [f for f in info.siblings or [] if _wanted(f.rfilename)]
        size = sum(f.size or 0 for f in wanted)
        say(f"downloading {name} at {info.sha}: {len(wanted)} files, {size:,} bytes")
        return Path(snapshot_download(name, revision=info.sha, allow_patterns=list(FILES)))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MachineError(
            f"{name} is not on this machine and can't be downloaded ({reason}); "
            "use --model tiny, a folder, or a server (--endpoint URL)"
        ) from error


def _wanted(path: str) -> bool:
    return "/" not in path and any(Path(path).match(pattern) for pattern in FILES)
