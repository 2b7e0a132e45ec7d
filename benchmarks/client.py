"""Requests a second of the client of servers, beside a raw aiohttp loop in the same run.

    python benchmarks/client.py [--seconds 6]

A server in a second process answers label reads in vLLM's dialect after a delay. The raw loop sends the same
bodies and does nothing but parse the JSON; the client proves, parses, limits and counts as a run does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import resource
import time
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from tgi_stack.backends.served import ServedBackend
from tgi_stack.backends.serving import open_served
from tgi_stack.fanout import fan_out
from tgi_stack.settings import load
from tgi_stack.types import ScoreRequest
from tgi_stack.wire import vllm

LABELS = (32, 33, 34, 35)
SHOWN = ", ".join(f'"token_id:{label}": -{2 + place}.5' for place, label in enumerate(LABELS))


class _Answering(asyncio.Protocol):
    """One connection; requests come one at a time and are answered `delay_s` later."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._data = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        length = int(_header(head, b"content-length") or 0) if found else 0
        if not found or len(rest) < length:
            return
        self._data = rest[length:]
        answer = _answer(head, rest[:length])
        asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, answer)


def _header(head: bytes, name: bytes) -> bytes:
    start = head.lower().find(b"\r\n" + name + b": ")
    return b"" if start < 0 else head[start + len(name) + 4 :].partition(b"\r\n")[0]


def _answer(head: bytes, body: bytes) -> bytes:
    path = head.split(b" ", 2)[1]
    if path == b"/version":
        text = '{"version": "0.33.0"}'
    elif path == b"/v1/models":
        text = '{"data": [{"id": "tiny", "root": "tiny", "max_model_len": 4096}]}'
    elif path == b"/v1/completions":
        text = _read(json.loads(body)["prompt"], _header(head, b"x-request-id").decode())
    else:
        return b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


def _read(prompt: Any, name: str) -> str:
    from tgi_stack.tiny import TINY
    from tgi_stack.tokens import Tokenizer

    tokens = (
        len(Tokenizer(TINY / "text" / "tokenizer.json").encode(prompt))
        if isinstance(prompt, str)
        else len(prompt[0])
    )
    return (
        f'{{"id": "cmpl-{name}", "model": "tiny", "choices": [{{"index": 0, "logprobs": {{"top_logprobs": '
        f'[{{{SHOWN}}}]}}}}], "usage": {{"prompt_tokens": {tokens}}}}}'
    )


def server(delay_s: float, port: Connection) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: _Answering(delay_s), "127.0.0.1", 0, backlog=4096)
        port.send(listening.sockets[0].getsockname()[1])
        await listening.serve_forever()

    asyncio.run(serve())


def requests(count: int) -> Iterator[ScoreRequest]:
    rng = random.Random(1)  # noqa: S311  # drawn prompts
    for _ in range(count):
        yield ScoreRequest("", tuple(rng.randrange(3000) for _ in range(200)), ("A", "B", "C", "D"), LABELS)


async def raw(url: str, in_flight: int, count: int) -> float:
    """Answers a second of the reference."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(request: ScoreRequest) -> Any:
            call = vllm.score_call([request], "tiny", "x")
            async with session.post(url + call.path, json=call.body, headers=call.headers) as response:
                return await response.json(content_type=None)

        return await _rate(ask, in_flight, count)


async def client(url: str, in_flight: int, count: int) -> float:
    flags = {
        "engine": "vllm",
        "endpoint": (url,),
        "model": "tiny",
        "concurrency": in_flight,
        "llm_batch_size": 1,
    }
    backend: ServedBackend = await open_served(load(flags, {}), "text", lambda line: None)
    try:
        return await _rate(backend.score, in_flight, count)
    finally:
        await backend.aclose()


async def _rate(ask: Callable[[ScoreRequest], Awaitable[Any]], in_flight: int, count: int) -> float:
    began = time.perf_counter()
    await fan_out(requests(count), ask, lambda answer: None, workers=in_flight)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement, about")
    args = parser.parse_args()
    table = Table("delay ms", "in flight", "raw aiohttp, 1/s", "fastqwen, 1/s", "share", "peak MiB")
    for delay_s, in_flight in ((0.5, 256), (0.5, 1024), (0.0, 64)):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=server, args=(delay_s, theirs), daemon=True)
        process.start()
        url = f"http://127.0.0.1:{ours.recv()}"
        expected = in_flight / delay_s if delay_s else 2000.0
        count = max(in_flight * 4, int(min(expected, 1500.0) * args.seconds))
        reference = asyncio.run(raw(url, in_flight, count))
        found = asyncio.run(client(url, in_flight, count))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cells = (f"{reference:,.0f}", f"{found:,.0f}", f"{found / reference:.2f}", f"{peak:.0f}")
        table.add_row(f"{1000 * delay_s:.0f}", f"{in_flight:,}", *cells)
        process.terminate()
    Console().print(table)


if __name__ == "__main__":
    main()
