"""The URLs of endpoints, as users write and copy them."""

from __future__ import annotations

import ipaddress
import logging
import re
from urllib.parse import urlsplit

from tgi_stack.errors import SettingsError
from tgi_stack.redaction import redact_url

LOG = logging.getLogger(__name__)
SHOWN = 80
# What other clients want at the end, and the pages that people look at; this client adds its own.
_ROUTES = re.compile(
    r"/(?:v1(?:/(?:completions|chat/completions|chat|score|decisions|models|embeddings|responses|messages))?|"
    r"generate(?:_stream)?|tokenize|detokenize|chat_tokenize|info|health|ping|version|metrics|docs|openapi\.json|"
    r"ready|health_generate|score|(?:get_)?(?:model|server)_info|"
    r"invocations|vertex|models)/*$",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"https?://(?:\[[0-9a-fA-F:.]*\]?|[\w.-]+)(?::\d+)?(?:/.*)?", re.ASCII)
_PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE | re.ASCII)


def checked_url(url: str) -> str:
    """An endpoint's URL in one spelling: without its last slash, and the route that clients copy along.

    Raises:
        SettingsError: no URL, or one of a host or a port that can't exist.
    """
    url = url.strip()
    # What stands behind a ? or a # may be a key under any name.
    shown = re.sub(r"([?#]).+", r"\1***", redact_url(url), flags=re.DOTALL)[:SHOWN]
    like = "give a URL such as http://127.0.0.1:8080"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        # What Python says of a port, and what stands in its place, may be a part of a password.
        named = f" {shown}" if _PLAIN.fullmatch(shown) else ""
        raise SettingsError(f"--endpoint{named}: no URL, or no port from 1 to 65535; {like}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise SettingsError(f"--endpoint {shown}: {like}")
    if parts.username is not None or parts.password is not None:
        raise SettingsError("--endpoint: no user or password in a URL; a key goes into FASTQWEN_API_KEY")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise SettingsError(f"--endpoint {shown}: only a host, a port and a path")
    if port == 0:
        raise SettingsError(f"--endpoint {shown}: no server has port 0; {like}")
    if not url.isprintable() or " " in url or "\\" in url or not _may_exist(host):
        raise SettingsError(f"--endpoint {shown}: {host[:SHOWN]!r} can't be a host's name; {like}")
    return _without_route(_in_one_spelling(url))


def _in_one_spelling(url: str) -> str:
    """Scheme and host in small letters, no port that goes without saying: one server, one URL."""
    parts = urlsplit(url)
    place = parts.netloc.lower()
    if parts.port == _PORTS[parts.scheme] or place.endswith(":"):
        place = place.rpartition(":")[0]
    return f"{parts.scheme}://{place}{parts.path}".rstrip("/")


def _without_route(url: str) -> str:
    shorter = url
    scheme, _, rest = shorter.partition("://")
    while (found := _ROUTES.search(rest)) is not None:
        rest = rest[: found.start()]
    shorter = f"{scheme}://{rest.rstrip('/')}"
    if shorter != url:
        LOG.warning("%s: the end that clients add themselves is cut off: %s", url, shorter)
    return shorter


def _may_exist(host: str) -> bool:
    """Whether a name or an address may be one of a host; no look-up is made."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
        return True
    except ValueError:
        pass
    try:
        name = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError:
        return False
    labels = name.removesuffix(".").split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        return False
    # The last label of an address is a number, and no name's is; `.invalid` is kept free of hosts (RFC 6761).
    return not labels[-1].isdecimal() and labels[-1].lower() != "invalid"
