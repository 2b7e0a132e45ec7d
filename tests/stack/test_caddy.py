"""The front and the gateway: the real Caddy with the repository's files, in front of loopback servers."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import CATALOGUE, ROOT, Fastqwen, read_records, write_rows
from tests.loopback import Loopback, listening
from tests.probe_server import ProbeServer

pytestmark = pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")

KEY = "0123456789abcdef0123-alice"
ALLOWED = [("GET", path) for path in ("/health", "/info", "/version", "/v1/models", "/metrics")]
ALLOWED += [("POST", path) for path in ("/generate", "/v1/completions", "/v1/chat/completions")]
REFUSED = [
    ("POST", "/"), ("GET", "/"), ("POST", "/tokenize"), ("POST", "/chat_tokenize"), ("POST", "/score"),
    ("POST", "/pause"), ("POST", "/update_weights"), ("POST", "/generate_stream"), ("POST", "/invocations"),
    ("GET", "/generate"), ("POST", "/health"), ("DELETE", "/v1/models"), ("PUT", "/generate"),
    ("GET", "/docs"),
    ("POST", "/generate/../chat_tokenize"), ("POST", "/generate/"), ("POST", "/v1/completions/render"),
    ("POST", "/%67enerate_stream"), ("OPTIONS", "/generate"),
]  # fmt: skip


@dataclass
class Front:
    """A Caddy that listens; `log` is what it has printed."""

    text: str
    vision: str
    ca_file: Path
    printed: Path
    doorkeeper: str = ""

    @property
    def log(self) -> list[dict[str, Any]]:
        lines = self.printed.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def caddy(folder: Path, file: str, **variables: str) -> Iterator[Path]:
    """Runs Caddy until the block ends; what it prints goes to a file."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")}
    printed = folder / "printed"
    command = ["caddy", "run", "--config", str(ROOT / "docker" / "caddy" / file), "--adapter", "caddyfile"]
    with printed.open("w") as out:
        process = subprocess.Popen(command, env=environment | variables, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 20
        while "serving initial configuration" not in printed.read_text():
            assert process.poll() is None, printed.read_text()
            assert time.monotonic() < until, printed.read_text()
            time.sleep(0.02)
        yield printed
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Loopback, Loopback]]:
    with listening(ProbeServer("tgi")) as text, listening(ProbeServer("vllm")) as vision:
        yield text, vision


def upstreams(text: Loopback, vision: Loopback) -> dict[str, str]:
    return {"TEXT_UPSTREAM": f"localhost {text.port}", "VISION_UPSTREAM": f"localhost {vision.port}"}


@pytest.fixture(scope="module")
def front(servers: tuple[Loopback, Loopback], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    text, vision = str(free_port()), str(free_port())
    listen = {"TEXT_LISTEN": text, "VISION_LISTEN": vision}
    folder = tmp_path_factory.mktemp("front")
    with caddy(folder, "Caddyfile", **listen, **upstreams(*servers)) as printed:
        yield Front(f"http://127.0.0.1:{text}", f"http://127.0.0.1:{vision}", folder, printed)


class Keeper(NamedTuple):
    """Where a doorkeeper is asked, and where it takes the log: `HOST:PORT`."""

    asked: str
    log: str

    @property
    def variables(self) -> dict[str, str]:
        """What the gateway takes them from."""
        return {"DOORKEEPER": self.asked, "DOORKEEPER_LOG": self.log}


@contextmanager
def doorkeeper(keys: Path, rate: str = "off") -> Iterator[Keeper]:
    """One that knows these keys."""
    environ = {"GATEWAY_KEYS": str(keys), "GATEWAY_RATE": rate, "LISTEN": "127.0.0.1"}
    environ |= {"PORT": "0", "LOG_PORT": "0"}
    command = [sys.executable, "-I", str(ROOT / "docker" / "doorkeeper.py")]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = ""
            for line in process.stdout or ():
                said += line
                if line.startswith("listens on"):
                    break
            assert "listens on" in said, said
            yield Keeper(*(f"127.0.0.1:{line.split()[-1]}" for line in said.splitlines()[-1:-3:-1]))
        finally:
            process.kill()


@contextmanager
def guarded(
    folder: Path, keys: str, text: Loopback, vision: Loopback, rate: str = "off", keeper: Keeper | None = None
) -> Iterator[Front]:
    """The gateway with these lines of keys, once it has its certificate; `keeper` is another doorkeeper."""
    file = folder / "keys"
    file.write_text(keys)
    port = free_port()
    listen = {"GATEWAY_LISTEN": str(port), "GATEWAY_NAME": "localhost"}
    with (
        nullcontext(keeper) if keeper else doorkeeper(file, rate) as asked,
        caddy(folder, "gateway.Caddyfile", **asked.variables, **listen, **upstreams(text, vision)) as printed,
    ):
        root = folder / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        wait_for_certificate(port, root, printed)
        urls = (f"https://localhost:{port}/text", f"https://localhost:{port}/vision")
        yield Front(*urls, root, printed, asked.asked)


def wait_for_certificate(port: int, root: Path, printed: Path) -> None:
    """Caddy says that it serves before it has a certificate; until then it breaks each handshake off."""
    until = time.monotonic() + 20
    while True:
        try:
            context = ssl.create_default_context(cafile=root)
            with socket.create_connection(("localhost", port), timeout=20) as connection:
                context.wrap_socket(connection, server_hostname="localhost").close()
            return
        except (FileNotFoundError, ssl.SSLError):
            assert time.monotonic() < until, printed.read_text()
            time.sleep(0.02)


@pytest.fixture(scope="module")
def gateway(servers: tuple[Loopback, Loopback], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    keys = f"alice {KEY}\nbob {KEY[::-1]}\n"
    with guarded(tmp_path_factory.mktemp("gateway"), keys, *servers) as front:
        yield front


def ask(
    url: str, method: str, path: str, body: bytes = b"", ca_file: Path | None = None, headers: Any = ()
) -> tuple[int, dict[str, str], bytes]:
    """One request, its path sent as it is written."""
    scheme, _, rest = url.partition("://")
    host, _, prefix = rest.partition("/")
    made: http.client.HTTPConnection
    if scheme == "https":
        made = http.client.HTTPSConnection(
            host, context=ssl.create_default_context(cafile=ca_file), timeout=20
        )
    else:
        made = http.client.HTTPConnection(host, timeout=20)
    made.request(method, (f"/{prefix}" if prefix else "") + path, body, dict(headers))
    try:
        reply = made.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        made.close()


def bearer(key: str = KEY) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# -- routes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ALLOWED)
def test_routes_of_the_servers_that_are_open(front: Front, gateway: Front, method: str, path: str) -> None:
    for status, _, _ in (
        ask(front.text, method, path),
        ask(gateway.text, method, path, ca_file=gateway.ca_file, headers=bearer()),
    ):
        # Whatever the server itself makes of an empty request, Caddy let it through.
        assert status not in (401, 403)


@pytest.mark.parametrize(("method", "path"), REFUSED)
def test_every_other_route_is_refused(front: Front, gateway: Front, method: str, path: str) -> None:
    for url in (front.text, front.vision):
        assert ask(url, method, path)[0] == 403
    for url in (gateway.text, gateway.vision):
        status = ask(url, method, path, ca_file=gateway.ca_file, headers=bearer())[0]
        assert status in (403, 404), url


def test_each_port_has_its_server(front: Front) -> None:
    assert json.loads(ask(front.text, "GET", "/info")[2])["model_id"] == "tiny"
    assert json.loads(ask(front.vision, "GET", "/version")[2]) == {"version": "0.33.0"}


# -- keys and limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("other"),
        bearer(KEY.upper()),
        bearer(KEY + "x"),
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
    ],
)
def test_without_a_key_nothing_is_answered(gateway: Front, headers: dict[str, str]) -> None:
    for path in ("/health", "/tokenize", "/info"):
        assert ask(gateway.text, "GET", path, ca_file=gateway.ca_file, headers=headers)[0] == 401


def test_each_user_has_a_key_and_name(gateway: Front) -> None:
    for key, user in ((KEY, "alice"), (KEY[::-1], "bob")):
        status, headers, _ = ask(gateway.text, "GET", "/info", ca_file=gateway.ca_file, headers=bearer(key))
        assert status == 200
        assert headers["x-fastqwen-user"] == user
    seen = [entry for entry in gateway.log if entry.get("request", {}).get("uri") == "/text/info"]
    users = [entry["resp_headers"]["X-Fastqwen-User"][0] for entry in seen if entry["status"] == 200]
    assert {"alice", "bob"} <= set(users)


def test_the_log_has_no_key_and_no_body(gateway: Front) -> None:
    body = json.dumps({"inputs": "a secret prompt", "parameters": {"max_new_tokens": 1}}).encode()
    ask(gateway.text, "POST", "/generate", body, gateway.ca_file, headers=bearer())
    printed = gateway.printed.read_text()
    assert "/text/generate" in printed
    assert KEY not in printed
    assert "a secret prompt" not in printed


@pytest.mark.parametrize(
    ("size", "status"), [(15_999_999, 200), (16_000_000, 413), (20_000_000, 413), (10**9, 413)]
)
def test_a_body_over_the_limit_is_refused(front: Front, size: int, status: int) -> None:
    host, port = front.vision.removeprefix("http://").split(":")
    body = json.dumps({"model": "tiny", "prompt": "Hello", "max_tokens": 1}).encode()
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: 1\r\nContent-Length: {size}\r\n\r\n"
        )
        wire.sendall(head.encode())
        if status == 200:
            wire.sendall(body + b" " * (size - len(body)))
        assert wire.recv(64).startswith(f"HTTP/1.1 {status}".encode())


def test_a_chunked_body_is_cut_at_the_limit(front: Front) -> None:
    host, port = front.text.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        wire.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        said = b""
        with suppress(ConnectionError):  # it answers before all is sent, and hangs up
            for _ in range(17):
                wire.sendall(b"%x\r\n" % 1_000_000 + b"x" * 1_000_000 + b"\r\n")
        with suppress(ConnectionError):
            said = wire.recv(64)
        assert said[:12] in (b"", b"HTTP/1.1 413", b"HTTP/1.1 502")  # 502 by Caddy 2.6


def test_the_gateway_has_the_limit_too(gateway: Front) -> None:
    large = {"Content-Length": "20000000"} | bearer()
    assert ask(gateway.vision, "POST", "/v1/completions", b"", gateway.ca_file, headers=large)[0] == 413


def test_a_foreign_gateway_is_not_trusted(gateway: Front) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(gateway.text, "GET", "/health", ca_file=None, headers=bearer())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_certificate_of_ones_own_is_taken(tmp_path: Path, servers: tuple[Loopback, Loopback]) -> None:
    cert, key, keys = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "keys"
    keys.write_text(f"alice {KEY}\n")
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    request += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "1"]
    subprocess.run([*request, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    listen = {"GATEWAY_LISTEN": str(free_port()), "GATEWAY_TLS": f"{cert} {key}"}
    with (
        doorkeeper(keys) as asked,
        caddy(tmp_path, "gateway.Caddyfile", **asked.variables, **listen, **upstreams(*servers)),
    ):
        url = f"https://localhost:{listen['GATEWAY_LISTEN']}/text"
        assert ask(url, "GET", "/info", ca_file=cert, headers=bearer())[0] == 200


# -- what passes -------------------------------------------------------------------------------------------


def test_headers_pass_in_both_directions(gateway: Front, servers: tuple[Loopback, Loopback]) -> None:
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 1, "seed": 5}}
    status, headers, _ = ask(
        gateway.text, "POST", "/generate", json.dumps(body).encode(), gateway.ca_file, headers=bearer()
    )
    assert status == 200
    assert int(headers["x-prompt-tokens"]) > 0
    asked = {"model": "tiny", "prompt": "Hello", "max_tokens": 1}
    given = bearer() | {"X-Request-Id": "abc"}
    reply = ask(
        gateway.vision, "POST", "/v1/completions", json.dumps(asked).encode(), gateway.ca_file, headers=given
    )
    assert json.loads(reply[2])["id"] == "cmpl-abc"


def test_servers_never_see_a_users_key(tmp_path: Path) -> None:
    """A server with a key of its own would refuse the user's; here it would take it, and gets none."""
    with (
        listening(ProbeServer("tgi", api_key=KEY)) as strict,
        listening(ProbeServer("vllm")) as vision,
        guarded(tmp_path, f"alice {KEY}\n", strict, vision) as front,
    ):
        assert ask(front.text, "GET", "/info", ca_file=front.ca_file, headers=bearer())[0] == 401


@pytest.mark.slow
def test_a_server_gone_is_502_until_back(front: Front, servers: tuple[Loopback, Loopback]) -> None:
    text, _ = servers
    text.stop()
    try:
        assert ask(front.text, "GET", "/info")[0] == 502
    finally:
        text.start()
    assert ask(front.text, "GET", "/info")[0] == 200


@pytest.mark.slow
def test_a_run_waits_for_a_gateways_server(
    fastqwen: Fastqwen, tmp_path: Path, front: Front, servers: tuple[Loopback, Loopback]
) -> None:
    """While it loads the front says 502, not refused."""
    text, _ = servers
    text.stop()
    said = len(front.printed.read_text())

    def come() -> None:
        while "refused" not in front.printed.read_text()[said:]:  # until somebody was told that it is away
            time.sleep(0.05)
        text.start()

    threading.Thread(target=come, daemon=True).start()
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "x", "labels": ["A", "B"]})
    job = ("probs", rows, "-o", tmp_path / "o.jsonl", "--model", "tiny", "--endpoint", front.text)
    done = fastqwen(*job, "--startup-timeout", "20")
    assert "waiting up to 20 s" in done.stderr
    assert "1 ok" in done.stderr


# -- jobs --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_summarize_and_rerank_run_through_the_gateway(
    fastqwen: Fastqwen, tmp_path: Path, gateway: Front
) -> None:
    shared = ("--model", "tiny", "--ca-file", gateway.ca_file)
    secret = {"FASTQWEN_API_KEY": KEY}
    summaries, ranked = tmp_path / "s.jsonl", tmp_path / "r.jsonl"
    fastqwen(
        "summarize", CATALOGUE / "images", "-o", summaries, "--endpoint", gateway.vision, *shared, **secret
    )
    job = ("rerank", CATALOGUE / "sessions.jsonl", "--items", CATALOGUE / "items.jsonl", "-o", ranked)
    fastqwen(*job, "--endpoint", gateway.text, *shared, **secret)
    assert {record["engine"] for record in read_records(summaries)} == {"vllm"}
    assert {record["engine"] for record in read_records(ranked)} == {"tgi"}
    for out, again in ((summaries, ("summarize", CATALOGUE / "images")), (ranked, job[:4])):
        reference = out.with_name(f"scripted-{out.name}")
        fastqwen(*again, "-o", reference, "--engine", "scripted")
        key = "summary" if out == summaries else "ranking"
        assert [ids(r, key) for r in read_records(out)] == [ids(r, key) for r in read_records(reference)]


def ids(record: dict[str, Any], key: str) -> Any:
    return record[key] if key == "summary" else [entry["id"] for entry in record[key]]


def test_a_refused_key_ends_the_run(fastqwen: Fastqwen, tmp_path: Path, gateway: Front) -> None:
    job = ("rerank", CATALOGUE / "sessions.jsonl", "--items", CATALOGUE / "items.jsonl")
    done = fastqwen(
        *job, "--endpoint", gateway.text, "--ca-file", gateway.ca_file, check=4, FASTQWEN_API_KEY="wrong-key"
    )
    assert "wrong-key" not in done.stderr
