"""What tests of the tier share: a real server, and a proxy that spoils what it says."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.tier.proxy import Proxy

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Running:
    """A redis-server of the tests' own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        told = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "")
        self.process = subprocess.Popen([str(PROGRAM), *told], stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))
        while not self._answers():
            time.sleep(0.02)
        (folder / "dump.rdb").mkdir()  # from now on no snapshot can be written

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError("redis-server ended at its start")
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def blank(self) -> None:
        """As it was started."""
        for name, value in (("requirepass", ""), ("maxmemory", "0"), ("maxmemory-policy", "noeviction")):
            self.client.config_set(name, value)
        self.client.config_set("save", "")
        self.client.config_set("stop-writes-on-bgsave-error", "no")
        self.client.flushall()

    def values(self) -> dict[bytes, bytes]:
        """All that is kept."""
        keys: Any = list(self.client.scan_iter("fq1:?:*", count=1000))
        found: Any = self.client.mget(keys)
        return dict(zip(keys, found, strict=True))


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if PROGRAM is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    server = Running(tmp_path_factory.mktemp("redis"))
    yield server
    server.process.kill()  # it would want to write its snapshot
    server.process.wait()


@pytest.fixture
def server(_running: Running) -> Iterator[Running]:
    """A real server, empty."""
    _running.client.config_set("requirepass", "")
    _running.blank()
    yield _running
    _running.blank()


@pytest.fixture
def proxy(server: Running) -> Iterator[Proxy]:
    """What stands before the server and can be told to spoil it."""
    between = Proxy(server.port)
    yield between
    between.close()
