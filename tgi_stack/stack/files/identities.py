"""What no server tells of itself: revision, quantisation and dtype, from the stack.json of `make up`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tgi_stack.backends.servers.protocols.reply import Served

FILE = "stack.json"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Told:
    """What stack.json says of a server."""

    revision: str = UNKNOWN
    quantization: str = UNKNOWN
    dtype: str = UNKNOWN


def places() -> tuple[Path, ...]:
    """Where stack.json may be: ./docker, and the clone that this code runs from."""
    return (Path("docker") / FILE, Path(__file__).resolve().parents[3] / "docker" / FILE)


def of(url: str, served: Served, files: tuple[Path, ...] | None = None) -> Told:
    """What is told of the server at a URL of this host.

    Nothing where another engine or model answers there by now: the file may be old.
    """
    for file in places() if files is None else files:
        try:
            servers = json.loads(file.read_text())["servers"]
            for entry in servers:
                same = _place(str(entry["url"])) == _place(url) and entry["engine"] == served.dialect
                if same and served.goes_by(entry["model"]):
                    revision = entry["revision"] if entry["revision"] != "main" else UNKNOWN
                    return Told(revision, entry["quantization"], entry["dtype"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return Told()


def _place(url: str) -> tuple[str | None, int | None, str]:
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname in ("localhost", "::1") else parts.hostname
    return host, parts.port, parts.path.rstrip("/")
