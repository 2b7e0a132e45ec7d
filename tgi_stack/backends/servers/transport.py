"""Requests over HTTP, each in its deadline and its size: the only file that knows aiohttp.

No redirects, no cookies, no proxies unless asked for, no compression; connections are given up before the
servers give them up. A reply that ends with its connection is not taken: nobody can tell it from one that was
cut short.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp.client_reqrep import ClientResponse

from tgi_stack import __version__
from tgi_stack.backends.servers.access import Access
from tgi_stack.backends.servers.protocols.reply import Call, shown, status_of
from tgi_stack.redaction import redact, without_secrets_in

LOG = logging.getLogger(__name__)

CONNECT_S = 5.0
IDLE_S = 4.0  # vLLM closes idle connections after 5
MAX_REPLY_BYTES = 8 * 2**20
NO_HANDLES = (errno.EMFILE, errno.ENFILE)
# What a server says of our certificate; by TLS 1.3 after the handshake, when the request is out.
_ALERT = re.compile(r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA|ACCESS_DENIED)")
# By OpenSSL's X509_V_ERR_*; what does not mend these a reader would try first.
_NAMED = "name the server as its certificate does (a host of the same address, or the address)"
_CURES = {
    9: "set this machine's clock, or wait until the certificate is valid",
    10: "have the server's certificate renewed, or set this machine's clock",
    62: _NAMED,
    64: _NAMED,
}
# Of an address such as [fe80::1%25eth0]: a % is written so in a URL, and aiohttp looks it up as written.
_ZONE = re.compile(r"^(https?://\[[^]%]*)%25", re.IGNORECASE)
_NO_ADDRESS = getattr(socket, "EAI_NODATA", socket.EAI_NONAME)


class TransportError(Exception):
    """No whole reply came.

    Attributes:
        kind: `refused` (no connection), `nowhere` (the host has no address), `handles` (this process may open
            no more files), `silent` (it ended before a byte came), `broken` (it ended in the middle), `slow`
            (the deadline), `large`, `unsafe` (TLS, or a proxy that
            wants a password).
    """

    def __init__(self, kind: str, detail: str, *, lasting: bool = False) -> None:
        super().__init__(detail)
        self.kind = kind
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply; `discard` closes the connection it came by, for one that can't be trusted any more."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    discard: Callable[[], None]


class _Response(ClientResponse):
    """Keeps hold of the connection, which aiohttp lets go with a reply's last byte."""

    wire: asyncio.BaseTransport | None = None

    async def start(self, connection: Any) -> ClientResponse:
        self.wire = connection.transport
        return await super().start(connection)

    def discard(self) -> None:
        if self.wire is not None:
            self.wire.close()


class _Pulse:
    """Gives back to all deadlines the time in which this process stood still, which is no server's fault."""

    EVERY_S = 0.25
    STILL_S = 1.0

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.deadlines: set[asyncio.Timeout] = set()
        self._beat_at = self._loop.time()
        self._handle = self._loop.call_soon(self._beat)

    def _beat(self) -> None:
        # Timers run in the order of their times: this one before any deadline that fell into the stillness.
        late_s = self._loop.time() - self._beat_at - self.EVERY_S
        if late_s > self.STILL_S:
            LOG.warning(f"stood still for {late_s:.1f} s (a slow disk?); deadlines are moved")
            for deadline in self.deadlines:
                when = deadline.when()
                if when is not None:
                    deadline.reschedule(when + late_s)
        self._beat_at = self._loop.time()
        self._handle = self._loop.call_later(self.EVERY_S, self._beat)

    def stop(self) -> None:
        self._handle.cancel()


class Transport:
    """A pool of connections; to be made and closed in the event loop that uses it.

    Args:
        access: how servers are reached; without a key, a certificate or a proxy unless told.
    """

    def __init__(self, access: Access | None = None) -> None:
        self._access = access = access or Access()
        self._pulse = _Pulse()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S, ssl=access.tls())
        headers = {"Accept-Encoding": "identity", "User-Agent": f"fastqwen/{__version__}"}
        headers |= access.headers
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            trust_env=False,
            auto_decompress=False,
            response_class=_Response,
        )

    async def get(self, url: str, deadline_s: float) -> Reply:
        """A GET request; see `post`."""
        return await self._send("GET", url, None, {}, deadline_s)

    async def post(self, base: str, call: Call, deadline_s: float) -> Reply:
        """Sends a call to an endpoint.

        Raises:
            TransportError: no whole reply came within `deadline_s` seconds.
        """
        headers = {"Content-Type": "application/json", **call.headers}
        return await self._send("POST", base + call.path, _written(call.body), headers, deadline_s)

    async def _send(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str], deadline_s: float
    ) -> Reply:
        began = False
        deadline = asyncio.timeout(deadline_s)
        self._pulse.deadlines.add(deadline)
        try:
            async with (
                deadline,
                self._session.request(
                    method,
                    _ZONE.sub(r"\1%", url),
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    proxy=self._access.proxies.to(url),
                ) as response,
            ):
                began = True
                discard = response.discard  # type: ignore[attr-defined]  # a _Response
                body = without_secrets_in(await _body(response))
                return Reply(status_of(response.status, body), response.headers, body, discard)
        except aiohttp.ConnectionTimeoutError as error:  # nothing was sent yet
            tls = "; is it a server of https?" if url.startswith("https:") else ""
            raise TransportError("refused", f"no connection within {CONNECT_S:.0f} s{tls}") from error
        except TimeoutError as error:
            sent = f" to a request of {len(data):,} bytes" if data else ""
            raise TransportError("slow", f"no whole answer within {deadline_s:.0f} s{sent}") from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
            raise _unsafe(error) from error
        except (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError) as error:
            raise _unproxied(error) from error
        except aiohttp.ClientConnectorError as error:
            raise _unconnected(error) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if _ALERT.search(str(error)):
                raise _unsafe(error) from error
            raise TransportError("broken" if began else "silent", _said(error)) from error
        except (aiohttp.ClientError, ValueError) as error:
            no_http = isinstance(error, aiohttp.ClientResponseError)
            raise TransportError("broken", _said(error), lasting=no_http) from error
        except OSError as error:
            kind = "handles" if error.errno in NO_HANDLES else "broken"
            raise TransportError(kind, error.strerror or str(error)) from error
        finally:
            self._pulse.deadlines.discard(deadline)

    async def aclose(self) -> None:
        """Closes all connections."""
        self._pulse.stop()
        await self._session.close()


def _written(body: dict[str, Any]) -> bytes:
    """A body as JSON; a lone surrogate, which no UTF-8 has, is written as its escape."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _said(error: Exception) -> str:
    """What aiohttp says, in a line: it quotes all that came in place of HTTP, and calls that a status 400."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"no answer in HTTP: {shown(error.message.encode('utf-8', 'replace'))}"
    return shown((str(error) or type(error).__name__).encode("utf-8", "replace"))


def _unproxied(error: aiohttp.ClientError) -> TransportError:
    """What a proxy that is not there, or that lets nobody through, is called."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        if error.status == 407:
            return TransportError("unsafe", "the proxy wants a user and a password; give them in its URL")
        return TransportError("refused", f"the proxy does not reach the server: status {error.status}")
    return TransportError("refused", f"the proxy can't be reached: {redact(str(error))}")


def _unconnected(error: aiohttp.ClientConnectorError) -> TransportError:
    """What a connection that did not come about is called."""
    cause = error.os_error
    if cause.errno in NO_HANDLES:
        return TransportError("handles", cause.strerror or str(cause))
    if isinstance(cause, socket.gaierror) and cause.errno in (socket.EAI_NONAME, _NO_ADDRESS):
        return TransportError("nowhere", f"no such host as {error.host}")
    return TransportError("refused", error.strerror or str(error))


def _unsafe(error: aiohttp.ClientError) -> TransportError:
    """What a failed TLS handshake is called; one that was cut short is no connection, no more."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = f"the certificate can't be verified ({cause.verify_message})"
        cure = _CURES.get(cause.verify_code, "name who signed it with --ca-file FILE.pem")
        return TransportError("unsafe", f"TLS: {why}; {cure}")
    if (said := _ALERT.search(str(cause))) is not None:
        if said[1] == "CERTIFICATE_REQUIRED":
            return TransportError(
                "unsafe", "TLS: the server wants a certificate; name ours with --client-cert"
            )
        why = said[1].replace("_", " ").lower()
        return TransportError("unsafe", f"TLS: the server refuses our certificate ({why}), see --client-cert")
    if "HANDSHAKE_FAILURE" in str(cause):  # of TLS 1.2, where no certificate came
        return TransportError("unsafe", f"TLS: {cause}; does the server want a certificate (--client-cert)?")
    cut = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError)
    return TransportError("refused" if cut else "unsafe", f"TLS: {cause}; is it a server of https?")


async def _body(response: ClientResponse) -> bytes:
    """The body, as it comes, up to the cap; of anything but a 200 only what can be shown matters."""
    encoded = response.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")
    # Of several codings the last one ends the body; a word that only holds `chunked` ends nothing.
    last = response.headers.get("Transfer-Encoding", "").rpartition(",")[2].strip().lower()
    sized = "Content-Length" in response.headers or last == "chunked"
    if response.status == 200 and (encoded or not sized):
        response.close()
        what = "a compressed answer, which was not asked for" if encoded else "an answer of no stated length"
        raise TransportError("broken", f"{what}: have the proxy pass answers on as they are", lasting=True)
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_REPLY_BYTES:
            response.close()
            detail = f"an answer of more than {MAX_REPLY_BYTES:,} bytes"
            raise TransportError("large", detail, lasting=True)
    return b"" if encoded else b"".join(parts)
