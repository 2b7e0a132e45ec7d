"""Full disks and others who hold the database cost no answer."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.storage.database import journal_mode
from cache.store import Store
from tests.cache.filling import KEYS, database, fill, filled
from tgi_stack.answers import cache_admin
from tgi_stack.errors import MachineError


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_costs_no_answer(tmp_path: Path, said: list[str]) -> None:  # X05, C08
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", disk]).returncode:
        pytest.skip("no mounts here")
    try:
        store = Store(disk / "cache")
        store.put("labels", KEYS[0], b"first")
        store.flush()
        for key in KEYS[1:400]:
            store.put("labels", key, os.urandom(4000))
            store.flush()
        assert store.get("labels", KEYS[0]) == b"first"
        store.close()
        assert len([line for line in said if "can't be written" in line]) == 1
        fill(disk / "rest")
        cleaning = Store(disk / "cache")
        with pytest.raises(MachineError, match=r"is full .* make some"):
            cache_admin.cleared(cleaning)
        cleaning.close()
        again = Store(disk / "cache", offline=True)
        assert again.get("labels", KEYS[0]) == b"first"
        again.close()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_locked_database_costs_seconds_not_the_run(
    make: Callable[..., Store], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.storage.database.BUSY_S", 0.05)
    filled(make)
    blocker = sqlite3.connect(database(tmp_path), isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    store = make()
    began = time.monotonic()
    assert [store.get("labels", key) for key in KEYS[:10]] == [None] * 10
    store.put("labels", KEYS[500], b"x")
    store.flush()
    assert time.monotonic() - began < 10
    assert any("busy" in line or "locked" in line for line in said)
    blocker.execute("ROLLBACK")
    blocker.close()


def test_a_reader_that_stays_costs_one_batch(
    make: Callable[..., Store], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if journal_mode() == "wal":
        pytest.skip("readers keep nobody out")
    monkeypatch.setattr("cache.storage.database.BUSY_S", 0.05)
    filled(make)
    store = make()
    store.put("labels", KEYS[499], b"first")  # from here on it is the end of a transaction that fails
    store.flush()
    reader = sqlite3.connect(database(tmp_path), timeout=0.05)
    cursor = reader.execute("SELECT key FROM Cache")
    assert cursor.fetchone() is not None
    store.put("labels", KEYS[500], b"lost")
    store.flush()
    assert store.unkept == 1
    cursor.close()
    store.put("labels", KEYS[501], b"kept")
    store.flush()
    assert store.get("labels", KEYS[501]) == b"kept"
    reader.execute("BEGIN EXCLUSIVE")  # nothing of the store's is left open
    reader.close()
    assert len([line for line in said if "can't be written" in line]) == 1


def test_readers_of_all_let_others_write(
    make: Callable[..., Store], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.storage.database.BUSY_S", 0.05)
    filled(make, 200)
    entries = make().entries()
    next(entries)
    store = make()
    store.put("summary", KEYS[0], b"new")
    store.flush()
    assert store.get("summary", KEYS[0]) == b"new"
    assert said == []
    assert len(list(entries)) == 200  # summaries come after labels
