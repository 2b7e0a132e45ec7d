"""Servers behind a proxy, and servers that ask who we are."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest

from tests.certificates import EC, authority, openssl
from tests.conftest import Fastqwen, write_rows
from tests.loopback import Loopback, listening, serve
from tgi_stack import settings
from tgi_stack.backends.servers.access import access
from tgi_stack.backends.servers.transport import Transport, TransportError, _unsafe
from tgi_stack.errors import SettingsError

HOST = "models.example.test"
ROW = {"prompt": "x\n", "labels": ["A", "B"]}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: an authority, and certificates that it signed for a server and for a client."""
    hosts = {"server": f"DNS:{HOST}", "client": "DNS:client.example.test", "proxy": "IP:127.0.0.1"}
    folder = authority(tmp_path_factory.mktemp("certificates"), **hosts)
    openssl(folder, "ec", "-in", "client.key", "-aes128", "-passout", "pass:hush", "-out", "locked.key")
    return folder


@dataclass
class Secured(Loopback):
    """A server over TLS that wants a certificate of its clients."""

    folder: Path = Path()

    async def _start(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]


@dataclass
class Tunnel(Loopback):
    """A proxy for CONNECT: whatever host is wanted, it leads to one port."""

    to: int = 0
    wants: str = ""  # user:password
    asked: list[str] = field(default_factory=list)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.asked.append(first)
        known = base64.b64encode(self.wants.encode()).decode()
        if self.wants and f"Proxy-Authorization: Basic {known}" not in lines:
            writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))


@dataclass
class SecuredTunnel(Tunnel):
    """A proxy that is spoken to over TLS itself."""

    folder: Path = Path()

    async def _start(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.folder / "proxy.pem", self.folder / "proxy.key")
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(2**16):
            writer.write(piece)
    except ConnectionError:
        pass
    writer.close()


@dataclass
class Forwarding(Loopback):
    """A proxy for plain HTTP that answers in the server's place."""

    asked: list[str] = field(default_factory=list)

    async def _reply(self, writer: asyncio.StreamWriter, method: str, path: str, *rest: Any) -> None:
        self.asked.append(path)
        await super()._reply(writer, method, path.removeprefix(f"http://{HOST}"), *rest)


def known(folder: Path) -> tuple[str | Path, ...]:
    """The options that show our certificate and trust theirs."""
    cert, key = folder / "client.pem", folder / "client.key"
    return ("--ca-file", folder / "ca.pem", "--client-cert", cert, "--client-key", key)


@pytest.mark.parametrize("asked", ["option", "environment"])
def test_a_secured_server_behind_a_proxy(
    fastqwen: Fastqwen, tmp_path: Path, certificates: Path, asked: str
) -> None:
    rows = write_rows(tmp_path / "p.jsonl", ROW)
    out = tmp_path / "o.jsonl"
    with (
        listening(Secured("vllm", folder=certificates)) as server,
        listening(Tunnel("vllm", wants="me:hunter2-hunter2")) as proxy,
    ):
        proxy.to = server.port
        url = proxy.url.replace("//", "//me:hunter2-hunter2@")
        given, variables = (
            (("--proxy", url), {}) if asked == "option" else (("--proxy", "env"), {"HTTPS_PROXY": url})
        )
        job = ("probs", rows, "-o", out, "--endpoint", f"https://{HOST}", "--model", "tiny", "--debug")
        done = fastqwen(*job, *known(certificates), *given, **variables)
    assert set(proxy.asked) == {f"CONNECT {HOST}:443 HTTP/1.1"}
    assert server.posts > 0
    assert "1 ok" in done.stderr
    for written in (done.stderr, (tmp_path / "o.jsonl.run.json").read_text()):
        assert "hunter2" not in written


@dataclass
class OverTls(Loopback):
    """A server over TLS, whoever asks."""

    folder: Path = Path()
    name: str = "proxy"

    async def _start(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.folder / f"{self.name}.pem", self.folder / f"{self.name}.key")
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("name", "trusted", "said"),
    [
        ("proxy", "ca.pem", None),
        ("proxy", "both.pem", None),  # one of several
        ("proxy", "proxy.pem", "can't be verified"),  # its own, which signs nothing
        ("proxy", "other.pem", "can't be verified"),
        ("proxy", None, "can't be verified"),
        ("server", "ca.pem", "can't be verified"),  # of another host
        ("server", "ca.pem", "name the server as its certificate does"),
        ("proxy", "ca.key", "no certificate"),
        ("proxy", "damaged.pem", "damaged.pem: one of its certificates is damaged"),
        ("proxy", "nowhere.pem", "No such file"),
    ],
)
def test_a_certificate_is_held_to_the_authority(
    fastqwen: Fastqwen, tmp_path: Path, certificates: Path, name: str, trusted: str | None, said: str | None
) -> None:
    subject = ("-subj", "/CN=other", "-days", "2")
    openssl(certificates, "req", "-x509", *EC, "-keyout", "other.key", "-out", "other.pem", *subject)
    parts = [(certificates / part).read_text() for part in ("other.pem", "ca.pem")]
    (certificates / "both.pem").write_text("# two\n" + "\n".join(parts))
    (certificates / "damaged.pem").write_text(parts[1].replace("\nM", "\n!"))
    rows = write_rows(tmp_path / "p.jsonl", ROW)
    trust = () if trusted is None else ("--ca-file", certificates / trusted)
    with listening(OverTls("vllm", folder=certificates, name=name)) as server:
        url = f"https://127.0.0.1:{server.port}"
        job = ("probs", rows, "--endpoint", url, "--model", "tiny", "--api-key-file", tmp_path / "key")
        (tmp_path / "key").write_text("hunter2-hunter2")
        file = trusted in ("ca.key", "nowhere.pem", "damaged.pem")
        done = fastqwen(*job, *trust, check=0 if said is None else 2 if file else 4)
        assert (server.posts > 0) == (said is None)
        assert bool(server.looked_at) == (said is None)  # nothing is told to a stranger
    assert said is None or said in done.stderr
    assert "hunter2" not in done.stderr


def test_a_proxy_may_be_secured_itself(fastqwen: Fastqwen, tmp_path: Path, certificates: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", ROW)
    with (
        listening(Secured("vllm", folder=certificates)) as server,
        listening(SecuredTunnel("vllm", folder=certificates, to=server.port)) as proxy,
    ):
        url = f"https://127.0.0.1:{proxy.port}"
        job = ("probs", rows, "-o", tmp_path / "o.jsonl", "--endpoint", f"https://{HOST}", "--model", "tiny")
        done = fastqwen(*job, *known(certificates), "--proxy", url)
    assert set(proxy.asked) == {f"CONNECT {HOST}:443 HTTP/1.1"}
    assert "1 ok" in done.stderr


def test_plain_http_goes_through_the_proxy(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", ROW)
    with listening(Forwarding("vllm")) as proxy:
        fastqwen("probs", rows, "--endpoint", f"http://{HOST}", "--model", "tiny", "--proxy", proxy.url)
    assert all(path.startswith(f"http://{HOST}/") for path in proxy.asked)


def test_loopback_is_reached_without_the_proxy(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", ROW)
    with serve("vllm") as server, listening(Forwarding("vllm")) as proxy:
        fastqwen("probs", rows, "--endpoint", server.url, "--model", "tiny", "--proxy", proxy.url)
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("wanted", "url", "way"),
    [
        (None, "https://gpu", None),
        ("http://p:1", "https://gpu", "http://p:1"),
        ("p:1", "http://gpu:8080/text", "http://p:1"),
        ("http://p:1", "http://127.0.0.1:8080", None),
        ("http://p:1", "http://127.8.8.8", None),
        ("http://p:1", "http://[::1]:8080", None),
        ("http://p:1", "http://[::ffff:127.0.0.1]", None),
        ("http://p:1", "http://LOCALHOST.:8080", None),
        ("http://p:1", "http://gpu.localhost", None),
        ("http://p:1", "http://localhost.example.org", "http://p:1"),
        ("env", "https://gpu", "http://secure:2"),
        ("env", "http://gpu", "http://plain:3"),
        ("env", "https://in.example.org", None),
        ("env", "https://example.org", None),
        ("env", "https://another-example.org", "http://secure:2"),
        ("env", "https://10.1.2.3", None),
        ("env", "https://11.1.2.3", "http://secure:2"),
        ("env", "https://port:8443", None),
        ("env", "https://port:8444", "http://secure:2"),
    ],
)
def test_which_way_a_server_is_reached(wanted: str | None, url: str, way: str | None) -> None:
    environ = {
        "HTTPS_PROXY": "http://other:9",
        "https_proxy": "http://secure:2",
        "HTTP_PROXY": "plain:3",
        "ALL_PROXY": "http://all:4",
        "NO_PROXY": " .example.org, 10.0.0.0/8,port:8443,",
    }
    chosen = settings.load({"proxy": wanted}, {})
    assert access(chosen, environ).proxies.to(url) == way


@pytest.mark.parametrize("wanted", ["", "socks5://p:1", "http://", "http://p:99999", "http://me:hunter2@p:0"])
def test_what_is_no_proxy_is_refused(wanted: str) -> None:
    with pytest.raises(SettingsError, match="--proxy") as raised:
        access(settings.load({"proxy": wanted}, {}), {})
    assert "hunter2" not in str(raised.value)


def test_a_closed_proxy_is_told(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", ROW)
    job = ("probs", rows, "--endpoint", f"https://{HOST}", "--startup-timeout", "1")
    with listening(Tunnel("vllm", wants="me:right")) as proxy:
        refused = fastqwen(*job, "--proxy", proxy.url, check=4)
    assert "the proxy wants a user and a password" in refused.stderr
    assert "the proxy can't be reached" in fastqwen(*job, "--proxy", proxy.url, check=4).stderr


def test_a_server_that_wants_a_certificate_says_so(
    fastqwen: Fastqwen, tmp_path: Path, certificates: Path
) -> None:
    rows = write_rows(tmp_path / "p.jsonl", ROW)
    with picky(certificates) as port, listening(Tunnel("vllm", to=port)) as proxy:
        job = ("probs", rows, "--endpoint", f"https://{HOST}", "--proxy", proxy.url)
        trusted = ("--ca-file", certificates / "ca.pem", "--startup-timeout", "2")
        done = fastqwen(*job, *trusted, check=4)
    assert "name ours with --client-cert" in done.stderr


@contextmanager
def picky(folder: Path) -> Iterator[int]:
    """The port of a server that says by an alert that it wants a certificate, as asyncio's does not."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    context.wrap_socket(server.accept()[0], server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "refuses our certificate .certificate expired.*--client-cert"),
        ("TLSV1_ALERT_UNKNOWN_CA", "refuses our certificate .unknown ca.*--client-cert"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "name ours with --client-cert"),
    ],
)
def test_what_a_server_says_of_our_certificate(reason: str, said: str) -> None:
    """By TLS 1.3 it comes with the first answer, and a reset may come before it: so it is made here."""

    def refuse(*_: Any, **__: Any) -> None:
        raise aiohttp.ClientOSError(1, f"[SSL: {reason}] ... (_ssl.c:2580)")

    async def asked() -> None:
        transport = Transport()
        transport._session.request = refuse  # type: ignore[method-assign, assignment]
        try:
            await transport.get("https://127.0.0.1:1/", 1.0)
        finally:
            await transport.aclose()

    with pytest.raises(TransportError, match=said) as raised:
        asyncio.run(asked())
    assert raised.value.kind == "unsafe"


@pytest.mark.parametrize(
    ("code", "cure"), [(9, "clock"), (10, "renewed"), (64, "as its certificate does"), (20, "--ca-file")]
)
def test_each_bad_certificate_has_its_cure(code: int, cure: str) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "why"
    assert cure in str(_unsafe(aiohttp.ClientSSLError(mock.Mock(), error)))


def test_a_server_that_hangs_up_is_explained(fastqwen: Fastqwen, tmp_path: Path, certificates: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", ROW)
    with listening(OverTls("vllm", folder=certificates)) as server:
        job = ("probs", rows, "--endpoint", f"http://127.0.0.1:{server.port}", "--startup-timeout", "1.1")
        done = fastqwen(*job, check=4)
    waiting = next(line for line in done.stderr.splitlines() if line.startswith("waiting"))
    assert "if it speaks TLS, give https://" in waiting


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        (None, "client.key", "give --client-cert as well"),
        ("gone.pem", None, "No such file"),
        ("client.pem", None, "give both as PEM"),
        ("client.pem", "server.key", "they don't belong together"),
        ("client.pem", "locked.key", "the key has a passphrase"),
        ("ca.key", "ca.key", "give both as PEM"),
        ("pipe", None, "is a pipe; give a plain file"),
        ("client.pem", "pipe", "is a pipe; give a plain file"),
    ],
)
def test_a_certificate_that_will_not_do(
    certificates: Path, cert: str | None, key: str | None, said: str
) -> None:
    if "pipe" in (cert, key) and not (certificates / "pipe").exists():
        os.mkfifo(certificates / "pipe")
    given = {"client_cert": cert and certificates / cert, "client_key": key and certificates / key}
    with pytest.raises(SettingsError, match=said):
        access(settings.load(given, {}), {}).tls()
