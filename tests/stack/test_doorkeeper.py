"""Who comes in at the gateway, and how often: the doorkeeper, alone and behind a real Caddy."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import random
import shutil
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT, Fastqwen, read_records, write_rows
from tests.loopback import Loopback, listening
from tests.probe_server import ProbeServer
from tests.stack.test_caddy import KEY, Front, Keeper, ask, bearer, doorkeeper, guarded
from tgi_stack.errors import UsageError
from tgi_stack.stack.files import keys
from tgi_stack.stack.planning.beside import Beside

BOB = KEY[::-1]
with_caddy = pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")


def _loaded() -> ModuleType:
    """The program that runs in a container, as a module."""
    spec = importlib.util.spec_from_file_location("doorkeeper", ROOT / "docker" / "doorkeeper.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["doorkeeper"] = made
    spec.loader.exec_module(made)
    return made


program: Any = _loaded()


def until(holds: Callable[[], bool], patience_s: float = 10.0) -> None:
    end = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


# -- keys --------------------------------------------------------------------------------------------------

PARTS = st.sampled_from(
    ["alice", "bob", KEY, BOB, " ", "  ", "\t", "#", "short", "é" * 20, '"', "x" * 257, "\r", "-_" * 10]
)


@settings(deadline=None)
@given(st.lists(st.lists(PARTS, max_size=4).map("".join), max_size=5).map("\n".join))
def test_both_readers_of_keys_agree(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "agree"
    (folder / "secrets").mkdir(parents=True, exist_ok=True)
    (folder / "secrets" / "keys").write_bytes(text.encode())
    found, bad = program.users_of((folder / "secrets" / "keys").read_text(encoding="utf-8"))
    try:
        users = keys.users(folder)
    except UsageError:
        assert bad or not found
    else:
        assert not bad
        assert {program._digest(key): user for key, user in users.items()} == found


def test_keys_follow_their_file(tmp_path: Path) -> None:
    """In place, by another file in its place, and gone; what is half written is waited for."""
    path = tmp_path / "keys"
    path.write_text(f"alice {KEY}\n")
    found = program.Keys(path)
    assert found.look(0.0)
    path.write_text("")  # as an editor begins
    assert not found.look(1.0)
    path.write_text(f"alice {KEY}\nbob {BOB}\nnonsense\n")
    assert not found.look(1.2)
    assert not found.look(1.4)
    assert set(found.users.values()) == {"alice"}
    assert found.look(1.8)
    assert set(found.users.values()) == {"alice", "bob"}
    assert found.bad == 1
    (tmp_path / "new").write_text(f"bob {BOB}\n")
    os.replace(tmp_path / "new", path)
    found.look(2.0)
    assert found.look(2.6)
    assert set(found.users.values()) == {"bob"}
    path.unlink()
    found.look(3.0)
    assert set(found.users.values()) == {"bob"}
    assert found.look(4.0)
    assert found.users == {}


# -- rates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["20/s", "600/min", "1/h", "off", "0/s", "20", "20/day", "-1/s", "", "1/s "])
def test_both_readers_of_rates_agree(text: str) -> None:
    try:
        Beside(gateway_rate=text)
        accepted = True
    except UsageError:
        accepted = False
    if text:  # Compose fills in nothing where nothing is told
        try:
            program.Rate.parsed(text)
            assert accepted
        except SystemExit:
            assert not accepted


@settings(deadline=None)
@given(st.integers(1, 50), st.sampled_from(["s", "min", "h"]), st.integers(0, 2**32))
def test_no_period_has_more_than_twice_its_share(requests: int, period: str, seed: int) -> None:
    """A full bucket and what comes back meanwhile; over long times it is the rate."""
    rate, rng = program.Rate.parsed(f"{requests}/{period}"), random.Random(seed)
    now, passed = 0.0, []
    keeper = program.Doorkeeper(program.Keys(Path("none")), rate, lambda: now)
    keeper.keys.users = program.users_of(f"alice {KEY}")[0]
    for _ in range(100):
        now += rng.choice([0.0, 0.1, 1.0]) * rate.period_s / requests
        status, user, wait_s = keeper.decide(f"Bearer {KEY}", "text", 5)
        assert user == "alice"
        if status == 200:
            passed.append(now)
        else:
            assert status == 429
            assert 1 <= wait_s <= max(1, rate.period_s / requests + 1)
    for number, start in enumerate(passed):
        assert bisect_left(passed, start + rate.period_s) - number <= 2 * requests
    assert len(passed) <= requests + now * requests / rate.period_s + 1e-6


def test_after_the_wait_a_request_passes() -> None:
    now = 0.0
    keeper = program.Doorkeeper(program.Keys(Path("none")), program.Rate.parsed("3/min"), lambda: now)
    keeper.keys.users = program.users_of(f"alice {KEY}\nbob {BOB}")[0]
    assert [keeper.decide(f"Bearer {KEY}", "text", 0)[0] for _ in range(4)] == [200, 200, 200, 429]
    assert keeper.decide(f"Bearer {BOB}", "text", 0)[0] == 200  # of one's own
    wait_s = keeper.decide(f"Bearer {KEY}", "text", 0)[2]
    assert wait_s == 20
    now += wait_s
    assert keeper.decide(f"Bearer {KEY}", "text", 0)[0] == 200


# -- behind Caddy ------------------------------------------------------------------------------------------


@pytest.fixture
def servers() -> Iterator[tuple[Loopback, Loopback]]:
    with listening(ProbeServer("tgi")) as text, listening(ProbeServer("vllm")) as vision:
        yield text, vision


def status_of(front: Front, key: str, path: str = "/info") -> int:
    return ask(front.text, "GET", path, ca_file=front.ca_file, headers=bearer(key))[0]


@with_caddy
def test_more_than_the_rate_is_429(tmp_path: Path, servers: tuple[Loopback, Loopback]) -> None:
    with guarded(tmp_path, f"alice {KEY}\nbob {BOB}\n", *servers, rate="3/h") as front:
        seen = [ask(front.text, "GET", "/info", ca_file=front.ca_file, headers=bearer()) for _ in range(4)]
        assert [status for status, _, _ in seen] == [200, 200, 200, 429]
        assert 1 <= int(seen[3][1]["retry-after"]) <= 1200
        assert b"more requests than alice may send" in seen[3][2]
        assert status_of(front, BOB) == 200


@contextmanager
def keeping(rate: str, step_s: float) -> Iterator[Keeper]:
    """A doorkeeper whose clock goes on by a step with each request, however fast this machine is."""
    times = itertools.count()
    made = program.Doorkeeper(
        program.Keys(Path("none")), program.Rate.parsed(rate), lambda: next(times) * step_s
    )
    made.keys.users = program.users_of(f"alice {KEY}")[0]
    with (
        program.Server(("127.0.0.1", 0), type("Kept", (program.Handler,), {"doorkeeper": made})) as asked,
        program.LogServer(("127.0.0.1", 0), type("Told", (program.LogHandler,), {"doorkeeper": made})) as log,
    ):
        for server in (asked, log):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Keeper(*(f"127.0.0.1:{server.server_address[1]}" for server in (asked, log)))
        asked.shutdown()
        log.shutdown()


@with_caddy
@pytest.mark.slow
def test_a_job_keeps_to_the_rate(
    fastqwen: Fastqwen, tmp_path: Path, servers: tuple[Loopback, Loopback]
) -> None:
    """It is told when to come again, and loses no row. Every fifth is too early."""
    rows = write_rows(
        tmp_path / "p.jsonl", *({"id": str(n), "prompt": f"{n}?", "labels": ["A", "B"]} for n in range(12))
    )
    with (
        keeping("2/s", 0.4) as keeper,
        guarded(tmp_path, "", *servers, keeper=keeper) as front,
    ):
        job = ("probs", rows, "-o", tmp_path / "o.jsonl", "--model", "tiny", "--endpoint", front.text)
        done = fastqwen(*job, "--ca-file", front.ca_file, FASTQWEN_API_KEY=KEY)
        assert "12 ok" in done.stderr
    assert [record["id"] for record in read_records(tmp_path / "o.jsonl")] == [str(n) for n in range(12)]
    statuses = [entry["status"] for entry in front.log if "request" in entry]
    assert 429 in statuses


@with_caddy
def test_keys_change_while_requests_pass(tmp_path: Path, servers: tuple[Loopback, Loopback]) -> None:
    """One key is asked with all the time, another comes, and goes: nothing of the first is refused."""
    with guarded(tmp_path, f"alice {KEY}\n", *servers) as front:
        seen, stop = [], threading.Event()

        def ask_on() -> None:
            while not stop.is_set():
                seen.append(status_of(front, KEY, "/health"))

        asking = threading.Thread(target=ask_on)
        asking.start()
        try:
            assert status_of(front, BOB) == 401
            with (tmp_path / "keys").open("a") as file:
                file.write(f"bob {BOB}\n")
            until(lambda: status_of(front, BOB) == 200)
            (tmp_path / "keys").write_text(f"alice {KEY}\n")
            until(lambda: status_of(front, BOB) == 401)
        finally:
            stop.set()
            asking.join()
        assert set(seen) == {200}


@with_caddy
def test_nobody_names_themselves(tmp_path: Path, servers: tuple[Loopback, Loopback]) -> None:
    """Nor do servers hear who asks."""
    heads: list[dict[str, str]] = []

    class Hearing(ProbeServer):
        async def _reply(self, writer: Any, method: str, path: str, headers: Any, body: bytes) -> None:
            heads.append(dict(headers))
            await super()._reply(writer, method, path, headers, body)

    with listening(Hearing("tgi")) as text, guarded(tmp_path, f"alice {KEY}\n", text, servers[1]) as front:
        spoofed = bearer() | {"X-Fastqwen-User": "bob"}
        _, headers, _ = ask(front.text, "GET", "/info", ca_file=front.ca_file, headers=spoofed)
        assert headers["x-fastqwen-user"] == "alice"
        refused = {"X-Fastqwen-User": "bob"}
        assert ask(front.text, "GET", "/info", ca_file=front.ca_file, headers=refused)[0] == 401
    assert heads
    assert not {name for head in heads for name in head if name.lower() == "x-fastqwen-user"}


@with_caddy
def test_metrics_name_users_and_no_key(tmp_path: Path, servers: tuple[Loopback, Loopback]) -> None:
    (tmp_path / "keys").write_text(f"alice {KEY}\nbob {BOB}\n")
    with doorkeeper(tmp_path / "keys", "2/h") as (where, _):
        for key, path, length in ((KEY, "/text/generate", "120"), (KEY, "/vision/info", ""), (KEY, "/x", "")):
            given = {
                "Authorization": f"Bearer {key}",
                "X-Forwarded-Uri": path,
                "X-Forwarded-Length": length,
            }
            ask(f"http://{where}", "GET", "/allow", headers=given)
        ask(f"http://{where}", "GET", "/allow", headers=bearer("w" * 30))
        with urlopen(f"http://{where}/metrics", timeout=5) as page:
            said = page.read().decode()
    lines = said.splitlines()
    assert 'fastqwen_gateway_requests_total{user="alice",server="text"} 1' in lines
    assert 'fastqwen_gateway_request_bytes_total{user="alice",server="text"} 120' in lines
    assert 'fastqwen_gateway_requests_total{user="alice",server="vision"} 1' in lines
    assert 'fastqwen_gateway_rejected_total{user="alice",reason="rate"} 1' in lines
    assert 'fastqwen_gateway_rejected_total{user="",reason="key"} 1' in lines
    assert 'fastqwen_gateway_requests_total{user="bob",server="text"} 0' in lines
    assert KEY not in said
    assert BOB not in said


@with_caddy
def test_bytes_are_those_of_the_request(tmp_path: Path, servers: tuple[Loopback, Loopback]) -> None:
    """As Caddy tells them to the doorkeeper, whose request has no body."""
    with guarded(tmp_path, f"alice {KEY}\n", *servers) as front:
        body = b'{"inputs": "Hello", "parameters": {"max_new_tokens": 1, "seed": 5}}'
        assert ask(front.text, "POST", "/generate", body, front.ca_file, headers=bearer())[0] == 200
        with urlopen(f"http://{front.doorkeeper}/metrics", timeout=5) as page:
            said = page.read().decode()
    assert f'request_bytes_total{{user="alice",server="text"}} {len(body)}' in said


# -- who has had how many tokens ---------------------------------------------------------------------------

ENTRY: dict[str, Any] = {
    "request": {"method": "POST", "uri": "/text/generate"},
    "status": 200,
    "resp_headers": {
        "X-Fastqwen-User": ["alice"],
        "X-Prompt-Tokens": ["812"],
        "X-Generated-Tokens": ["3"],
    },
}


@pytest.mark.parametrize(
    ("changed", "tokens"),
    [
        ({}, {"prompt": 812, "generated": 3}),
        ({"resp_headers": {"X-Fastqwen-User": ["alice"]}}, {}),
        ({"resp_headers": ENTRY["resp_headers"] | {"X-Prompt-Tokens": ["-1"]}}, {"generated": 3}),
        ({"resp_headers": ENTRY["resp_headers"] | {"X-Prompt-Tokens": []}}, None),
        ({"resp_headers": ENTRY["resp_headers"] | {"X-Fastqwen-User": ['a"b']}}, None),
        ({"resp_headers": {}}, None),
        ({"status": 429}, None),
        ({"request": {"method": "GET", "uri": "/text/info"}}, None),
    ],
)
def test_a_line_of_the_log_tells(changed: dict[str, Any], tokens: dict[str, int] | None) -> None:
    found = program.answered(json.dumps(ENTRY | changed).encode())
    assert found == (None if tokens is None else ("alice", "text", tokens))


@given(st.binary(max_size=80) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_what_is_no_line_counts_nothing(line: bytes | str) -> None:
    assert program.answered(line) is None


@with_caddy
def test_tokens_are_counted_by_user(tmp_path: Path, servers: tuple[Loopback, Loopback]) -> None:
    """Of TGI, which tells them in an answer's head; a vLLM without our middleware is seen not to tell."""
    asked = {"inputs": "Hello", "parameters": {"max_new_tokens": 1, "seed": 5}}
    with guarded(tmp_path, f"alice {KEY}\nbob {BOB}\n", *servers) as front:
        body, heads = json.dumps(asked).encode(), []
        for key in (KEY, KEY, BOB):
            status, head, _ = ask(front.text, "POST", "/generate", body, front.ca_file, headers=bearer(key))
            assert status == 200
            heads.append(head)
        other = json.dumps({"model": "tiny", "prompt": "Hello", "max_tokens": 1}).encode()
        given = bearer(KEY) | {"X-Request-Id": "1"}
        assert ask(front.vision, "POST", "/v1/completions", other, front.ca_file, headers=given)[0] == 200
        read = int(heads[0]["x-prompt-tokens"])
        counted = {
            f'tokens_total{{user="alice",server="text",kind="prompt"}} {2 * read}',
            f'tokens_total{{user="bob",server="text",kind="prompt"}} {read}',
            'tokens_total{user="alice",server="text",kind="generated"} 2',
            'tokens_total{user="alice",server="vision",kind="prompt"} 0',
            'answers_total{user="alice",server="text",tokens_told="yes"} 2',
            'answers_total{user="alice",server="vision",tokens_told="no"} 1',
        }
        until(lambda: {f"fastqwen_gateway_{line}" for line in counted} <= told(front))


def told(front: Front) -> set[str]:
    with urlopen(f"http://{front.doorkeeper}/metrics", timeout=5) as page:
        return set(page.read().decode().splitlines())
