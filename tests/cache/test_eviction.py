"""What goes, in which order, and what stays."""

from __future__ import annotations

from collections.abc import Callable

from cache.eviction import Room
from cache.store import Store
from tests.cache.filling import KEYS


def test_the_size_holds_but_for_used_entries(make: Callable[..., Store]) -> None:  # K13
    old = make()
    for key in KEYS[:200]:
        old.put("labels", key, b"x" * 5000)
    old.close()
    store = make(limit=600_000)
    kept = [store.get("labels", key) for key in KEYS[:20]]  # the oldest, in use now
    assert None not in kept
    for key in KEYS[500:520]:
        store.put("labels", key, b"y" * 5000)
    store.flush()
    assert store.volume() <= 600_000
    assert all(store.get("labels", key) for key in (*KEYS[:20], *KEYS[500:520]))
    assert sum(store.get("labels", key) is None for key in KEYS[20:200]) > 50


def test_what_a_job_uses_stays_beyond_the_size(make: Callable[..., Store], said: list[str]) -> None:  # K13
    store = make(limit=600_000)
    for key in KEYS[:400]:
        store.put("labels", key, b"y" * 5000)
        store.flush()
    assert store.volume() <= 620_000
    kept = sum(store.get("labels", key) is not None for key in KEYS[:400])
    assert 80 < kept == 400 - store.unkept
    assert all(store.get("labels", key) for key in KEYS[:80])
    assert len(said) == 1
    assert "--cache-size" in said[0]


def test_looking_for_old_entries_takes_little_time() -> None:
    now, looked = 0.0, 0

    def collect(to: int) -> None:
        nonlocal now, looked
        assert to == 90
        now, looked = now + 1.0, looked + 1

    room = Room(100, lambda: 200, collect, lambda: now)
    for _ in range(100):
        assert not room.make()
        now += 0.5
    assert looked == 5


def test_the_oldest_go_first_whatever_they_are(make: Callable[..., Store]) -> None:
    old = make()
    for key in KEYS[:200]:
        old.put("image", key, b"x" * 5000)
    old.put("tokenizer", KEYS[0], b"of an offline run")
    old.put("identity", KEYS[0], b"of an offline run")
    old.flush()
    for key in KEYS[:200]:
        old.put("labels", key, b"y" * 500)
    old.close()
    store = make()
    store.gc(to_bytes=store.volume() - 200_000)
    held = {one.kind: one.entries for one in store.kept()}
    assert held["labels"] == 200
    assert held["image"] < 200
    store.gc(older_than_s=0.0)
    assert {one.kind for one in store.kept()} == {"tokenizer", "identity"}
    assert store.clear() == 2
    assert store.kept() == []
