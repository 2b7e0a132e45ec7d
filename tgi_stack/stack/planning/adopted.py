"""Servers that ran before `make up` and are put behind its front: what is known of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tgi_stack.errors import UsageError
from tgi_stack.redaction import redact_url

KINDS = ("text", "vision")
MOST = 16
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]{2,45}\]")


@dataclass(frozen=True, slots=True)
class Adopted:
    """The servers of a kind that run already: one engine with one model, at one or several URLs.

    Attributes:
        revision, quantization, dtype: where the servers tell them, else None.
    """

    kind: str
    urls: tuple[str, ...]
    engine: str
    version: str
    model: str
    revision: str | None = None
    quantization: str | None = None
    dtype: str | None = None

    @property
    def service(self) -> str:
        """Its relay in the compose file."""
        return f"{self.kind}-adopted"

    @property
    def upstreams(self) -> str:
        """As Caddy takes them; with their scheme where it is TLS."""
        return " ".join(_upstream(url) for url in self.urls)

    @property
    def is_tls(self) -> bool:
        """Whether they speak TLS: all of them or none."""
        return self.urls[0].startswith("https:")


def parsed(given: str) -> dict[str, str]:
    """The URLs of `ADOPT`, each with the kind that it is for: empty until it is known, as in `text=URL`.

    Raises:
        UsageError: one is no address of a host and a port.
    """
    found: dict[str, str] = {}
    for one in (word.strip() for word in given.split(",")):
        before, mark, after = one.partition("=")
        kind, url = (before, after) if mark and before in KINDS else ("", one)
        if url:
            found.setdefault(_checked(url.rstrip("/")), kind)
    if len(found) > MOST:
        raise UsageError(f"ADOPT names {len(found)} servers; {MOST} at most")
    return found


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        told = parts.port is not None
        whole = url == f"{parts.scheme}://{parts.netloc}" and (told or parts.scheme == "https")
        host = parts.netloc.rpartition(":")[0] if told else parts.netloc
    except ValueError:
        whole, host = False, ""
    if not whole or parts.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise UsageError(
            f"ADOPT={redact_url(url)[:80]}: give http://HOST:PORT or https://HOST[:PORT] of a server that "
            "runs, such as http://127.0.0.1:8000; one with a path is used by --endpoint"
        )
    return url


def _upstream(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "http":
        return parts.netloc
    return url if parts.port is not None else f"{url}:443"


def named(adopted: Iterable[Adopted]) -> str:
    """What `ADOPT` is once its servers are recognised."""
    return ",".join(f"{one.kind}={url}" for one in adopted for url in one.urls)
