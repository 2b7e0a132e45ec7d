"""What a fault costs: requests with the bad prompt, and whether a healthy server is left alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tests.loopback import TOKENIZER, Loopback, _play, _send, listening, serve
from tests.servers.test_servers import _use, questions, same_as_scripted, use

BAD = "Question 00017\n"
# Whatever belongs to a prompt: a status that is no server's, or a reply that is none.
OF_A_PROMPT = [
    "500", "502", "504", "405", "501", "301", "403", "reset", "silent", "truncated", "no length", "gzip",
    "large",
    "html", "empty", "null", "no label", "other id", "error",
]  # fmt: skip


@dataclass
class Spoilt(Loopback):
    """Plays `what` for the requests that hold one prompt, and counts them."""

    what: str = ""
    bad: list[int] = field(default_factory=list)

    async def _reply(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        marks = (orjson.dumps(TOKENIZER.encode(BAD)), json.dumps(BAD)[1:-1].encode())
        if method != "POST" or not any(mark in body for mark in marks):
            await super()._reply(writer, method, path, headers, body)
        elif self.what.isdecimal():
            self.bad.append(len(body))
            await _send(writer, int(self.what), b'{"error":{"message":"boom"}}')
        else:
            self.bad.append(len(body))
            more, answer = self._answer(path, json.loads(body), headers)
            await _play(self.what, writer, json.dumps(answer).encode(), more)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("dialect", "group"), [("vllm", 1), ("vllm", 8), ("sglang", 8), ("tgi", 1)])
@pytest.mark.parametrize("what", OF_A_PROMPT)
def test_a_fault_of_a_prompt_costs_little(
    fastqwen: Fastqwen, tmp_path: Path, what: str, dialect: str, group: int
) -> None:
    rows, out = questions(tmp_path, 40), tmp_path / "o.jsonl"
    with listening(Spoilt(dialect, what=what)) as server:
        done = fastqwen("probs", rows, "-o", out, *use(server, group=group), "--fallback", "fail", check=1)
    assert 1 <= len(server.bad) <= 4  # a group is asked again prompt by prompt
    assert "39 ok (0 from cache), 1 failed" in done.stderr
    assert "is gone" not in done.stderr
    assert "is set aside" not in done.stderr
    assert [record["id"] for record in read_records(out) if record["status"] == "failed"] == ["row-17"]


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "status"), [("tgi", "429"), ("tgi", "503"), ("sglang", "503")])
@pytest.mark.parametrize("pause", ["0", "-5", "0.001", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", ""])
def test_a_busy_server_is_asked_seldom(
    fastqwen: Fastqwen, tmp_path: Path, dialect: str, status: str, pause: str
) -> None:
    @dataclass
    class Busy(Loopback):
        since: float | None = None
        refused: int = 0

        async def _reply(self, writer: asyncio.StreamWriter, method: str, *rest: Any) -> None:
            if method == "POST" and self.posts >= 10:
                self.since = self.since or time.monotonic()
                if time.monotonic() < self.since + 0.6:
                    self.refused += 1
                    named = {"Retry-After": pause, "Date": "Wed, 21 Oct 2015 07:28:00 GMT"} if pause else {}
                    await _send(writer, int(status), b"{}", named)
                    return
            await super()._reply(writer, method, *rest)

    rows, out = questions(tmp_path, 60), tmp_path / "o.jsonl"
    with listening(Busy(dialect)) as server:
        fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "8")
    assert server.refused <= 8 + 12  # those in flight, and a few more
    same_as_scripted(fastqwen, out, "probs", rows)


FIELDS = {"summarize": "summary", "probs": "probabilities"}
KEEPING = [
    ("tgi", "replayed"), ("tgi", "headers"), ("vllm", "replayed"), ("vllm", "headers"),
    ("sglang", "replayed"),
    pytest.param("sglang", "replayed everywhere", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "kind"), KEEPING)
@pytest.mark.parametrize("name", ["summarize", "probs"])
def test_a_proxy_that_keeps_answers_gives_none(
    fastqwen: Fastqwen, tmp_path: Path, dialect: str, kind: str, name: str
) -> None:
    """Of whichever job: no row has another's answer, and the run does not end as if all were well."""

    @dataclass
    class Proxy(Loopback):
        kept: Any = None

        def _answer(self, path: str, asked: dict[str, Any], headers: dict[str, str]) -> Any:
            if kind == "headers":
                return {}, super()._answer(path, asked, headers | {"x-request-id": "own"})[1]
            if self.posts > 4 and self.kept is not None:
                return self.kept
            self.kept = super()._answer(path, asked, headers)
            return self.kept

        def _described(self, path: str) -> dict[str, Any] | None:
            kept = self.kept if kind == "replayed everywhere" and self.posts > 4 else None
            found: dict[str, Any] | None = super()._described(path) if kept is None else kept[1]
            return found

    rows = CATALOGUE / "images" if name == "summarize" else questions(tmp_path, 40)
    out, right, field = tmp_path / "o.jsonl", tmp_path / "right.jsonl", FIELDS[name]
    with listening(Proxy(dialect)) as server:
        done = fastqwen(name, rows, "-o", out, *_use(server), "--no-cache", check=4)
    assert "answer" in done.stderr or "x-prompt-tokens" in done.stderr
    assert "has answered for" not in done.stderr  # it is told at once, not waited for
    assert not out.exists()
    if out.with_name("o.jsonl.part").exists():
        fastqwen(name, rows, "-o", right, "--engine", "scripted")
        answers = {record["id"]: record[field] for record in read_records(right)}
        for record in read_records(out.with_name("o.jsonl.part")):
            assert record.get(field) in (answers[record["id"]], None)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_pictures_counted_otherwise_end_the_run(fastqwen: Fastqwen, tmp_path: Path, dialect: str) -> None:
    with serve(dialect) as server:
        server.tokens_more = 0

        def later(number: int, path: str) -> None:
            server.tokens_more = 3

        server.fault = later
        job = ("summarize", CATALOGUE / "images", "-o", tmp_path / "s.jsonl")
        done = fastqwen(*job, *_use(server), "--concurrency", "2", check=4)
    assert server.posts <= 6
    assert done.stderr.count("--mm-processor-kwargs") <= 2
    assert "is gone" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--endpoint", "http://no-such-host.invalid:8080"), 2, "can't be a host"),
        (("--endpoint", "http://h:99999"), 2, "no port"),
        (("--endpoint", "{tls}"), 4, "--ca-file"),
        (("--endpoint", "{plain}/nowhere"), 4, "neither TGI nor vLLM"),
        (("--endpoint", "{key}"), 4, "wants a key"),
        (("--endpoint", "{open}"), 4, "wants a key"),
    ],
)
def test_what_waiting_does_not_change_ends_at_once(
    fastqwen: Fastqwen, tmp_path: Path, arguments: tuple[str, str], status: int, said: str
) -> None:
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "A or B? ", "labels": ["A", "B"]})

    @dataclass
    class OpenInfo(Loopback):
        async def _reply(self, writer: asyncio.StreamWriter, method: str, path: str, *rest: Any) -> None:
            if method == "GET":
                self.api_key = None
            await super()._reply(writer, method, path, *rest)
            self.api_key = "secret"

    with serve("vllm") as plain, serve("vllm", api_key="secret") as key, listening(OpenInfo("tgi")) as opened:
        tls, stop = over_tls(tmp_path)
        places = {"{plain}": plain.url, "{key}": key.url, "{tls}": tls, "{open}": opened.url}
        url = arguments[1]
        for name, place in places.items():
            url = url.replace(name, place)
        began = time.monotonic()
        done = fastqwen("probs", rows, arguments[0], url, "--startup-timeout", "60", check=status)
        stop()
    assert time.monotonic() - began < 30
    assert said in done.stderr


def over_tls(folder: Path) -> tuple[str, Callable[[], None]]:
    """A TLS server with a certificate that nobody signed; its URL, and what stops it."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    code = (
        "import http.server, ssl, sys\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler)\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        "context.load_cert_chain(sys.argv[1], sys.argv[2])\n"
        "print(server.server_port, flush=True)\n"
        "server.socket = context.wrap_socket(server.socket, server_side=True)\n"
        "server.serve_forever()\n"
    )
    command = [sys.executable, "-c", code, str(folder / "cert.pem"), str(folder / "key.pem")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return f"https://127.0.0.1:{int(process.stdout.readline())}", process.kill
