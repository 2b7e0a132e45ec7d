"""Bundles, and what the commands say."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.bundle import export_bundle, import_bundle
from cache.errors import BundleError, CacheError
from cache.store import Store
from tests.cache.filling import KEYS, database, filled
from tgi_stack.answers import cache_admin
from tgi_stack.answers.audit import Reasked
from tgi_stack.errors import MachineError


@pytest.fixture
def bundle(make: Callable[..., Store], tmp_path: Path) -> Path:
    filled(make)
    assert export_bundle(make(), tmp_path / "c.fqc", b"k" * 32) == 10
    return tmp_path / "c.fqc"


def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


def test_a_bundle_brings_what_was_in_it(bundle: Path, tmp_path: Path) -> None:
    store = other(tmp_path)
    found = import_bundle(store, bundle, b"k" * 32)
    assert (found.entries, found.new, found.damaged, found.forged) == (10, 10, 0, 0)
    assert import_bundle(store, bundle, None).new == 0
    assert all(store.get("labels", key) == key.encode() for key in KEYS[:10])
    store.close()


def test_an_import_counts_what_it_kept(
    make: Callable[..., Store], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CacheError, match="can only be read here"):
        import_bundle(make(offline=True), bundle, None)
    store = other(tmp_path)
    monkeypatch.setattr("cache.storage.writer.MOST_WAITING", 3)
    with monkeypatch.context() as patch:
        patch.setattr("cache.storage.writer.LINGER_S", 0.5)
        with pytest.raises(CacheError, match=r"7 of 10 entries of .* import it again"):
            import_bundle(store, bundle, None)
    monkeypatch.setattr("cache.bundle.FLUSH_EVERY", 2)
    assert import_bundle(store, bundle, None).new == 7
    assert sum(held.entries for held in store.kept()) == 10
    store.close()


def test_failed_commands_say_what_to_do(
    make: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.storage.database.BUSY_S", 0.01)
    filled(make)
    store = make()
    blocker = sqlite3.connect(database(tmp_path), isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    for command in (cache_admin.cleared, cache_admin.described, cache_admin.verified):
        with pytest.raises(MachineError, match="try again when no other program uses it"):
            command(store)
    blocker.execute("ROLLBACK")
    blocker.close()
    store.writable = False
    with pytest.raises(MachineError, match="can only be read here; have its owner"):
        cache_admin.cleared(store)
    with pytest.raises(MachineError, match="can only be read here; have its owner"):
        cache_admin.collect(store, "1d", None)


@pytest.mark.parametrize(
    ("texts", "changed", "wavering", "swapped"),
    [
        (1, 0, 0, False),
        (1, 1, 0, True),
        (20, 5, 0, False),
        (20, 6, 0, True),
        (20, 8, 3, False),
        (20, 10, 3, True),
    ],
)
def test_texts_are_judged_by_how_many_waver(texts: int, changed: int, wavering: int, swapped: bool) -> None:
    assert Reasked(texts=texts, changed=changed, wavering=wavering).swapped is swapped


@pytest.mark.parametrize(
    ("failed", "line"), [(0, "none of the kept questions"), (3, "all 3 that were asked")]
)
def test_nothing_asked_again_is_no_verdict(failed: int, line: str) -> None:
    found = {"entries": {"labels": 1}, "damaged": 0, "asked": 0, "failed": failed, "differ": 0}
    assert any(line in one for one in cache_admin.verdict(found))


def test_entries_without_the_teams_seal_stay_out(  # K10
    make: Callable[..., Store], bundle: Path, tmp_path: Path
) -> None:
    store = other(tmp_path)
    export_bundle(make(), tmp_path / "forged.fqc", b"another key of them.")
    with pytest.raises(BundleError, match="entries"):
        import_bundle(store, tmp_path / "forged.fqc", b"k" * 32)
    assert store.get("labels", KEYS[0]) is None
    export_bundle(make(), tmp_path / "unsealed.fqc", None)
    with pytest.raises(BundleError, match="no seals"):
        import_bundle(store, tmp_path / "unsealed.fqc", b"k" * 32)
    store.close()


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_a_bundle_cut_short_is_an_error(bundle: Path, tmp_path: Path, cut: int) -> None:
    bundle.write_bytes(bundle.read_bytes()[:cut])
    store = other(tmp_path)
    with pytest.raises(BundleError):
        import_bundle(store, bundle, b"k" * 32)
    store.close()
