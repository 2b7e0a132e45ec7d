"""Requests a second of the client of servers, beside a raw aiohttp loop in the same run.

    python benchmarks/client.py [--seconds 6] [--rows 10000 100000]
    python benchmarks/client.py --endpoint http://127.0.0.1:8000

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
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from rows import peak_mib, write_input
from tgi_stack.backends.servers.backend import ServedBackend
from tgi_stack.backends.servers.connect import open_served
from tgi_stack.backends.servers.protocols import vllm
from tgi_stack.concurrency import fan_out
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.settings import load
from tgi_stack.tiny import TINY
from tgi_stack.types import ScoreRequest

LABELS = tuple(range(32, 52))  # the ids of letters
ROUNDS = 3  # each loop in turn; the medians count
TOKENIZER_FILE = TINY / "text" / "tokenizer.json"


class _Answering(asyncio.Protocol):
    """One connection; requests come one at a time and are answered `delay_s` later, in a model's name."""

    def __init__(self, delay_s: float, tokenizer: Tokenizer, model: str) -> None:
        self._delay_s = delay_s
        self._tokenizer = tokenizer
        self._model = model
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
        answer = _answer(head, rest[:length], self._tokenizer, self._model)
        asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, answer)


def _header(head: bytes, name: bytes) -> bytes:
    start = head.lower().find(b"\r\n" + name + b": ")
    return b"" if start < 0 else head[start + len(name) + 4 :].partition(b"\r\n")[0]


def _answer(head: bytes, body: bytes, tokenizer: Tokenizer, model: str) -> bytes:
    path = head.split(b" ", 2)[1]
    if path == b"/version":
        text = '{"version": "0.33.0"}'
    elif path == b"/v1/models":
        text = json.dumps({"data": [{"id": model, "root": model, "max_model_len": 4096}]})
    elif path == b"/v1/completions":
        text = _read(json.loads(body), _header(head, b"x-request-id").decode(), tokenizer, model)
    else:
        return b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


def _read(asked: dict[str, Any], name: str, tokenizer: Tokenizer, model: str) -> str:
    prompts = asked["prompt"]
    if isinstance(prompts, str):  # the client's question before the first row
        prompts = [tokenizer.encode(prompts)]
    shown = {f"token_id:{id}": -2.5 - place for place, id in enumerate(asked.get("logprob_token_ids", ()))}
    choices = [{"index": place, "logprobs": {"top_logprobs": [shown]}} for place in range(len(prompts))]
    usage = {"prompt_tokens": sum(map(len, prompts))}
    return json.dumps({"id": f"cmpl-{name}", "model": model, "choices": choices, "usage": usage})


def server(delay_s: float, port: Connection, tokenizer_file: Path) -> None:
    tokenizer = Tokenizer(tokenizer_file)
    model = "tiny" if tokenizer_file == TOKENIZER_FILE else "drawn"

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(
            lambda: _Answering(delay_s, tokenizer, model), "127.0.0.1", 0, backlog=4096
        )
        port.send(listening.sockets[0].getsockname()[1])
        await listening.serve_forever()

    asyncio.run(serve())


@dataclass(frozen=True, slots=True)
class Load:
    """What the server is asked: how many prompts at a time, how long, how many labels of each."""

    delay_s: float
    in_flight: int
    tokens: int = 200
    labels: int = 4

    def requests(self, count: int, seed: int = 1) -> Iterator[ScoreRequest]:
        rng = random.Random(seed)  # noqa: S311  # drawn prompts
        ids = LABELS[: self.labels]
        for _ in range(count):
            prompt = tuple(rng.randrange(1000) for _ in range(self.tokens))
            yield ScoreRequest("", prompt, tuple("ABCDEFGHIJKLMNOPQRST"[: self.labels]), ids)


LOADS = (
    Load(0.5, 256),
    Load(0.5, 1024),
    Load(0.0, 64),
    Load(0.0, 64, tokens=719, labels=20),  # as the rows of end_to_end.py
)


async def raw(url: str, load: Load, count: int) -> float:
    """Answers a second of the reference."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(request: ScoreRequest) -> Any:
            call = vllm.score_call([request], "tiny", "x")
            async with session.post(url + call.path, json=call.body, headers=call.headers) as response:
                return await response.json(content_type=None)

        return await _rate(ask, load, count)


async def client(url: str, asked: Load, count: int) -> float:
    flags = {
        "engine": "vllm",
        "endpoint": (url,),
        "model": "tiny",
        "concurrency": asked.in_flight,
        "llm_batch_size": 1,
    }
    backend: ServedBackend = await open_served(load(flags, {}), "text")
    try:
        return await _rate(backend.score, asked, count)
    finally:
        await backend.aclose()


async def _rate(ask: Callable[[ScoreRequest], Awaitable[Any]], load: Load, count: int) -> float:
    began = time.perf_counter()
    await fan_out(load.requests(count), ask, workers=load.in_flight)
    return count / (time.perf_counter() - began)


async def raw_live(url: str, asked: list[ScoreRequest], in_flight: int, group: int) -> float:
    """Prompts a second that a plain loop gets from a real vLLM, `group` in a request."""
    groups = [asked[place : place + group] for place in range(0, len(asked), group)]
    async with aiohttp.ClientSession() as session:

        async def ask(several: list[ScoreRequest]) -> Any:
            call = vllm.score_call(several, "tiny", "x")
            async with session.post(url + call.path, json=call.body, headers=call.headers) as response:
                response.raise_for_status()
                return await response.json(content_type=None)

        began = time.perf_counter()
        await fan_out(groups, ask, workers=in_flight // group)
        return len(asked) / (time.perf_counter() - began)


async def client_live(url: str, asked: list[ScoreRequest], in_flight: int, group: int) -> float:
    """Prompts a second that the client gets from it."""
    flags: dict[str, Any] = {"engine": "vllm", "endpoint": (url,), "model": "tiny", "llm_batch_size": group}
    backend = await open_served(load(flags, {}), "text")
    try:
        began = time.perf_counter()
        await fan_out(asked, backend.score, workers=in_flight)
        return len(asked) / (time.perf_counter() - began)
    finally:
        await backend.aclose()


def live(url: str, count: int, *, in_flight: int = 64, group: int = 8, repeats: int = 5) -> None:
    """Both in turn, each time with prompts of which the server has none in its prefix cache."""
    loops = {"raw loop": raw_live, "fastqwen": client_live}
    found: dict[str, list[float]] = {name: [] for name in loops}
    for repeat in range(repeats + 1):
        for place, (name, loop) in enumerate(loops.items()):
            drawn = Load(0.0, in_flight).requests(count if repeat else in_flight, seed=2 * repeat + place)
            asked = list(drawn)
            rate = asyncio.run(loop(url, asked, in_flight, group))
            if repeat:  # the first one warms up
                found[name].append(rate)
    for name, rates in found.items():
        middle = statistics.median(rates)
        print(f"{name:9} {middle:6,.0f} prompts/s (median of {min(rates):,.0f} to {max(rates):,.0f})")
    share = statistics.median(found["fastqwen"]) / statistics.median(found["raw loop"])
    print(f"share     {share:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement, about")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000], help="of whole runs")
    parser.add_argument("--endpoint", help="a vLLM that serves the tiny text checkpoint, instead of all this")
    args = parser.parse_args()
    if args.endpoint is not None:
        live(args.endpoint, 1024)
        return
    columns = ("delay ms", "in flight", "tokens", "labels", "raw aiohttp, 1/s", "fastqwen, 1/s", "share")
    table = Table(*columns, "peak MiB")
    for asked in LOADS:
        table.add_row(*line(asked, args.seconds))
    console = Console(width=110)
    console.print(table)
    process, url = served(0.0)
    table = Table("rows", "s", "rows/s", "peak MiB", title="fastqwen probs, whole runs, no delay")
    for rows in args.rows:
        spent_s, peak = whole_run(url, rows)
        table.add_row(f"{rows:,}", f"{spent_s:.1f}", f"{rows / spent_s:,.0f}", f"{peak:.0f}")
    process.terminate()
    console.print(table)


def line(asked: Load, seconds: float) -> list[str]:
    """What the table says of a load; each loop takes about so long in all."""
    process, url = served(asked.delay_s)
    expected = asked.in_flight / asked.delay_s if asked.delay_s else 2000.0
    count = max(asked.in_flight * 4, int(min(expected, 1500.0) * seconds / ROUNDS))
    rounds = [
        (asyncio.run(raw(url, asked, count)), asyncio.run(client(url, asked, count))) for _ in range(ROUNDS)
    ]
    process.terminate()
    reference, found = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shape = [f"{1000 * asked.delay_s:.0f}", f"{asked.in_flight:,}", str(asked.tokens), str(asked.labels)]
    return [*shape, f"{reference:,.0f}", f"{found:,.0f}", f"{found / reference:.2f}", f"{peak:.0f}"]


def served(delay_s: float, tokenizer_file: Path = TOKENIZER_FILE) -> tuple[multiprocessing.Process, str]:
    """A server in a process of its own, and its URL; it counts tokens with that tokenizer."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=server, args=(delay_s, theirs, tokenizer_file), daemon=True)
    process.start()
    return process, f"http://127.0.0.1:{ours.recv()}"


def whole_run(url: str, rows: int) -> tuple[float, float]:
    """Seconds and peak MiB of the command line."""
    with tempfile.TemporaryDirectory(prefix="fastqwen-client-") as name:
        source, out = Path(name, "in.jsonl"), Path(name, "out.jsonl")
        write_input(source, rows)
        began = time.perf_counter()
        peak = peak_mib(
            ["probs", str(source), "-o", str(out), "--endpoint", url, "--model", "tiny", "--quiet"]
        )
        return time.perf_counter() - began, peak


if __name__ == "__main__":
    main()
