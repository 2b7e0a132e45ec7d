"""How servers are reached: with which key, whom to trust, who we are, through which proxy."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tgi_stack.errors import SettingsError
from tgi_stack.redaction import keep_secret, redact_url
from tgi_stack.settings import Settings
from tgi_stack.text_files import CERTIFICATES_BYTES, KEY_BYTES, TextFileError, read_text, unread

ENVIRONMENT = "env"
AUTHORIZATION = "Authorization"
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # a token of RFC 9110
# What requests bear already, or what would change how they are read.
_TAKEN = frozenset(
    (
        "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type",
        "cookie", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
        "x-request-id",
    )
)  # fmt: skip
_CERTIFICATE = re.compile(
    r"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----.+?-----END [A-Z0-9 ]*CERTIFICATE-----", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies that were asked for: by the scheme of a server's URL, and which hosts need none."""

    by_scheme: Mapping[str, str] = field(default_factory=dict)
    without: str = ""

    def to(self, url: str) -> str | None:
        """The proxy on the way to a URL; a server on loopback is reached directly."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not self.by_scheme or is_loopback(host):
            return None
        if any(_is_named(host, parts.port, one.strip().lower()) for one in self.without.split(",")):
            return None
        return self.by_scheme.get(parts.scheme)


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the endpoints.

    Attributes:
        api_key: sent as a bearer token, or as it is in another header than Authorization; never shown.
        ca_file: certificates to trust in place of the system's.
        client_cert, client_key: our own certificate and its key, which may stand in one file.
    """

    api_key: str | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    proxies: Proxies = field(default_factory=Proxies)
    api_key_header: str = AUTHORIZATION

    @property
    def headers(self) -> dict[str, str]:
        """What shows the key."""
        if self.api_key is None:
            return {}
        bearer = self.api_key_header.lower() == AUTHORIZATION.lower()
        return {self.api_key_header: f"Bearer {self.api_key}" if bearer else self.api_key}

    def tls(self) -> ssl.SSLContext | bool:
        """What connections are secured with; True for the system's own way.

        Raises:
            SettingsError: a file that can't be read, or holds something else.
        """
        if self.ca_file is None and self.client_cert is None:
            return True
        try:
            context = ssl.create_default_context(cadata=_trusted(self.ca_file))
        except ssl.SSLError as error:
            message = (
                f"--ca-file {self.ca_file}: one of its certificates is damaged ({error.reason or error})"
            )
            raise SettingsError(message) from error
        if self.client_cert is not None:
            _show(context, self.client_cert, self.client_key)
        return context


def access(settings: Settings, environ: Mapping[str, str] = os.environ) -> Access:
    """The key is from --api-key-file, FASTQWEN_API_KEY or FASTQWEN_API_KEY_FILE; never from an argument.

    Raises:
        SettingsError: a file that can't be read, or holds no key; no URL of a proxy; no name of a header.
    """
    key = key_of("--api-key-file", settings.api_key_file, environ.get("FASTQWEN_API_KEY"))
    keep_secret(environ.get("HF_TOKEN"))
    header = settings.api_key_header
    if not _HEADER.fullmatch(header) or header.lower() in _TAKEN:
        raise SettingsError(
            f"--api-key-header {header[:80]!r}: no header that can bear a key; such as X-API-Key"
        )
    proxies = _proxies(settings.proxy, environ)
    return Access(key, settings.ca_file, settings.client_cert, settings.client_key, proxies, header)


def key_of(option: str, file: Path | None, otherwise: str | None) -> str | None:
    """A server's key, from a file or else as it is; it is never shown from now on.

    Raises:
        SettingsError: a file that can't be read, or nothing that a header takes.
    """
    key = otherwise
    if file is not None:
        try:
            key = read_text(file, KEY_BYTES).strip()
        except (OSError, TextFileError) as error:
            raise SettingsError(unread(option, file, error)) from None
    if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
        raise SettingsError("the API key is empty or holds characters that no header takes")
    keep_secret(key)
    return key


def is_loopback(host: str) -> bool:
    """Whether a name or an address is of this very machine's loopback; no look-up is made."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().rstrip(".").rpartition(".")[2] == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified


def _is_named(host: str, port: int | None, entry: str) -> bool:
    """Whether an entry of NO_PROXY is a host: its name or the end of it, its address or a range, or `*`."""
    if entry == "*" or (port is not None and entry == f"{host}:{port}"):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name = entry.lstrip("*").lstrip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))


def _proxies(wanted: str | None, environ: Mapping[str, str]) -> Proxies:
    if wanted is None:
        return Proxies()
    if wanted != ENVIRONMENT:
        proxy = _checked("--proxy", wanted)
        return Proxies({"http": proxy, "https": proxy})
    found = {}
    for scheme in ("http", "https"):
        # As other programs do: small letters first.
        names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
        name, value = next(((name, environ[name]) for name in names if environ.get(name)), ("", ""))
        if value:
            found[scheme] = _checked(name, value)
    return Proxies(found, environ.get("no_proxy") or environ.get("NO_PROXY") or "")


def _checked(name: str, url: str) -> str:
    """A proxy's URL; one without a scheme is of http.

    Raises:
        SettingsError: it is none.
    """
    url = url.strip() if "://" in url else f"http://{url.strip()}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"{name} {redact_url(url)[:80]}: give env, or a URL such as http://proxy:3128")
    keep_secret(unquote(parts.password) if parts.password else None)
    return url


def _trusted(ca_file: Path | None, option: str = "--ca-file") -> str | None:
    """The certificates of a file; None for the system's."""
    if ca_file is None:
        return None
    try:
        # Comments between certificates may be in any language; OpenSSL takes ASCII alone.
        found = _CERTIFICATE.findall(read_text(ca_file, CERTIFICATES_BYTES))
        if not found:
            raise TextFileError("holds no certificate; give them as PEM")
        return "\n".join(found)
    except TextFileError as error:
        raise SettingsError(f"--ca-file {ca_file}: {error}") from error
    except OSError as error:
        raise SettingsError(f"--ca-file {ca_file}: {error.strerror or error}") from error


def _show(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Lets a context show our certificate."""
    named = f"--client-cert {cert}" + ("" if key is None else f", --client-key {key}")

    def refuse() -> str:
        raise SettingsError(f"{named}: the key has a passphrase; give one without")

    for path in (cert, key):
        if path is not None and path.is_fifo():  # OpenSSL opens it by itself, and would wait for ever
            raise SettingsError(f"{named}: {path} is a pipe; give a plain file")
    try:
        context.load_cert_chain(cert, key, refuse)
    except ssl.SSLError as error:
        why = "they don't belong together" if error.reason == "KEY_VALUES_MISMATCH" else "give both as PEM"
        raise SettingsError(f"{named}: no certificate with its key ({why})") from error
    except OSError as error:
        raise SettingsError(f"{named}: {error.strerror or error}") from error
