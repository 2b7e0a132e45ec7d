"""What an endpoint is: what will be none is refused at once, what comes up is waited for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.loopback import Loopback, _send, listening
from tgi_stack.backends.servers.discovery import find
from tgi_stack.backends.servers.protocols import tgi, vllm
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import Served
from tgi_stack.backends.servers.transport import Transport
from tgi_stack.errors import NoEngineError, ServerError, WrongServerError

HTML = b"<!doctype html><title>It works</title>"
VERSION = b'{"version": "0.33.0"}'


def info(**changes: Any) -> bytes:
    sound = {"model_id": "tiny", "max_input_tokens": 4095, "max_total_tokens": 4096, "version": "3.3.6-dev0"}
    return json.dumps(sound | changes).encode()


def cards(*given: Any) -> bytes:
    return json.dumps({"object": "list", "data": given}).encode()


def card(
    name: Any = "base", root: Any = "/m/base", parent: Any = None, longest: Any = 4096
) -> dict[str, Any]:
    return {"id": name, "root": root, "parent": parent, "max_model_len": longest}


@dataclass
class Pages(Loopback):
    """Serves what a test says, by path: a status and a body, or bytes as they go over the wire."""

    pages: Mapping[str, tuple[int, bytes] | bytes] = field(default_factory=dict)
    other: tuple[int, bytes] | bytes = (404, b"")
    asked: int = 0

    async def _reply(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        self.asked += 1
        page = self.pages.get(path, self.other)
        if isinstance(page, bytes):
            writer.write(page)
            await writer.drain()
            writer.close()
        else:
            await _send(writer, *page)


def look(server: Loopback, wanted: str | None = None, patience_s: float = 60.0) -> Served:
    async def asking() -> Served:
        transport = Transport()
        try:
            return await find(transport, server.url, "auto", wanted, patience_s)
        finally:
            await transport.aclose()

    return asyncio.run(asking())


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
NO_SERVER_OF_OURS: dict[str, tuple[dict[str, Any], Any]] = {
    "a page for all paths": ({}, (200, HTML)),
    "an empty page": ({}, (200, b"")),
    "not found": ({}, (404, HTML)),
    "a plain 400": ({}, (400, b"The plain HTTP request was sent to HTTPS port")),
    "teapot": ({}, (418, b"")),
    "gone": ({}, (410, b"")),
    "no content": ({}, (204, b"")),
    "not implemented": ({}, (501, b"")),
    "a page without a length": ({}, PLAIN + b"Connection: close\r\n\r\n" + HTML),
    "a compressed page": ({}, PLAIN + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"),
    "no HTTP": ({}, b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"),
    "models of others": ({"/v1/models": (200, cards({"id": "llama3", "object": "model"}))}, (404, b"")),
    "models of others, versioned": (
        {"/v1/models": (200, cards({"id": "llama3"})), "/version": (200, VERSION)}, (404, b"")),
    "no models": ({"/v1/models": (200, cards()), "/version": (200, VERSION)}, (404, b"")),
    "no list": ({"/v1/models": (200, b'{"data": {}}'), "/version": (200, VERSION)}, (404, b"")),
    "no version": ({"/v1/models": (200, cards(card()))}, (404, b"")),
    "a version that is none": ({"/v1/models": (200, cards(card())), "/version": (200, HTML)}, (404, b"")),
    "information of others": ({"/info": (200, b'{"app": "spring"}')}, (404, b"")),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_SERVER_OF_OURS)
def test_what_is_no_server_is_not_waited_for(kind: str) -> None:
    pages, other = NO_SERVER_OF_OURS[kind]
    with listening(Pages("vllm", pages=pages, other=other)) as server:
        began = time.monotonic()
        with pytest.raises(NoEngineError, match="neither TGI nor vLLM nor SGLang answers there"):
            look(server)
    assert time.monotonic() - began < 30
    assert server.asked <= 5


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_waited_for(status: int) -> None:
    class ComingUp(Pages):
        async def _reply(self, writer: asyncio.StreamWriter, *rest: Any) -> None:
            if self.asked:
                self.pages = {"/info": (200, info())}
            await super()._reply(writer, *rest)

    with listening(ComingUp("tgi", other=(status, HTML))) as server:
        assert look(server).dialect == "tgi"


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"])
def test_connections_that_end_are_waited_for(cut: bytes) -> None:
    class ComingUp(Pages):
        async def _reply(self, writer: asyncio.StreamWriter, *rest: Any) -> None:
            if self.asked > 2:
                self.pages = {"/info": (200, info())}
            await super()._reply(writer, *rest)

    with listening(ComingUp("tgi", other=cut)) as server:
        assert look(server).dialect == "tgi"


@pytest.mark.parametrize("headers", [b"", b"Content-Encoding: gzip\r\nContent-Length: 3\r\n"])
def test_a_refusal_is_one_in_any_dress(headers: bytes) -> None:
    refused = b"HTTP/1.1 401 X\r\nConnection: close\r\n" + headers + b"\r\nabc"
    with (
        listening(Pages("tgi", other=refused)) as server,
        pytest.raises(WrongServerError, match="wants a key"),
    ):
        look(server)


def test_a_redirect_may_name_any_bytes() -> None:
    elsewhere = b"HTTP/1.1 302 X\r\nLocation: http://h/\xff\r\nContent-Length: 0\r\n\r\n"
    with (
        listening(Pages("tgi", other=elsewhere)) as server,
        pytest.raises(WrongServerError, match="points elsewhere, to http://h/"),
    ):
        look(server)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with listening(Pages("tgi", other=(status, b""))) as server:
        with pytest.raises(WrongServerError, match=r"points elsewhere, to http://127\.0\.0\.1:1/stolen"):
            look(server)
        assert server.asked == 1


@pytest.mark.parametrize("name", ["max_total_tokens", "max_input_tokens"])
@pytest.mark.parametrize("value", [0, -1, 0.5, "4096", True, [], 2**31])
def test_limits_that_are_none_refuse_tgi(name: str, value: Any) -> None:
    with pytest.raises(ReplyError):
        tgi.described(info(**{name: value}))
    with listening(Pages("tgi", pages={"/info": (200, info(**{name: value}))})) as server:
        with pytest.raises(WrongServerError, match="/info: "):
            look(server)
        assert server.asked == 1


def test_a_limit_of_tgi_may_be_missing() -> None:
    assert tgi.described(info(max_input_tokens=None))[0].longest_prompt is None
    with pytest.raises(ReplyError, match="max_total_tokens is missing"):
        tgi.described(info(max_total_tokens=None))


UNSOUND: list[Any] = [
    card("x", longest=0), card("x", longest=-1), card("x", longest=None), card("x", longest="4096"),
    card("x", longest=4096.0), card("x", longest=True), card("x", longest=2**31), card("x", longest={}),
    card(None), card(""), card(7), card({}), None, [], "x", 7, {},
]  # fmt: skip


@pytest.mark.parametrize("unsound", UNSOUND, ids=str)
@pytest.mark.parametrize("first", [True, False])
def test_one_bad_card_spoils_no_other(unsound: Any, first: bool) -> None:
    listed = (unsound, card()) if first else (card(), unsound)
    pages = {"/v1/models": (200, cards(*listed)), "/version": (200, VERSION)}
    with listening(Pages("vllm", pages=pages)) as server:
        assert (look(server).model, look(server).context) == ("base", 4096)
        with pytest.raises(ServerError, match="x"):
            look(server, "x")
        server.pages = pages | {"/v1/models": (200, cards(unsound))}
        with pytest.raises(NoEngineError):
            look(server)


@pytest.mark.parametrize(
    ("parent", "root"),
    [
        ("base", "/m/base"),  # the name that it is served under
        ("served", "/m/base"),
        ("/m/base", "/m/base"),  # what it was loaded from
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B", "/m/base"),  # whatever its operator wrote: there is one model alone
    ],
)
def test_an_adapter_takes_its_models_length(parent: str, root: str) -> None:
    adapter = card("lora", "/adapters/x", parent, None)
    listed = vllm.described(cards(adapter, card("base", root), card("served", root)), VERSION)
    assert [(one.model, one.context, one.parent) for one in listed] == [
        ("lora", 4096, root), ("base", 4096, None), ("served", 4096, None),
    ]  # fmt: skip
    pages = {"/v1/models": (200, cards(adapter, card("base", root))), "/version": (200, VERSION)}
    with listening(Pages("vllm", pages=pages)) as server:
        assert look(server).model == "base"
        assert look(server, "lora").root == "/adapters/x"


def test_an_adapter_of_several_models_is_nobodys() -> None:
    listed = vllm.described(cards(card("a", "/m/a"), card("b", "/m/b"), card("l", "/l", "c", None)), VERSION)
    assert [one.fault is None for one in listed] == [True, True, False]
