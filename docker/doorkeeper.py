"""Whom the gateway lets in, and how often: asked by Caddy before each request, told of it after each answer.

Caddy's `forward_auth` sends a request's headers to `/allow`; the answer is 200 with the user's name, 401, or
429 with Retry-After. The file of keys is read again whenever it changes. On a port of its own come the lines
of Caddy's access log: of an answer they have the head, and in it the tokens that servers tell there.
`/metrics` is for Prometheus, and names users, never keys.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import NamedTuple

LOOK_EVERY_S = 0.25
SETTLED_S = 0.5  # an editor that writes in place empties a file first
IDLE_S = 120.0  # longer than Caddy keeps a connection
PERIODS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}
_RATE = re.compile(r"([1-9]\d{0,6})/(s|min|h)")
_USER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[A-Za-z0-9_-]{20,256}")
SERVERS = ("text", "vision")
# What TGI tells of an answer in its head, and vLLM by `token_headers.py`.
TOKENS = {"prompt": "X-Prompt-Tokens", "generated": "X-Generated-Tokens"}
_COUNT = re.compile(r"\d{1,12}")
LONGEST_LINE = 2**16
COUNTERS = ("requests_total", "request_bytes_total", "rejected_total", "answers_total", "tokens_total")


@dataclass(frozen=True)
class Rate:
    """So many requests in a period: all of them at once, then as they come back over the period."""

    requests: int
    period_s: float

    @classmethod
    def parsed(cls, text: str) -> Rate | None:
        """Of `600/min`; None for `off`."""
        if text in ("", "off"):
            return None
        found = _RATE.fullmatch(text)
        if found is None:
            raise SystemExit(f"GATEWAY_RATE={text}: give N/s, N/min, N/h or off")
        return cls(int(found[1]), PERIODS_S[found[2]])


@dataclass
class Bucket:
    """What a user may still ask."""

    left: float
    at: float

    def take(self, rate: Rate, now: float) -> float:
        """0 where a request may pass, which is then counted; else in how many seconds one may."""
        each_s = rate.period_s / rate.requests
        self.left = min(rate.requests, self.left + (now - self.at) / each_s)
        self.at = now
        if self.left >= 1.0:
            self.left -= 1.0
            return 0.0
        return (1.0 - self.left) * each_s


def users_of(text: str) -> tuple[dict[bytes, str], list[int]]:
    """Users by the digests of their keys, and the lines that are none; as `make gateway` reads them."""
    users: dict[bytes, str] = {}
    bad = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, key = line.partition(" ")
        known = _USER.fullmatch(user) and _KEY.fullmatch(key.strip())
        if not known or _digest(key.strip()) in users:
            bad.append(number)
        else:
            users[_digest(key.strip())] = user
    return users, bad


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@dataclass
class Keys:
    """The file of keys: what it says, from soon after it was written."""

    path: Path
    users: dict[bytes, str] = field(default_factory=dict)
    bad: int = 0
    _read: tuple[int, ...] | None = None
    _seen: tuple[int, ...] | None = None
    _since: float = 0.0

    def look(self, now: float) -> bool:
        """Reads the file where it is another one and has been so for a moment; whether it did."""
        found = self._signature()
        if found == self._read:
            self._seen = found
            return False
        if found != self._seen:
            self._seen, self._since = found, now
        if self._read is not None and now - self._since < SETTLED_S:
            return False
        self._take(found)
        return True

    def _signature(self) -> tuple[int, ...]:
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _take(self, signature: tuple[int, ...]) -> None:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            text = ""
            print(f"the keys can't be read: {error.strerror}; nobody is let in", flush=True)
        self.users, bad = users_of(text)
        self.bad, self._read = len(bad), signature
        print(f"keys for {len(set(self.users.values()))} users", flush=True)
        if bad:
            lines = ", ".join(map(str, bad))
            print(f"keys, line {lines}: no user with a key of their own; make gateway says more", flush=True)


class Answered(NamedTuple):
    """A request that was answered with 200: whose, by which server, and its tokens where they were told."""

    user: str
    server: str
    tokens: dict[str, int]


def answered(line: bytes) -> Answered | None:
    """What a line of Caddy's access log tells; None where it is of no answer to a user's question."""
    try:
        entry = json.loads(line)
        request, heads = entry["request"], entry["resp_headers"]
        user = heads.get("X-Fastqwen-User", [""])[0]
        if entry["status"] != 200 or request["method"] != "POST" or not _USER.fullmatch(user):
            return None
        told = {kind: str(heads[name][0]) for kind, name in TOKENS.items() if name in heads}
        server = _server_of(request["uri"])
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
    return Answered(user, server, {kind: int(n) for kind, n in told.items() if _COUNT.fullmatch(n)})


def _server_of(path: str) -> str:
    """The server that a path at the gateway leads to."""
    first = "".join(path.split("?")[0].split("/")[1:2])
    return first if first in SERVERS else "none"


@dataclass
class Doorkeeper:
    """Decides, and counts."""

    keys: Keys
    rate: Rate | None
    now: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _buckets: dict[str, Bucket] = field(default_factory=dict)
    _counts: dict[tuple[str, str], float] = field(default_factory=dict)

    def decide(self, authorization: str, server: str, size: int) -> tuple[int, str, int]:
        """The status, the user's name where there is one, and in how many seconds to come again."""
        scheme, _, key = authorization.partition(" ")
        user = self.keys.users.get(_digest(key)) if scheme == "Bearer" else None
        with self._lock:
            if user is None:
                self._add("rejected_total", 'user="",reason="key"', 1)
                return 401, "", 0
            if self.rate is not None:
                now = self.now()
                bucket = self._buckets.setdefault(user, Bucket(self.rate.requests, now))
                wait_s = bucket.take(self.rate, now)
                if wait_s:
                    self._add("rejected_total", f'user="{user}",reason="rate"', 1)
                    return 429, user, math.ceil(wait_s)
            of = f'user="{user}",server="{server}"'
            self._add("requests_total", of, 1)
            self._add("request_bytes_total", of, size)
            return 200, user, 0

    def count(self, answer: Answered) -> None:
        """Adds an answer, and its tokens."""
        of = f'user="{answer.user}",server="{answer.server}"'
        counted = "yes" if set(answer.tokens) == set(TOKENS) else "no"
        with self._lock:
            self._add("answers_total", f'{of},tokens_told="{counted}"', 1)
            for kind, tokens in answer.tokens.items():
                self._add("tokens_total", f'{of},kind="{kind}"', tokens)

    def _add(self, name: str, labels: str, value: float) -> None:
        self._counts[name, labels] = self._counts.get((name, labels), 0) + value

    def metrics(self) -> str:
        """In Prometheus' format; of each user a 0 where nothing was asked yet."""
        counts: dict[tuple[str, str], float] = {("rejected_total", 'user="",reason="key"'): 0}
        for user in sorted(set(self.keys.users.values())):
            counts["rejected_total", f'user="{user}",reason="rate"'] = 0
            for server in SERVERS:
                of = f'user="{user}",server="{server}"'
                counts |= {("requests_total", of): 0, ("request_bytes_total", of): 0}
                counts |= {("answers_total", f'{of},tokens_told="{told}"'): 0 for told in ("yes", "no")}
                counts |= {("tokens_total", f'{of},kind="{kind}"'): 0 for kind in TOKENS}
        with self._lock:
            counts |= self._counts
        lines = []
        for name in COUNTERS:
            lines.append(f"# TYPE fastqwen_gateway_{name} counter")
            found = ((labels, value) for (of, labels), value in counts.items() if of == name)
            lines += [f"fastqwen_gateway_{name}{{{labels}}} {value:.0f}" for labels, value in found]
        for name, value in (
            ("users", len(set(self.keys.users.values()))),
            ("bad_lines", self.keys.bad),
            ("rate_per_second", self.rate.requests / self.rate.period_s if self.rate else 0),
        ):
            lines += [f"# TYPE fastqwen_gateway_{name} gauge", f"fastqwen_gateway_{name} {value:g}"]
        return "\n".join(lines) + "\n"


class Server(ThreadingHTTPServer):
    """A thread for each connection; Caddy keeps as many as it needs."""

    request_queue_size = 256


class LogServer(ThreadingTCPServer):
    """Where Caddy writes its access log."""

    allow_reuse_address = True
    daemon_threads = True


class LogHandler(StreamRequestHandler):
    """Reads lines for as long as Caddy sends some."""

    doorkeeper: Doorkeeper

    def handle(self) -> None:
        """Counts what they tell; one that is too long is no line of Caddy's, and ends the connection."""
        while (line := self.rfile.readline(LONGEST_LINE)).endswith(b"\n"):
            answer = answered(line)
            if answer is not None:
                self.doorkeeper.count(answer)


class Handler(BaseHTTPRequestHandler):
    """Answers Caddy and Prometheus."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "doorkeeper", ""
    timeout = IDLE_S
    wbufsize = -1  # head and body in one packet: two would wait for each other
    doorkeeper: Doorkeeper

    def do_GET(self) -> None:
        """`/allow` and `/metrics`."""
        if self.path == "/metrics":
            self._answer(200, self.doorkeeper.metrics(), {"Content-Type": "text/plain; version=0.0.4"})
        elif self.path == "/allow":
            self._allow()
        else:
            self._answer(404, "give /allow or /metrics\n")

    def _allow(self) -> None:
        server = _server_of(self.headers.get("X-Forwarded-Uri", ""))
        length = self.headers.get("X-Forwarded-Length", "")
        size = int(length) if length.isascii() and length.isdigit() else 0
        authorization = self.headers.get("Authorization", "")
        status, user, wait_s = self.doorkeeper.decide(authorization, server, size)
        named = {"X-Fastqwen-User": user} if user else {}
        if status == 200:
            self._answer(200, "", named)
        elif status == 401:
            self._answer(401, "this gateway wants a key: Authorization: Bearer KEY\n")
        else:
            said = f"more requests than {user} may send; again in {wait_s} s\n"
            self._answer(429, said, named | {"Retry-After": str(wait_s)})

    def _answer(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
        content = body.encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "text/plain"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: Caddy's log has each request, and here would stand headers."""


def main() -> None:
    """Serves until it is told to stop."""
    keys = Keys(Path(os.environ.get("GATEWAY_KEYS", "/keys/keys")))
    doorkeeper = Doorkeeper(keys, Rate.parsed(os.environ.get("GATEWAY_RATE", "off")))
    keys.look(time.monotonic())

    def look() -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            keys.look(time.monotonic())

    threading.Thread(target=look, daemon=True).start()
    Handler.doorkeeper = LogHandler.doorkeeper = doorkeeper
    host = os.environ.get("LISTEN", "0.0.0.0")  # noqa: S104
    ports = [int(os.environ.get(name, default)) for name, default in (("PORT", "9180"), ("LOG_PORT", "9181"))]
    with Server((host, ports[0]), Handler) as server, LogServer((host, ports[1]), LogHandler) as log:
        threading.Thread(target=log.serve_forever, daemon=True).start()
        print(f"takes the log on {log.server_address[1]}", flush=True)
        print(f"listens on {server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
