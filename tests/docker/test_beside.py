"""The gateway, observe and a second clone, beside the servers on a real engine."""

from __future__ import annotations

import http.client
import shutil
import ssl
from pathlib import Path

import pytest
import redis

from tests.certificates import authority
from tests.conftest import CATALOGUE, read_records
from tests.docker import clone as clones
from tests.docker.clone import MODELS, Clone
from tests.docker.conftest import Host
from tests.loopback import listening
from tests.stack.test_adopt import OWN, OverTls
from tests.stack.test_caddy import ask, bearer

pytestmark = pytest.mark.docker
KEY = "k" * 40


def test_the_gateway_lets_keys_in_alone(host: Host, tmp_path: Path) -> None:
    clone = host.up()
    (clone.path / "docker/secrets/keys").write_text(f"alice {KEY}\n")
    clone.make("gateway")
    root = tmp_path / "ca.crt"
    clone.engine.docker(
        "cp", f"{clone.container('gateway')}:/data/caddy/pki/authorities/local/root.crt", root
    )
    job = ("summarize", CATALOGUE / "images", "--limit", "1", "--endpoint", "https://localhost:8443/vision")
    trusted = (*job, "--ca-file", root)
    clone.fastqwen(*trusted, "-o", tmp_path / "right.jsonl", FASTQWEN_API_KEY=KEY)
    counted = 'fastqwen_gateway_answers_total{user="alice",server="vision"'
    clone.until(
        lambda: any(f"{counted},tokens_told=" in line and line[-2:] != " 0" for line in _counts(clone))
    )
    for name, key in (("wrong", {"FASTQWEN_API_KEY": "w" * 40}), ("none", {})):
        said = clone.fastqwen(*trusted, "-o", tmp_path / f"{name}.jsonl", check=4, **key).said
        assert "status 401" in said
        assert "FASTQWEN_API_KEY" in said
    stranger = clone.fastqwen(*job, "-o", tmp_path / "s.jsonl", check=4, FASTQWEN_API_KEY=KEY).said
    assert "the certificate can't be verified" in stranger
    assert "--ca-file" in stranger
    said = clone.make("status").said
    assert "ok: gateway: https://localhost:8443 (running, asks for a key" in said
    assert "ok: doorkeeper (running, asks for a key" in said
    shown = clone.engine.docker("exec", clone.container("doorkeeper"), "ls", "-A", "/keys/tls", check=None)
    assert "Permission denied" in shown or not shown
    assert not clone.engine.docker("exec", clone.container("doorkeeper"), "cat", "/keys/hf_token")


def _counts(clone: Clone) -> list[str]:
    """What the doorkeeper has counted, as Prometheus is told."""
    page = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9180/metrics').read().decode())"
    return clone.engine.docker("exec", clone.container("doorkeeper"), "python3", "-c", page).splitlines()


def test_keys_and_rates_change_beside_what_runs(host: Host) -> None:
    clone = host.up()
    keys = clone.path / "docker/secrets/keys"
    keys.write_text(f"alice {KEY}\n")
    clone.make("gateway")
    gateway = clone.container("gateway")
    assert _asked(KEY) == 200
    assert _asked("n" * 40) == 401
    (keys.parent / "new").write_text(f"bob {'n' * 40}\n")  # as an editor does: another file in its place
    (keys.parent / "new").replace(keys)
    clone.until(lambda: _asked("n" * 40) == 200 and _asked(KEY) == 401, 10.0)
    clone.make("gateway", "GATEWAY_RATE=2/h")
    assert [_asked("n" * 40) for _ in range(3)] == [200, 200, 429]
    assert "ok: doorkeeper: 2/h a key" in clone.make("status").said
    clone.make("gateway")  # as before
    assert [_asked("n" * 40) for _ in range(1)] == [429]
    clone.make("gateway", "GATEWAY_RATE=off")
    assert [_asked("n" * 40) for _ in range(3)] == [200, 200, 200]
    assert clone.container("gateway") == gateway


def _asked(key: str, path: str = "/text/info") -> int:
    """The status of a small page of the gateway."""
    untrusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    untrusting.check_hostname, untrusting.verify_mode = False, ssl.CERT_NONE
    asking = http.client.HTTPSConnection("localhost", 8443, timeout=20, context=untrusting)
    try:
        asking.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        return asking.getresponse().status
    finally:
        asking.close()


def test_a_server_that_runs_already_is_adopted(host: Host, tmp_path: Path) -> None:
    """It listens on 127.0.0.1 alone, over TLS, and wants a key of its own; `make down` leaves it."""
    clone = host.down()
    folder = authority(tmp_path, own="IP:127.0.0.1")
    (folder / "key").write_text(OWN)
    files = (f"ADOPT_KEY_FILE={folder / 'key'}", f"ADOPT_CA_FILE={folder / 'ca.pem'}")
    with listening(OverTls("vllm", model=MODELS["vision"], api_key=OWN, folder=folder)) as theirs:
        assert "it wants a key" in clone.make("up", f"ADOPT={theirs.url}", files[1], check=2).said
        clone.make("up", f"ADOPT={theirs.url}", *files)
        shown = clone.engine.docker("inspect", clone.container("vision-adopted"))
        assert OWN not in shown + clone.engine.docker("logs", clone.container("vision-adopted"))
        assert "vision-vllm" not in clone.engine.docker("ps", "--format", "{{.Names}}")
        for target in ("status", "wait"):
            said = clone.make(target).said
            assert f"vision: {MODELS['vision']} on vllm 0.33.0, not ours, at {theirs.url}" in said
        clone.fastqwen("summarize", CATALOGUE / "images", "--limit", "2", "-o", tmp_path / "s.jsonl")
        assert {row["status"] for row in read_records(tmp_path / "s.jsonl")} == {"ok"}
        (clone.path / "docker/secrets/keys").write_text(f"alice {KEY}\n")
        clone.make("gateway")  # without naming it again
        assert _asked(KEY, "/vision/v1/models") == 200
        clone.make("observe")
        clone.until(lambda: theirs.scrapes > 0)
        theirs.stop()
        said = clone.make("status", check=2).said
        assert f"start it again at {theirs.url}: make up does not" in said
        theirs.start()
        clone.engine.docker("kill", clone.container("vision-adopted"))
        clone.engine.docker("start", clone.container("vision-adopted"))
        clone.make("wait")
        clone.make("down")
        assert ask(theirs.url, "GET", "/v1/models", ca_file=folder / "ca.pem", headers=bearer(OWN))[0] == 200


def test_a_tier_is_found_by_jobs(host: Host, tmp_path: Path) -> None:
    """By those of this host without a setting, by a user of the gateway with their key."""
    clone = host.up()
    (clone.path / "docker/secrets/keys").write_text(f"alice {KEY}\n")
    said = clone.make("observe", "TIER=1", "TIER_MEMORY=64m").said
    assert "tier: it listens on 127.0.0.1 and speaks no TLS" in said
    assert "ok: tier: redis://127.0.0.1:6379/0 (running, answers its users" in clone.make("status").said
    for machine in ("first", "second"):
        job = ("summarize", CATALOGUE / "images", "--limit", "3", "-o", tmp_path / f"{machine}.jsonl")
        clone.fastqwen(*job, "--cache-dir", tmp_path / machine, FASTQWEN_NO_CACHE="0")
        found = {row["from_cache"] for row in read_records(tmp_path / f"{machine}.jsonl")}
        assert found == {machine == "second"}
    told = clone.fastqwen("doctor", check=None).said
    assert "cache tier redis://127.0.0.1:6379/0 memory (at most 67,108,864 bytes, allkeys-lru)" in told
    alice = redis.Redis(username="alice", password=KEY)
    before = alice.dbsize()
    assert before > 0
    clone.until(lambda: "redis_keyspace_hits_total" in _scraped(clone), 30.0)
    (clone.path / "docker/secrets/keys").write_text(f"alice {KEY[1:]}2\n")
    clone.make("up")  # another key: it starts anew, with what it held
    alice = redis.Redis(username="alice", password=f"{KEY[1:]}2")
    assert alice.dbsize() == before
    clone.make("down")
    assert "make up TIER=1" in clone.make("up").said


def _scraped(clone: Clone) -> str:
    """What Prometheus knows of the tier."""
    page = "http://127.0.0.1:9090/api/v1/query?query=redis_keyspace_hits_total"
    return clone.engine.docker("exec", clone.container("prometheus"), "curl", "-sS", page, check=None)


def test_a_gateway_that_loops_is_told(host: Host) -> None:
    clone = host.up()
    (clone.path / "docker/secrets/keys").write_text(f"alice {KEY}\n")
    own = clone.path / "docker/secrets/tls"
    for name in ("cert.pem", "key.pem"):
        (own / name).write_text("junk\n")
    try:
        said = clone.make("gateway", "GATEWAY_PORT=9443", check=2).said
        assert (
            "gateway (https://localhost:9443) did not come up: the certificate in docker/secrets/tls" in said
        )
        assert "failure: gateway: https://localhost:9443" in clone.make("status", check=2).said
    finally:
        for name in ("cert.pem", "key.pem"):
            (own / name).unlink()
    clone.make("gateway", "GATEWAY_PORT=8443")


def test_observe_is_looked_at_and_down_is_remembered(host: Host) -> None:
    clone = host.up()
    clone.make("observe")
    said = clone.make("status").said
    for part in ("prometheus", "grafana: http://127.0.0.1:3000", "dcgm-exporter"):
        assert f"ok: {part}" in said
    clone.make("down")
    assert "observe: on before make down, off now; make" in clone.make("up").said


def test_a_second_clone_touches_nothing(host: Host, tmp_path: Path) -> None:
    first = host.up()
    second = clones.make(tmp_path / "second", first.engine, first.hub)
    before = first.engine.docker("ps", "--quiet", "--no-trunc")
    assert f"servers of another clone are up on this host ({first.path}," in second.make("up", check=2).said
    for name in (".env", "stack.json"):
        shutil.copy(first.path / "docker" / name, second.path / "docker")
    for target in ("down", "status", "wait", "up"):
        said = second.make(target, check=None)
        assert said.status == (0 if target == "wait" else 2), said
        assert target == "wait" or str(first.path) in said.said
    assert first.engine.docker("ps", "--quiet", "--no-trunc") == before
