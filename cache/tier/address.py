"""Where a tier is and who may use it, as a URL says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

PORT = 6379
FORM = "give redis://HOST:PORT/DB, or rediss:// for TLS"


@dataclass(frozen=True, slots=True)
class Address:
    """A server, one of its numbered databases, and the user who asks; as text it is without secrets."""

    host: str
    port: int = PORT
    database: int = 0
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: Path | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.tls else ''}://{host}:{self.port}/{self.database}"


def parse(url: str) -> Address:
    """The address in a URL.

    Raises:
        ValueError: it is none; the message does not hold it, since it may hold a password.
    """
    try:
        parts = urlsplit(url.strip())
        port = PORT if parts.port is None else parts.port
    except ValueError:
        raise ValueError(f"no URL of a tier; {FORM}") from None
    number = parts.path.strip("/") or "0"
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or port == 0:
        raise ValueError(f"no URL of a tier; {FORM}")
    if parts.query or parts.fragment or not (number.isascii() and number.isdigit()) or len(number) > 6:
        raise ValueError(f"after the port of a tier stands the number of its database alone; {FORM}")
    user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
    return Address(parts.hostname, port, int(number), user or None, password, parts.scheme == "rediss")
