"""The tier of `make up TIER=1`: who may use it, and that jobs of this host find it; on a real server."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml  # comes with huggingface-hub
from redis.exceptions import NoPermissionError

from tests.conftest import ROOT, Fastqwen, read_records, write_rows
from tests.stack.test_caddy import free_port
from tgi_stack.errors import ServerError, UsageError
from tgi_stack.stack.files import keys, tier
from tgi_stack.stack.planning.beside import Beside
from tgi_stack.stack.planning.ports import taken
from tgi_stack.stack.running import parts
from tgi_stack.stack.running.containers import State

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
KEY = "0123456789abcdef0123"
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed")


def started(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A server with the arguments of the compose file."""
    service = yaml.safe_load((ROOT / "docker" / "compose.yml").read_text())["services"]["tier"]
    said = service["command"].replace("${TIER_MEMORY:-1g}", "64m").replace("--port 6379", f"--port {port}")
    said = said.replace("/run/tier/users.acl", str(folder / tier.USERS)).replace("/data", str(folder))
    process = subprocess.Popen([str(PROGRAM), *said.split()], stdout=subprocess.DEVNULL)
    while not taken(port):
        assert process.poll() is None
        time.sleep(0.02)
    return process


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, int]]:
    """`./docker` as `make up TIER=1` leaves it, with the tier up at a port."""
    folder, port = tmp_path / "docker", free_port()
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "keys").write_text(f"alice {KEY}\n")
    (folder / "stack.json").write_text(
        json.dumps({"version": 1, "servers": [], "extras": ["tier"], "tier_port": port})
    )
    tier.prepare(folder, keys.users(folder))
    process = started(folder, port)
    monkeypatch.chdir(tmp_path)
    try:
        yield folder, port
    finally:
        process.kill()
        process.wait()


def client(port: int, user: str | None = None, password: str | None = None) -> redis.Redis:
    return redis.Redis(port=port, username=user, password=password, protocol=2)


def test_only_its_users_come_in(stack: tuple[Path, int]) -> None:
    folder, port = stack
    with pytest.raises(redis.AuthenticationError):
        client(port).ping()
    with pytest.raises(redis.AuthenticationError):
        client(port, "alice", "w" * 20).ping()
    alice = client(port, "alice", KEY)
    assert alice.set("fq1:x", b"1")
    assert alice.get("fq1:x") == b"1"
    for refused in (
        lambda: alice.set("other", b"1"),
        lambda: alice.flushall(),
        lambda: alice.config_set("maxmemory", "1"),
        lambda: alice.acl_list(),
        lambda: alice.keys("*"),
        lambda: alice.eval("return 1", 0),
    ):
        with pytest.raises(NoPermissionError):
            refused()
    observer = client(port, tier.OBSERVER, "observer")
    assert observer.info()["maxmemory_policy"] == "allkeys-lru"
    with pytest.raises(NoPermissionError):
        observer.get("fq1:x")
    text = (folder / tier.USERS).read_text()
    assert KEY not in text
    assert tier.found((folder / "stack.json",)).user()[1] not in text  # type: ignore[union-attr]


def test_who_may_use_it_is_written_again_alike(stack: tuple[Path, int]) -> None:
    """The password of this host's jobs stays; a user with two keys has both."""
    folder, _ = stack
    before = (folder / tier.USER_FILE).read_text(), tier.digest_of_users(folder)
    tier.prepare(folder, keys.users(folder))
    assert ((folder / tier.USER_FILE).read_text(), tier.digest_of_users(folder)) == before
    tier.prepare(folder, {KEY: "alice", KEY[::-1]: "alice"})
    (line,) = [one for one in (folder / tier.USERS).read_text().splitlines() if one.startswith("user alice")]
    assert line.count("#") == 2
    assert tier.digest_of_users(folder) != before[1]
    keys.prepare(folder)
    assert stat.S_IMODE((folder / tier.USERS).stat().st_mode) == 0o644
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700


def test_jobs_of_this_host_find_it(fastqwen: Fastqwen, stack: tuple[Path, int], tmp_path: Path) -> None:
    """A second machine's cache is empty, and its rows come out of the tier; `off` leaves it alone."""
    _, port = stack
    rows = write_rows(
        tmp_path / "p.jsonl", *({"id": str(n), "prompt": f"{n}?", "labels": ["A", "B"]} for n in range(20))
    )
    seen = {}
    for machine, more in (("a", ()), ("b", ()), ("c", ("--cache-tier", "off"))):
        out = tmp_path / f"{machine}.jsonl"
        given = ("--engine", "scripted", "--cache-dir", tmp_path / machine, *more)
        done = fastqwen("probs", rows, "-o", out, *given, FASTQWEN_NO_CACHE="0")
        seen[machine] = {record["from_cache"] for record in read_records(out)}
        assert "host:jobs" not in done.stderr + Path(f"{out}.run.json").read_text()
    assert seen == {"a": {False}, "b": {True}, "c": {False}}
    told = fastqwen("doctor", check=None).stderr
    assert f"ok: cache tier redis://127.0.0.1:{port}/0 memory (at most 67,108,864 bytes, allkeys-lru)" in told
    assert "writes (a key was written and removed)" in told
    found = json.loads(fastqwen("cache", "info", "--cache-dir", tmp_path / "b", "--json").stdout)
    assert found["tier"]["tier"] == f"redis://127.0.0.1:{port}/0"


def test_a_tier_down_is_not_looked_for(
    fastqwen: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `make down` its place is known, and nobody is there: no word, no wait."""
    folder = tmp_path / "docker"
    (folder / "secrets").mkdir(parents=True)
    told = {"version": 1, "servers": [], "extras": ["tier"], "tier_port": free_port()}
    (folder / "stack.json").write_text(json.dumps(told))
    tier.prepare(folder, {})
    monkeypatch.chdir(tmp_path)
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "x", "labels": ["A", "B"]})
    job = ("probs", rows, "-o", tmp_path / "o.jsonl", "--engine", "scripted")
    done = fastqwen(*job, "--cache-dir", tmp_path / "c", FASTQWEN_NO_CACHE="0")
    assert "tier" not in done.stderr


@pytest.mark.parametrize("content", ["{", "[]", '{"extras": ["tier"]}', '{"extras": []}', '{"extras": 3}'])
def test_files_that_tell_of_none_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    assert tier.found((tmp_path / "stack.json", tmp_path / "none")) is None


async def test_it_shows_that_it_asks_for_users(stack: tuple[Path, int]) -> None:
    folder, port = stack
    written = {"extras": ["tier"], "tier_port": port, "servers": []}
    (part,) = [one for one in parts.others(written, folder) if one.service == "tier"]
    assert "answers its users" in await part.shown(State("tier", "running"))
    (folder / tier.USER_FILE).write_text(f"{tier.JOBS} another\n")
    with pytest.raises(ServerError, match="it answers -NOAUTH -WRONGPASS"):
        await part.shown(State("tier", "running"))


@pytest.mark.parametrize("size", ["1", "1gb", "0g", "-1g", "g", "1t"])
def test_a_memory_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(UsageError, match="TIER_MEMORY"):
        Beside(tier_memory=size)
