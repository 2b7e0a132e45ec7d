"""Requests as bytes on the wire: what is a whole answer, and what is said where there is none."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tgi_stack.backends.servers import transport
from tgi_stack.backends.servers.transport import Reply, Transport, TransportError


@contextmanager
def says(answer: bytes) -> Iterator[int]:
    """A port where each request gets these bytes, over a connection that stays open."""
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answer)
            ended.wait(30)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            ended.set()
            server.shutdown()


def got(url: str) -> Reply:
    async def asking() -> Reply:
        pool = Transport()
        try:
            return await pool.get(url, 10.0)
        finally:
            await pool.aclose()

    return asyncio.run(asking())


CHUNKED = b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "header",
    [b"Transfer-Encoding: Chunked" + CHUNKED, b"Content-Encoding:\r\nContent-Length: 2\r\n\r\n{}"],
    ids=["large letters", "no encoding"],
)
def test_a_whole_answer_is_one_in_any_case(header: bytes) -> None:
    with says(b"HTTP/1.1 200 OK\r\n" + header) as port:
        assert got(f"http://127.0.0.1:{port}/").body == b"{}"


def test_a_coding_unknown_states_no_length() -> None:
    with (
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked" + CHUNKED) as port,
        pytest.raises(TransportError, match="no stated length"),
    ):
        got(f"http://127.0.0.1:{port}/")


def test_a_handshake_nobody_answers_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONNECT_S", 0.2)
    with (
        says(b"") as port,
        pytest.raises(TransportError, match=r"no connection.*a server of https") as raised,
    ):
        got(f"https://127.0.0.1:{port}/")
    assert raised.value.kind == "refused"


def test_a_zone_of_an_address_is_decoded() -> None:
    loopback = socket.if_nameindex()[0][1]
    with pytest.raises(TransportError) as raised:
        got(f"http://[fe80::1%25{loopback}]:1/")
    assert raised.value.kind == "refused"  # not `nowhere`: the address is one


@pytest.mark.parametrize(
    "before", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n", b"HTTP/1.1 200 OK\r\nX"]
)
def test_of_what_is_no_http_little_is_said(before: bytes) -> None:
    with says(before + b"\x1b\n" * 20_000) as port, pytest.raises(TransportError) as raised:
        got(f"http://127.0.0.1:{port}/")
    assert len(str(raised.value)) < 300
    assert str(raised.value).isprintable()
    assert "400" not in str(raised.value)  # which aiohttp calls it, and no server said
