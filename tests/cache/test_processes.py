"""Several processes at once, and those that are killed, lose nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.keys import digest
from cache.sharing.leases import Leases
from cache.storage.database import journal_mode
from cache.store import Store
from tests.cache.filling import KEYS, READING, database, filled


def _write_and_read(folder: Path, number: int, count: int) -> int:
    store = Store(folder)
    lost = 0
    names = [digest(b"%d of %d" % (place, number)) for place in range(count)]
    for place, name in enumerate(names):
        store.put("labels", name, name.encode())
        if place % 50 == 49:
            store.flush()
            lost += sum(store.get("labels", done) != done.encode() for done in names[: place + 1 : 7])
    store.flush()
    lost += sum(store.get("labels", name) != name.encode() for name in names)
    store.close()
    return lost


def _collect_until(folder: Path, stop: Path) -> int:
    store, removed, last = Store(folder), 0, False
    while not last:  # once at least, however late this process comes
        last = stop.exists()
        removed += store.gc(older_than_s=0.0)[0]
        assert all(payload is not None for _, _, payload in store.entries())
    store.close()
    return removed


@pytest.mark.slow
def test_removal_beside_writers_loses_nothing_of_theirs(
    make: Callable[..., Store], tmp_path: Path
) -> None:  # K04, K05
    filled(make, 50)  # of a job that is over: these may go
    folder, stop = tmp_path / "cache", tmp_path / "stop"
    with multiprocessing.get_context("spawn").Pool(9) as pool:
        cleaner = pool.apply_async(_collect_until, (folder, stop))
        lost = pool.starmap(_write_and_read, [(folder, number, 150) for number in range(8)])
        stop.touch()
        removed = cleaner.get()
    assert lost == [0] * 8
    assert removed >= 50


def _write_for_ever(folder: Path, acknowledged: Path) -> None:
    store = Store(folder)
    with acknowledged.open("ab", buffering=0) as file:
        for key in KEYS:
            store.put("labels", key, key.encode() * 20)
            store.flush()
            file.write(key.encode() + b"\n")


def test_killed_writers_leave_whole_values_or_none(make: Callable[..., Store], tmp_path: Path) -> None:  # K07
    rng, context = random.Random(5), multiprocessing.get_context("fork")
    acknowledged = tmp_path / "acknowledged"
    make().close()
    acknowledged.touch()
    for _ in range(15):
        process = context.Process(target=_write_for_ever, args=(tmp_path / "cache", acknowledged))
        process.start()
        wanted = acknowledged.stat().st_size + rng.choice((0, 1, 200))
        while acknowledged.stat().st_size < wanted:  # however slow this machine is
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.02))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    store = make()
    done = set(acknowledged.read_text().split())
    assert done
    for key in KEYS:
        found = store.get("labels", key)
        assert found in (None, key.encode() * 20)
        assert found is not None or key not in done
    assert store.counts["labels damaged"] == 0


PUT = (
    "import os, sys; from pathlib import Path; import tgi_stack.answers; from cache.store import Store\n"
    "store = Store(Path(sys.argv[1]))\n"
    "for key in sys.argv[2:]:\n"
    "    store.put('labels', key, key.encode() * 20)\n"
    "    store.flush()\n"
    "    os.write(1, key.encode() + b'\\n')\n"
    "store.close()\n"
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("call", "new", "step"),
    [("pwrite64", False, 5), ("fdatasync", False, 4), ("ftruncate", False, 3), ("pwrite64", True, 97)],
)
def test_a_kill_at_any_write_leaves_whole_values(  # K07
    make: Callable[..., Store], tmp_path: Path, call: str, new: bool, step: int
) -> None:
    """Of two puts into a cache that is there, and while it is made; with a step of 1, which takes minutes."""
    folder = tmp_path / "cache"
    filled(make)
    whole, place, kills = shutil.copytree(folder, tmp_path / "whole"), 3, 0
    while True:
        shutil.rmtree(folder)
        if not new:
            shutil.copytree(whole, folder)
        tracing = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
        tracing += ["-e", f"inject={call}:signal=KILL:when={place}"]
        run = [sys.executable, "-c", PUT, str(folder), *KEYS[20:22]]
        done = subprocess.run([*tracing, *run], capture_output=True, text=True, env=READING)
        store = make()
        for key in KEYS[20:22]:
            found = store.get("labels", key)
            assert found == key.encode() * 20 or (found is None and key not in done.stdout)
        assert new or all(store.get("labels", key) == key.encode() for key in KEYS[:10])
        assert store.counts["labels damaged"] == 0
        store.put("labels", KEYS[30], b"later")
        store.flush()
        assert store.get("labels", KEYS[30]) == b"later"
        store.close()
        if done.returncode == 0:
            break
        place, kills = place + step, kills + 1
    assert kills >= 4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_readers_take_back_what_a_kill_left(
    make: Callable[..., Store], tmp_path: Path, said: list[str]
) -> None:
    if journal_mode() == "wal":
        pytest.skip("readers pass over what was not committed")
    folder, journal = tmp_path / "cache", database(tmp_path).with_name("cache.db-journal")
    filled(make)
    reading = make()
    assert reading.get("labels", KEYS[0])
    for place in range(3, 60):
        tracing = ["strace", "-f", "-qq", "-o", os.devnull, "-e", "trace=pwrite64"]
        tracing += ["-e", f"inject=pwrite64:signal=KILL:when={place}"]
        subprocess.run([*tracing, sys.executable, "-c", PUT, str(folder), KEYS[20]], env=READING)
        if reads_fail(database(tmp_path)):
            break
    assert journal.stat().st_size
    assert all(reading.get("labels", key) == key.encode() for key in KEYS[:10])
    assert said == []


def reads_fail(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            connection.execute("SELECT 1 FROM Cache").fetchone()
        except sqlite3.OperationalError:
            return True
        return False


def test_a_lease_ends_with_its_process(make: Callable[..., Store], tmp_path: Path) -> None:
    make().close()
    path = tmp_path / "cache" / "v1" / "leases"
    hold = "import sys; from pathlib import Path; from cache.sharing.leases import Leases; "
    hold += "print(Leases(Path(sys.argv[1])).take('L', sys.argv[2]) is not None, flush=True); input()"
    run = [sys.executable, "-c", hold, str(path), KEYS[0]]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=READING) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        ours = Leases(path)
        assert ours.take("L", KEYS[0]) is None
        assert ours.take("S", KEYS[0]) is not None
        holder.kill()
        holder.wait()
        assert ours.take("L", KEYS[0]) is not None
