"""A server on loopback that speaks each dialect and plays faults, in a thread of its own.

Its answers are the scripted backend's: a pure function of the question, so that one in the wrong row shows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from tests import loopback_sglang, tgi_document
from tgi_stack.backends.scripted import label_logprobs, number_of, summary_of
from tgi_stack.images.grid import Grid
from tgi_stack.prompting import prompts
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY

Fault = str | None

TOKENIZER = Tokenizer(TINY / "vision" / "tokenizer.json")
VOCABULARY = {TOKENIZER.decode([id]): id for id in range(TOKENIZER.size)}
GRID = Grid.from_checkpoint(TINY / "vision")
MODEL = "tiny"


@dataclass
class Loopback:
    """What a test sees and turns: `fault(n, path)` names the fault of the n-th POST, from 0."""

    dialect: str
    fault: Callable[[int, str], Fault] = lambda number, path: None
    delay_s: float = 0.0
    model: str = MODEL
    root: str | None = None  # what vLLM says that it loaded
    api_key: str | None = None
    tokens_more: int = 0
    logits: Callable[[Sequence[int]], Any] | None = None  # of a model; shape [vocabulary], float64
    max_top_n: int = 128  # of TGI; of vLLM --max-logprobs
    grammars: bool = True
    reads_ids: bool = True  # vLLM's logprob_token_ids
    half: bool = False  # logarithms in bf16, as TGI gives them
    kernels: bool = True  # without TGI's attention kernels `top_tokens` passes the grammar over
    scores_items: bool = True  # SGLang's /v1/score
    echoes: bool = True  # and that it repeats the name of a model that it is given
    weights: str = "default"  # SGLang's version of them
    started: dict[str, Any] = field(default_factory=dict)  # how SGLang says that it was, beside the ordinary
    key_header: str = "authorization"
    looked_at: list[str] = field(default_factory=list)  # pages that were asked for by GET
    spoils: Callable[[str], str] = lambda text: text  # answers of a schema
    metrics: str = ""  # in Prometheus' text format
    poison: bytes | None = None  # a request that holds it kills the server, which is started again
    url: str = ""
    port: int = 0
    posts: int = 0
    completed: int = 0  # reads of TGI that asked for the prompt's tokens
    in_flight: int = 0
    most_in_flight: int = 0
    accepted: list[str] = field(default_factory=list)
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None
    _server: asyncio.Server | None = None

    # -- turning it on and off, from the test's thread ---------------------------------------------------

    def stop(self) -> None:
        """As a killed server: nothing listens, connections are reset."""
        self._call(self._stop())

    def start(self) -> None:
        """Listens again, on the same port."""
        self._call(self._start())

    def _call(self, what: Any) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, backlog=2048, limit=2**26
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._connections:
            writer.transport.abort()

    # -- HTTP --------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = first.split(" ")
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    await self._reply(writer, method, path, headers, body)
                finally:
                    self.in_flight -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _reply(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        is_open = self.dialect == "sglang" and path in loopback_sglang.OPEN
        if self.api_key is not None and not is_open and not self._opens(headers):
            await _send(writer, 401, b"")
            return
        if method == "GET":
            self.looked_at.append(path)
            if path == "/metrics" and self.metrics:
                await _send(writer, 200, self.metrics.encode())
                return
            found = self._described(path)
            await _send(writer, 404 if found is None else 200, json.dumps(found or {}).encode())
            return
        if self.poison is not None and self.poison in body:
            await self._stop()
            asyncio.get_running_loop().call_later(0.3, lambda: asyncio.ensure_future(self._start()))
            return
        number, self.posts = self.posts, self.posts + 1
        fault = self.fault(number, path)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if fault in STATUSES:
            await _send(
                writer, STATUSES[fault], json.dumps({"error": f"played {fault}", "error_type": "x"}).encode()
            )
            return
        try:
            more, answer = self._answer(path, json.loads(body), headers)
        except RefusedError as refusal:
            await _send(writer, refusal.status, json.dumps(refusal.body).encode())
            return
        await _play(fault, writer, json.dumps(answer).encode(), more)

    def _opens(self, headers: dict[str, str]) -> bool:
        """Whether a request bears the key."""
        bearer = "Bearer " if self.key_header == "authorization" else ""
        return headers.get(self.key_header) == f"{bearer}{self.api_key}"

    # -- what a model makes of a question -----------------------------------------------------------------

    def refusal(self, status: int, body: dict[str, Any]) -> RefusedError:
        """To be raised, for a request that is not taken."""
        return RefusedError(status, body)

    def _encoded(self, text: str) -> list[int]:
        return list(TOKENIZER.encode(text))

    def _visual(self, jpeg: bytes) -> int:
        """How many tokens a picture has."""
        return GRID.tokens(*Image.open(io.BytesIO(jpeg)).size)

    def _logprobs(self, ids: Sequence[int], seen: bytes, labels: Sequence[int]) -> list[float]:
        """Of labels after a prompt with the pictures that were `seen` in it."""
        if self.logits is None:
            return list(label_logprobs(number_of(ids, seen), labels))
        found = log_softmax(self.logits(ids))
        return [float(found[label]) for label in labels]

    # -- dialects ----------------------------------------------------------------------------------------

    def _described(self, path: str) -> dict[str, Any] | None:
        if self.dialect == "sglang":
            return loopback_sglang.described(self, path)
        if path in ("/health", "/metrics"):
            return {}
        if self.dialect == "tgi" and path == "/info":
            return {
                "model_id": self.model,
                "model_sha": None,
                "max_input_tokens": 4095,
                "max_total_tokens": 4096,
                "version": "3.3.6-dev0",
                "sha": "dfb3fbe",
            }
        if self.dialect == "vllm" and path == "/v1/models":
            return {"data": [{"id": self.model, "root": self.root or self.model, "max_model_len": 4096}]}
        if self.dialect == "vllm" and path == "/version":
            return {"version": "0.33.0"}
        return None

    def _answer(
        self, path: str, asked: dict[str, Any], headers: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, Any]]:
        if self.dialect == "sglang":
            return {}, loopback_sglang.answer(self, path, asked)
        if path == "/generate":
            assert tgi_document.takes(asked)
            headers, answer = self._generate(asked["inputs"], asked["parameters"])
            assert tgi_document.answers(answer)
            return headers, answer
        name = headers["x-request-id"]
        if path == "/v1/completions":
            return {}, self._completions(asked, f"cmpl-{name}")
        return {}, self._chat(asked, f"chatcmpl-{name}")

    def _completions(self, asked: dict[str, Any], id: str) -> dict[str, Any]:
        given = asked["prompt"]
        questions = [list(TOKENIZER.encode(given))] if isinstance(given, str) else given
        labels = asked.get("logprob_token_ids", []) if self.reads_ids else []
        choices = []
        for index, ids in enumerate(questions):
            if self.logits is not None and "logprobs" in asked:
                found = self._likeliest_of_vllm(ids, labels, asked["logprobs"])
                top = {f"token_id:{id}": value for id, value in found.items()}
                choices.append({"index": index, "text": "", "logprobs": {"top_logprobs": [top]}})
                continue
            read = dict(zip(labels, label_logprobs(number_of(ids), labels), strict=True)) if labels else {}
            top = {"token_id:0": -20.0} | {f"token_id:{label}": value for label, value in read.items()}
            choices.append(
                {"index": index, "text": "A", "finish_reason": "length", "logprobs": {"top_logprobs": [top]}}
            )
        usage = {
            "prompt_tokens": sum(map(len, questions)) + self.tokens_more,
            "completion_tokens": len(questions),
        }
        return {"id": id, "model": self.model, "choices": choices, "usage": usage}

    def _likeliest_of_vllm(self, ids: Sequence[int], labels: list[int], count: int) -> dict[int, float]:
        logprobs = log_softmax(self.logits(ids)) if self.logits is not None else np.zeros(0)
        if labels:
            return {id: float(logprobs[id]) for id in (int(logprobs.argmax()), *labels)}
        if count > self.max_top_n:
            message = (
                f"Requested sample logprobs of {count}, which is greater than max allowed: {self.max_top_n}"
            )
            raise RefusedError(400, {"error": {"message": message, "type": "BadRequestError", "code": 400}})
        return {int(id): float(logprobs[id]) for id in np.argsort(-logprobs)[:count]}

    def _top_of_tgi(self, ids: Sequence[int], asked: dict[str, Any]) -> list[dict[str, Any]]:
        """Masked by the grammar, then normalised; the likeliest tokens, with all that tie with the last."""
        count = asked.get("top_n_tokens", 0)
        if count > self.max_top_n:
            message = f"`top_n_tokens` must be >= 0 and <= {self.max_top_n}. Given: {count}"
            raise RefusedError(
                422, {"error": f"Input validation error: {message}", "error_type": "validation"}
            )
        if "grammar" in asked and not self.grammars:
            raise RefusedError(422, {"error": "Input validation error: grammar is not supported"})
        assert self.logits is not None
        logits = np.array(self.logits(ids))
        if "grammar" in asked and self.kernels:
            labels = asked["grammar"]["value"].strip("()").replace("\\", "").split("|")
            kept = [
                i for text, i in VOCABULARY.items() if text and any(one.startswith(text) for one in labels)
            ]
            logits = np.where(np.isin(np.arange(len(logits)), kept), logits, -np.inf)
        logprobs = log_softmax(logits)
        if self.half:
            logprobs = bf16(logprobs)
        order = np.argsort(-logprobs, kind="stable")
        last = logprobs[order[min(count, len(order)) - 1]]
        top = [int(id) for id in order if logprobs[id] >= last and np.isfinite(logprobs[id])]
        return [
            {"id": id, "text": TOKENIZER.decode([id]), "logprob": float(logprobs[id]), "special": False}
            for id in top
        ]

    def _chat(self, asked: dict[str, Any], id: str) -> dict[str, Any]:
        if "logprob_token_ids" in asked:
            return self._chat_scores(asked, id)
        parts = asked["messages"][0]["content"]
        body = parts[-1]["text"]
        jpeg, visual = b"", None
        if len(parts) == 2:
            jpeg = base64.b64decode(parts[0]["image_url"]["url"].partition("base64,")[2])
            visual = self._visual(jpeg)
        frame = (
            prompts.user_turn(body, close_thinking=False)
            if visual is None
            else prompts.image_turn(body, image_tokens=visual, close_thinking=False)
        )
        ids = TOKENIZER.encode(frame)
        form = asked.get("response_format", {}).get("json_schema", {}).get("schema")
        text = self._summary(number_of(ids, jpeg), form)
        message = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "index": 0}
        tokens = min(len(text.split()), asked.get("max_completion_tokens", 128))
        usage = {"prompt_tokens": len(ids), "completion_tokens": tokens}
        return {"id": id, "model": self.model, "choices": [message], "usage": usage}

    def _summary(self, number: int, form: dict[str, Any] | None) -> str:
        text = summary_of(number, None if form is None else json.dumps(form))
        return text if form is None else self.spoils(text)

    def _chat_scores(self, asked: dict[str, Any], id: str) -> dict[str, Any]:
        parts, body, visual, seen = asked["messages"][-1]["content"], "", [], b""
        for part in parts:
            if part["type"] == "text":
                body += part["text"]
            else:
                jpeg = base64.b64decode(part["image_url"]["url"].partition("base64,")[2])
                visual.append(self._visual(jpeg))
                body, seen = body + prompts.IMAGE_MARK, seen + jpeg
        ids = TOKENIZER.encode(prompts.user_turn(prompts.place_images(body, visual), close_thinking=False))
        labels = asked["logprob_token_ids"]
        read = zip(labels, label_logprobs(number_of(ids, seen), labels), strict=True)
        top = [{"token": f"token_id:{label}", "logprob": value} for label, value in read]
        choice = {"index": 0, "logprobs": {"content": [{"top_logprobs": top}]}}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        return {"id": id, "model": self.model, "choices": [choice], "usage": usage}

    def _prefill(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """A prompt's own tokens, told without TGI's attention kernels; the last is what matters."""
        if self.kernels or self.logits is None:
            return []
        last = float(log_softmax(np.array(self.logits(ids[:-1])))[ids[-1]])
        told = [None, *[-1.0] * (len(ids) - 2), last]
        return [
            {"id": id, "text": TOKENIZER.decode([id]), "logprob": value}
            for id, value in zip(ids, told, strict=True)
        ]

    def _generate(self, inputs: str, asked: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
        prompt, counted, jpegs = seen_by_tgi(inputs)
        ids = TOKENIZER.encode(prompt)
        grammar = asked.get("grammar") or {}
        form = grammar["value"] if grammar.get("type") == "json" else None
        text, top = self._summary(number_of(ids, jpegs), form), []
        if self.logits is not None and asked.get("top_n_tokens"):
            top = self._top_of_tgi(ids, asked)
        elif grammar.get("type") == "regex":
            labels = asked["grammar"]["value"].strip("()").replace("\\", "").split("|")
            label_ids = [TOKENIZER.encode(label)[-1] for label in labels]
            read = zip(labels, label_ids, label_logprobs(number_of(ids), label_ids), strict=True)
            top = [{"id": i, "text": t, "logprob": p, "special": False} for t, i, p in read]
            top.sort(key=lambda token: -float(str(token["logprob"])))
        prefill = []
        if asked.get("decoder_input_details"):
            self.completed += 1
            prefill = self._prefill(ids)
        details = {
            "finish_reason": "length" if asked["max_new_tokens"] == 1 else "eos_token",
            "generated_tokens": 1 if asked["max_new_tokens"] == 1 else len(text.split()),
            "seed": asked.get("seed"),
            "prefill": prefill,
            "tokens": top[:1],
        }
        headers = {"x-prompt-tokens": str(counted + self.tokens_more)}
        headers["x-generated-tokens"] = str(details["generated_tokens"])
        text = inputs + text if asked.get("return_full_text") else text
        return headers, {"generated_text": text, "details": details | ({"top_tokens": [top]} if top else {})}


LINK = re.compile(r"!\[\]\(([^)]*)\)")


def seen_by_tgi(inputs: str) -> tuple[str, int, bytes]:
    """The prompt that a model is given, how many tokens TGI counts of it, and the pictures in it.

    A picture is counted as one token for each 196 of its pixels, between quotes.
    """
    prompt = counted = inputs
    jpegs = b""
    for link in LINK.findall(inputs):
        if not link.startswith("data:"):
            message = f"Input validation error: Could not fetch image: {link}"
            raise RefusedError(422, {"error": message, "error_type": "validation"})
        jpeg = base64.b64decode(link.partition("base64,")[2])
        width, height = Image.open(io.BytesIO(jpeg)).size
        pads = prompts.IMAGE_PAD * (width * height // 196)
        seen = prompts.place_images(prompts.IMAGE_MARK, [GRID.tokens(width, height)])
        prompt = prompt.replace(f"![]({link})", seen, 1)
        quoted = f'{prompts.VISION_START}"{pads}"{prompts.VISION_END}'
        counted = counted.replace(f"![]({link})", quoted, 1)
        jpegs += jpeg
    return prompt, len(TOKENIZER.encode(counted)), jpegs


class RefusedError(Exception):
    """What a server answers to a request that it does not take."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(body)
        self.status = status
        self.body = body


def log_softmax(logits: Any) -> Any:
    peak = logits.max()
    return logits - peak - np.log(np.exp(logits - peak).sum())


def bf16(values: Any) -> Any:
    """Rounded to the nearest value of bf16."""
    bits = np.where(np.isfinite(values), values, 0.0).astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)
    return np.where(np.isfinite(values), rounded, values).astype(np.float64)


STATUSES = {
    name: int(name) for name in ("301", "400", "401", "404", "413", "422", "424", "429", "500", "502", "503")
}


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    location = "Location: http://127.0.0.1:1/stolen\r\n" if 300 <= status < 400 else ""
    length = f"Content-Length: {len(body)}\r\n"
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{length}{location}{lines}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def _play(fault: Fault, writer: asyncio.StreamWriter, body: bytes, headers: dict[str, str]) -> None:
    """Sends an answer as a fault has it."""
    cut_short = {
        "reset": b"",
        "silent": b"",
        "truncated": b"Content-Length: %d\r\n\r\n" % len(body) + body[: len(body) // 2],
        "half a chunk": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body,
        "no length": b"Connection: close\r\n\r\n" + body,
    }
    if fault in cut_short:
        if cut_short[fault]:
            writer.write(b"HTTP/1.1 200 X\r\n" + cut_short[fault])
            await writer.drain()
        if fault == "reset":
            writer.transport.abort()
        writer.close()
    elif fault == "slow":
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % len(body))
            for byte in body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.1)
    elif fault == "no headers":
        await _send(writer, 200, body)
    elif fault == "gzip":
        await _send(writer, 200, gzip.compress(bytes(50_000_000)), headers | {"Content-Encoding": "gzip"})
    elif fault in ("twice", "late"):
        await _send(writer, 200, body, headers)
        await asyncio.sleep(0.03 if fault == "late" else 0)
        await _send(writer, 200, body, headers)
    else:
        replace = REPLACED.get(str(fault))
        await _send(writer, 200, replace(body) if replace else body, headers)


def _without_logprobs(body: bytes) -> bytes:
    body = body.replace(b"token_id:3", b"token_id:9").replace(b'"top_tokens"', b'"other"')
    return body.replace(b'"token_logprobs"', b'"other"')


def _other(body: bytes, name: bytes) -> bytes:
    """As it were to another request, or of another model."""
    body = body.replace(b'"seed": ', b'"seed": 1').replace(b"cmpl-", b"cmpl-" + name)
    return body.replace(b"tiny#", b"tiny#" + name).replace(b'"id": "', b'"id": "' + name)


def _first_number(body: bytes, value: bytes) -> bytes:
    """With something else in the place of a logarithm: under a name, or first in a list."""
    body = body.replace(b": -", b": " + value + b', "x": -')
    return re.sub(rb"\[\[-[0-9.e-]+", b"[[" + value, body)


REPLACED: dict[str, Callable[[bytes], bytes]] = {
    "large": lambda body: b" " * 9_000_000 + body,
    "empty": lambda body: b"",
    "html": lambda body: b"<html>Bad gateway</html>",
    "list": lambda body: b"[1]",
    "error": lambda body: b'{"error":{"message":"engine","code":500}}',
    "other id": lambda body: _other(body, b"f"),
    "other model": lambda body: body.replace(b'"model": "tiny', b'"model": "huge').replace(
        b'"seed": ', b'"seed": 1'
    ),
    "no label": _without_logprobs,
    "null": lambda body: _first_number(body, b"null"),
    "nan": lambda body: _first_number(body, b"NaN"),
}


Server = TypeVar("Server", bound=Loopback)


def serve(dialect: str, **options: Any) -> AbstractContextManager[Loopback]:
    """A server that listens until the block ends."""
    return listening(Loopback(dialect, **options))


@contextmanager
def listening(made: Server) -> Iterator[Server]:
    """Has a server listen until the block ends."""
    made._loop = asyncio.new_event_loop()
    thread = threading.Thread(target=made._loop.run_forever, daemon=True)
    thread.start()
    made.start()
    try:
        yield made
    finally:
        made.stop()
        made._loop.call_soon_threadsafe(made._loop.stop)
        thread.join(10)
