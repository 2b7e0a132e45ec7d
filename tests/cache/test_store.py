"""What is stored is there, at once and later."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import CacheError
from cache.sharing.active_jobs import ActiveJob, ActiveJobs
from cache.storage.database import journal_mode
from cache.store import Store
from tests.cache.filling import KEYS, database, filled


def test_what_was_put_is_there_at_once(make: Callable[..., Store]) -> None:
    store = make()
    store.put("labels", KEYS[0], b"one")
    assert store.get("labels", KEYS[0]) == b"one"  # not written yet
    store.flush()
    assert store.get("labels", KEYS[0]) == b"one"
    assert store.get("summary", KEYS[0]) is None  # of another kind
    store.close()
    again = make()
    assert again.get("labels", KEYS[0]) == b"one"
    assert (again.counts["labels hits"], again.counts["labels misses"]) == (1, 0)
    assert again.lifetime_counts()["labels hits"] == 2


def test_many_are_looked_up_at_once(make: Callable[..., Store], tmp_path: Path) -> None:
    store = make()
    for key in KEYS[:4]:
        store.put("labels", key, key.encode())
    store.flush()
    store.put("labels", KEYS[4], b"not written yet")
    with sqlite3.connect(database(tmp_path)) as connection:
        connection.execute("UPDATE Cache SET value = 'text' WHERE key = ?", ("L" + KEYS[1],))
        connection.execute("UPDATE Cache SET value = x'00' WHERE key = ?", ("L" + KEYS[2],))
    found = store.get_many("labels", KEYS[:6])
    assert found == [KEYS[0].encode(), None, None, KEYS[3].encode(), b"not written yet", None]
    counts = {name: store.counts[f"labels {name}"] for name in ("hits", "damaged", "misses")}
    assert counts == {"hits": 3, "damaged": 2, "misses": 3}
    assert store.get_many("labels", []) == []


def test_one_of_several_writers_writes_less_often(make: Callable[..., Store]) -> None:
    store = make()
    assert store._writer is not None
    before = store._writer.linger_s
    store.takes_turns(8)
    assert store._writer.linger_s == 8 * before
    store.put("labels", KEYS[0], b"one")
    store.flush()  # at once all the same
    assert [kind for kind, _, _ in store.entries()] == ["labels"]


def test_the_journal_keeps_all_rows(make: Callable[..., Store], tmp_path: Path) -> None:  # K15
    filled(make, 1)
    with sqlite3.connect(database(tmp_path)) as connection:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    sound = sqlite3.sqlite_version_info >= (3, 51, 3)
    assert journal_mode() == ("wal" if sound else "truncate")
    assert mode == "wal" if sound else mode in ("truncate", "delete")


def test_settings_are_ours_whoever_opened_last(make: Callable[..., Store], tmp_path: Path) -> None:
    filled(make, 1)
    import diskcache

    other = diskcache.Cache(
        str(database(tmp_path).parent), eviction_policy="least-recently-used", size_limit=1
    )
    other.close()
    store = make()
    for key in KEYS[:300]:
        store.put("labels", key, b"x" * 1000)
    store.flush()
    assert all(store.get("labels", key) for key in KEYS[:300])


def test_the_writer_outlives_unexpected_errors(
    make: Callable[..., Store], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    released = []

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    def odd(*arguments: object) -> None:
        raise RuntimeError("odd")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        patch.setattr(store._databases["small"], "write", odd)
        store.put("labels", KEYS[0], b"x", lambda: released.append(1))
        store.flush()
    store.put("labels", KEYS[1], b"later", lambda: released.append(2))
    store.flush()
    assert released == [1, 2]
    assert store.get("labels", KEYS[1]) == b"later"
    assert len(said) == 1
    names = {ActiveJob.number_of("L" + key) for key in KEYS[:2]}
    assert ActiveJobs(store.directory / "v1" / "users").now() == names


def test_offline_no_cache_is_made(make: Callable[..., Store], tmp_path: Path) -> None:
    store = make(offline=True)
    assert store.get("labels", KEYS[0]) is None
    store.put("labels", KEYS[0], b"x")
    assert (store.kept(), list(store.entries()), store.volume()) == ([], [], 0)
    store.close()
    assert not (tmp_path / "cache").exists()


def test_offline_a_failed_lookup_is_no_miss(
    make: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.storage.database.BUSY_S", 0.01)
    filled(make)
    store = make(offline=True)
    blocker = sqlite3.connect(database(tmp_path), isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(CacheError, match="run it again later"):
        store.get("labels", KEYS[0])
    blocker.execute("ROLLBACK")
    blocker.close()
    assert store.get("labels", KEYS[0]) == KEYS[0].encode()


def test_a_cache_that_was_slow_is_used_again(
    make: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.storage.database.BUSY_S", 0.01)
    filled(make)
    store = make()
    blocker = sqlite3.connect(database(tmp_path), isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    assert [store.get("labels", KEYS[0]) for _ in range(5)] == [None] * 5
    blocker.execute("ROLLBACK")
    blocker.close()
    assert store.get("labels", KEYS[0]) is None  # for a while
    later = time.monotonic() + 61
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert store.get("labels", KEYS[0]) == KEYS[0].encode()


def test_a_store_leaves_no_file_open(make: Callable[..., Store], tmp_path: Path) -> None:
    filled(make)
    numbers = os.listdir("/proc/self/fd")
    links = [f"/proc/self/fd/{number}" for number in numbers]
    files = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert not [file for file in files if file.startswith(str(tmp_path))]


def test_formats_live_beside_each_other(make: Callable[..., Store], tmp_path: Path) -> None:  # K08
    (tmp_path / "cache" / "v2" / "small").mkdir(parents=True)
    (tmp_path / "cache").chmod(0o700)
    (tmp_path / "cache" / "v2" / "small" / "cache.db").write_bytes(b"of a later fastqwen")
    filled(make)
    assert make().get("labels", KEYS[0]) == KEYS[0].encode()
    assert (tmp_path / "cache" / "v2" / "small" / "cache.db").read_bytes() == b"of a later fastqwen"
