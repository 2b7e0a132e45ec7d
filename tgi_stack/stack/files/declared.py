"""What no server tells of itself: revision, quantisation and dtype, from the stack.json of `make up`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

FILE = "stack.json"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Declared:
    """What stack.json says of a server."""

    revision: str = UNKNOWN
    quantization: str = UNKNOWN
    dtype: str = UNKNOWN


class Answering(Protocol):
    """What a server that answers says of itself."""

    @property
    def dialect(self) -> str:
        """The engine: `tgi` or `vllm`."""
        ...

    def goes_by(self, name: str) -> bool:
        """Whether a model's name means the one that it holds."""
        ...


def places() -> tuple[Path, ...]:
    """Where stack.json may be: ./docker, and the clone that this code runs from."""
    return (Path("docker") / FILE, Path(__file__).resolve().parents[3] / "docker" / FILE)


def declared(url: str, served: Answering, files: tuple[Path, ...] | None = None) -> Declared:
    """What stack.json declares of the server at a URL of this host.

    Nothing where another engine or model answers there by now: the file may be old.
    """
    for file in places() if files is None else files:
        try:
            servers = json.loads(file.read_text())["servers"]
            for entry in servers:
                same = is_place(str(entry["url"]), url) and entry["engine"] == served.dialect
                if same and served.goes_by(entry["model"]):
                    revision = entry["revision"] if entry["revision"] != "main" else UNKNOWN
                    return Declared(revision, entry["quantization"], entry["dtype"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return Declared()


def is_place(one: str, other: str) -> bool:
    """Whether two URLs lead to the same place, by whatever name of this host."""
    return _place(one) == _place(other)


def _place(url: str) -> tuple[str | None, int | None, str]:
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname in ("localhost", "::1") else parts.hostname
    return host, parts.port or {"http": 80, "https": 443}.get(parts.scheme), parts.path.rstrip("/")
