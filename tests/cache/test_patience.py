"""Processes that stand still: what they hold costs others a moment in all, and is said in one line."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

import tgi_stack.answers  # noqa: F401  # registers the kinds
from cache.bundle import export_bundle, import_bundle
from cache.errors import CacheError
from cache.keys import digest
from cache.sharing.active_jobs import ActiveJob
from cache.sharing.leases import Lease
from cache.sharing.patience import (
    CHECK_EVERY_S,
    JOBS_EVERY_S,
    LONG,
    MOST_S,
    Patience,
    StandsStillError,
    holders,
    stands_still,
)
from cache.storage import paths
from cache.storage.database import ASK_S
from cache.store import Store

KEYS = [digest(b"%d" % number) for number in range(40)]
BOUND_S = 12.0  # generous: each wait that is not shared would add seconds for each key
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
PRELUDE = """
import fcntl, sqlite3, sys, time
from pathlib import Path
import tgi_stack.answers
from cache.store import Store
folder = Path(sys.argv[1]); root = folder / "v1"
"""
LEASES = (
    PRELUDE
    + """
from cache.sharing.leases import Leases
leases = Leases(root / "leases")
held = [leases.take("L", key) for key in sys.argv[2:]]
"""
)
TURN = PRELUDE + "file = open(root / 'small' / 'writing'); fcntl.flock(file, fcntl.LOCK_EX)"
EXCLUSIVE = (
    PRELUDE
    + """
connection = sqlite3.connect(root / "small" / "cache.db", isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
"""
)
SHARED = (
    PRELUDE
    + """
connection = sqlite3.connect(root / "small" / "cache.db", isolation_level=None)
connection.execute("BEGIN")
connection.execute("PRAGMA user_version").fetchone()
"""
)
COUNTS = PRELUDE + "file = open(root / 'counts.json'); fcntl.flock(file, fcntl.LOCK_EX)"
JOB = PRELUDE + "store = Store(folder); store.get('labels', sys.argv[2])"
HELD = {
    "leases": LEASES,
    "turn": TURN,
    "exclusive": EXCLUSIVE,
    "shared": SHARED,
    "counts": COUNTS,
    "job": JOB,
}


@contextmanager
def stopped(code: str, folder: Path, keys: list[str]) -> Iterator[int]:
    """A process that has run some code and then was stopped: its number."""
    run = [sys.executable, "-c", code + "\nprint('holds', flush=True); time.sleep(600)", str(folder), *keys]
    with subprocess.Popen(run, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"holds\n"
            process.send_signal(signal.SIGSTOP)
            while not stands_still(process.pid):
                time.sleep(0.01)
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store(tmp_path / "cache")
    for key in KEYS[:20]:
        store.put("labels", key, key.encode())
    store.get("labels", KEYS[0])
    store.close()
    return tmp_path / "cache"


def _leased(store: Store, key: str) -> Lease:
    until = time.monotonic() + BOUND_S
    while (lease := store.lease("labels", key)) is None and time.monotonic() < until:
        time.sleep(0.01)
    assert lease is not None
    return lease


def _run(store: Store) -> None:
    """What a run does: looks up, takes leases, writes, closes."""
    for key in KEYS:
        if store.get("labels", key) is None:
            lease = _leased(store, key)
            store.put("labels", key, b"anew", lease.release)
            store.flush()
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("what", list(HELD))
def test_a_stopped_holder_costs_a_moment(folder: Path, what: str, said: list[str]) -> None:
    with stopped(HELD[what], folder, KEYS) as pid:
        began = time.monotonic()
        _run(Store(folder))
        assert time.monotonic() - began < BOUND_S
        lines = [line for line in said if f"process {pid} " in line]
        assert len(lines) == (0 if what in ("job", "counts") else 1), said
        assert said == lines
        assert all("(python" in line and f"kill -CONT {pid}" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("what", list(HELD))
def test_offline_reads_on_beside_stopped_holders(folder: Path, what: str) -> None:
    with stopped(HELD[what], folder, KEYS) as pid:
        began = time.monotonic()
        store = Store(folder, offline=True)
        assert [store.get("labels", key) for key in KEYS[:20]] == [key.encode() for key in KEYS[:20]]
        if what == "exclusive":  # a miss could be untrue
            with pytest.raises(CacheError, match=f"process {pid} "):
                store.get("labels", KEYS[30])
        store.close()
        assert time.monotonic() - began < BOUND_S


@pytest.mark.parametrize("what", ["turn", "exclusive", "shared"])
def test_commands_name_the_stopped_holder(folder: Path, tmp_path: Path, what: str) -> None:
    with stopped(HELD[what], folder, KEYS) as pid:
        store = Store(folder)
        began = time.monotonic()
        with pytest.raises((CacheError, StandsStillError), match=f"process {pid} "):
            store.clear()
        if what != "exclusive":
            assert export_bundle(store, tmp_path / "bundle", None) == 20
        store.close()
        assert time.monotonic() - began < BOUND_S


def test_an_import_beside_a_stopped_writer_ends(folder: Path, tmp_path: Path, said: list[str]) -> None:
    whole = Store(folder)
    export_bundle(whole, tmp_path / "bundle", None)
    whole.clear()
    whole.close()
    with stopped(TURN, folder, []) as pid:
        store = Store(folder)
        began = time.monotonic()
        with pytest.raises(CacheError, match="could not be written"):
            import_bundle(store, tmp_path / "bundle", None)
        assert time.monotonic() - began < BOUND_S
        assert [f"process {pid} " in line for line in said] == [True]
        store.close()


def test_a_process_that_goes_on_is_waited_for(folder: Path) -> None:
    patience = Patience()
    path = folder / "v1" / "small" / "writing"
    with stopped(TURN, folder, []) as pid:
        with pytest.raises(StandsStillError), paths.alone(path, BOUND_S, patience):
            pass
        with pytest.raises(StandsStillError):
            patience.refuse(path)
        os.kill(pid, signal.SIGCONT)
        while stands_still(pid):
            time.sleep(0.01)
        with pytest.raises(TimeoutError), paths.alone(path, MOST_S / 2, patience):
            pass


def test_a_lock_that_outlives_its_process_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    code = "import fcntl, os, sys, time\nfile = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX)\n"
    code += "child = os.fork()\nif child: print(child, flush=True); os._exit(0)\ntime.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.wait()
        try:
            assert holders(path) == [parent.pid]
            with pytest.raises(StandsStillError, match=r"is gone"), paths.alone(path, BOUND_S, Patience()):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_new_job_never_waits_for_cleaners(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = folder / "v1" / "users"
    whole = paths.touch
    held: list[IO[str]] = []

    def touch(path: Path) -> None:
        whole(path)
        if not held:  # who cleans up locks the new file first, and stops
            held.append(path.open())
            fcntl.flock(held[0], fcntl.LOCK_EX)

    monkeypatch.setattr("cache.storage.paths.touch", touch)
    job = ActiveJob(users)
    assert held
    job.close()
    held[0].close()


def test_many_holders_cost_two_seconds_together(tmp_path: Path) -> None:
    now = [0.0]
    patience = Patience(lambda: now[0])
    for pid in range(2**22 + 1, 2**22 + 40):  # beyond what a kernel gives out: gone
        while True:
            try:
                patience.check_process(pid, tmp_path)
            except StandsStillError:
                break
            now[0] += CHECK_EVERY_S
    assert MOST_S < now[0] <= 2.0


def waited(patience: Patience, path: Path, now: list[float]) -> None:
    """Waits ten seconds of a clock for a lock."""
    while now[0] < 10.0:
        patience.check(path)
        now[0] += 0.01


def test_the_list_of_locks_is_read_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody on the host can lock anything meanwhile; jobs that run need no look."""
    (tmp_path / f"{os.getpid()}-job").touch()
    now, looks = [0.0], []

    def noted(path: Path) -> list[int]:
        looks.append(now[0])
        return []

    monkeypatch.setattr("cache.sharing.patience.holders", noted)
    waited(Patience(lambda: now[0], jobs=tmp_path), tmp_path / "file", now)
    assert len(looks) == 2
    patience = Patience(lambda: now[0], jobs=tmp_path)
    for _ in range(1000):  # many short waits are no long one
        now[0] += 0.01
        patience.check(tmp_path / "file")
        patience.over(tmp_path / "file")
    assert len(looks) == 2
    assert looks[0] == pytest.approx(LONG * MOST_S, abs=JOBS_EVERY_S + 0.02)


def test_a_job_that_stands_is_looked_for_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        os.kill(sleeper.pid, signal.SIGSTOP)
        (tmp_path / f"{sleeper.pid}-job").touch()
        monkeypatch.setattr("cache.sharing.patience.holders", lambda path: [sleeper.pid])
        try:
            while not stands_still(sleeper.pid):
                time.sleep(0.01)
            with pytest.raises(StandsStillError):
                waited(Patience(lambda: now[0], jobs=tmp_path), tmp_path / "file", now)
        finally:
            sleeper.kill()
    assert MOST_S <= now[0] <= MOST_S + 2 * CHECK_EVERY_S


def test_sqlite_waits_less_than_one_is_patient() -> None:
    assert ASK_S < MOST_S
