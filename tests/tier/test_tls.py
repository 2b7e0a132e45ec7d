"""A tier over TLS: a real server, certificates of the tests' own, and what is said where they don't fit."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.certificates import authority
from tests.conftest import Fastqwen
from tests.tier.conftest import PROGRAM, Running, free_port
from tests.tier.machines import asked, from_cache, plain, records

PASSWORD = "hunter2-over-tls"  # noqa: S105  # of the tests
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hosts = {"own": "IP:127.0.0.1", "other": "DNS:cache.example.test"}
    return authority(tmp_path_factory.mktemp("certificates"), **hosts)


class Secured:
    """A redis-server that speaks TLS alone, under one of the certificates, to a user of its own."""

    def __init__(self, folder: Path, port: int, name: str) -> None:
        self.port, self.ca_file = port, folder / "ca.pem"
        told = ["--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", ""]
        told += [
            "--tls-cert-file",
            str(folder / f"{name}.pem"),
            "--tls-key-file",
            str(folder / f"{name}.key"),
        ]
        told += ["--tls-ca-cert-file", str(self.ca_file), "--tls-auth-clients", "no"]
        told += ["--user", "team", "on", f">{PASSWORD}", "~fq1:*", "+@all", "--user", "default", "off"]
        self.process = subprocess.Popen([str(PROGRAM), *told], cwd=folder, stdout=subprocess.DEVNULL)
        while not _answers(port):
            assert self.process.poll() is None, "this redis-server speaks no TLS"
            time.sleep(0.02)

    @property
    def url(self) -> str:
        return f"rediss://team:{PASSWORD}@127.0.0.1:{self.port}/0"

    def keys(self) -> int:
        tls = {"ssl": True, "ssl_ca_certs": str(self.ca_file), "ssl_check_hostname": False}
        asking = redis.Redis("127.0.0.1", self.port, username="team", password=PASSWORD, **tls)  # type: ignore[arg-type]
        return int(asking.dbsize())


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


@pytest.fixture
def secured(request: pytest.FixtureRequest, certificates: Path) -> Iterator[Secured]:
    made = Secured(certificates, free_port(), getattr(request, "param", "own"))
    yield made
    made.process.kill()
    made.process.wait()


def test_a_second_machine_asks_nothing_over_tls(secured: Secured, tmp_path: Path) -> None:
    rows = asked(tmp_path / "rows.jsonl", range(40))
    given = {"cache_tier": secured.url, "ca_file": secured.ca_file}
    first = records(rows, tmp_path / "first", **given)
    assert secured.keys() == 40
    second = records(rows, tmp_path / "second", **given)
    assert plain(second) == plain(first)
    assert (from_cache(first), from_cache(second)) == (0, 40)


@pytest.mark.parametrize(
    ("secured", "trusts", "said"),
    [("own", False, "can't be verified"), ("other", True, "can't be verified")],
    indirect=["secured"],
)
def test_a_certificate_that_fails_is_told(
    secured: Secured, cached: Fastqwen, tmp_path: Path, trusts: bool, said: str
) -> None:
    """Of an authority that nobody named, or for another host: nothing is sent, and no record changes."""
    rows, out = asked(tmp_path / "rows.jsonl", range(12)), tmp_path / "out.jsonl"
    tier = ("--cache-tier", secured.url, *(("--ca-file", secured.ca_file) if trusts else ()))
    done = cached("probs", rows, "-o", out, "--engine", "scripted", *tier)
    assert "12 ok" in done.stderr
    assert f"the tier rediss://127.0.0.1:{secured.port}/0 shows a certificate that {said}" in done.stderr
    assert "--ca-file" in done.stderr
    told = cached("doctor", *tier, check=4).stderr
    assert "certificate that can't be verified" in told
    assert PASSWORD not in done.stderr + told + Path(f"{out}.run.json").read_text()
    assert secured.keys() == 0


def test_doctor_is_content_over_tls(secured: Secured, cached: Fastqwen) -> None:
    done = cached("doctor", "--cache-tier", secured.url, "--ca-file", secured.ca_file, "--json", check=None)
    lines = [line for line in json.loads(done.stdout) if "cache tier" in line["what"]]
    assert {"ok", "warning"} >= {line["state"] for line in lines}
    assert any(line["what"].endswith("/0 writes") and line["state"] == "ok" for line in lines)


def test_tls_to_a_server_without_is_told(server: Running, cached: Fastqwen, tmp_path: Path) -> None:
    """And the other way round; in both a run goes on without the tier."""
    url = server.url.replace("redis://", "rediss://")
    rows = asked(tmp_path / "rows.jsonl", range(4))
    done = cached("probs", rows, "-o", tmp_path / "o.jsonl", "--engine", "scripted", "--cache-tier", url)
    assert "4 ok" in done.stderr
    assert f"the tier {url} " in done.stderr
    assert server.values() == {}
