"""Damage: a value is what was stored, or absent."""

from __future__ import annotations

import pickle
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.errors import CacheError
from cache.storage.database import open_for_writing
from cache.store import Store
from tests.cache.filling import KEYS, READING, database, filled


def read_all(make: Callable[..., Store]) -> None:
    store = make(offline=True)
    for key in KEYS[:500]:
        store.get("labels", key)


@pytest.mark.parametrize("damage", ["garbage", "empty", "truncated", "header"])
def test_a_damaged_database_is_set_aside(  # K01
    make: Callable[..., Store], tmp_path: Path, said: list[str], damage: str
) -> None:
    filled(make, 500)
    path = database(tmp_path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "garbage": b"garbage" * 1000,
            "empty": b"",
            "truncated": content[:5000],
            "header": b"x" + content[1:],
        }[damage]
    )
    with pytest.raises(CacheError, match=r"is damaged .* without --offline it is set aside and rebuilt"):
        read_all(make)
    store = make()
    for key in KEYS[:500]:
        assert store.get("labels", key) in (None, key.encode())
    store.put("labels", KEYS[1], b"new")
    store.flush()
    assert store.get("labels", KEYS[1]) == b"new"
    assert any("set aside" in line for line in said)
    assert list(path.parent.glob("cache.db.corrupt-*"))


def test_a_scribble_anywhere_gives_no_wrong_value(make: Callable[..., Store], tmp_path: Path) -> None:  # K01
    filled(make, 800)
    path = database(tmp_path)
    whole = path.read_bytes()
    rng = random.Random(3)
    for _ in range(12):
        start = rng.randrange(len(whole))
        scribble = rng.randbytes(min(65536, len(whole) - start))
        path.write_bytes(whole[:start] + scribble + whole[start + len(scribble) :])
        store = make()
        assert all(store.get("labels", key) in (None, key.encode()) for key in KEYS[:800])
        store.close()
        for aside in path.parent.glob("cache.db*"):
            aside.unlink()
        path.write_bytes(whole)
        (path.parent / "made").touch()


def test_a_changed_value_is_a_counted_miss(
    make: Callable[..., Store], tmp_path: Path, said: list[str]
) -> None:  # K02
    filled(make, 4)
    with sqlite3.connect(database(tmp_path)) as connection:
        values = dict(connection.execute("SELECT key, value FROM Cache").fetchall())
        names = ["L" + key for key in KEYS[:4]]
        flipped = bytearray(values[names[0]])
        flipped[-1] ^= 1
        for name, value in ((names[0], bytes(flipped)), (names[1], values[names[0]][:50]), (names[2], b"")):
            connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (value, name))
    store = make()
    assert [store.get("labels", key) for key in KEYS[:4]] == [None, None, None, KEYS[3].encode()]
    assert store.counts["labels damaged"] == 3
    assert any("damaged" in line for line in said)
    assert sum(payload is None for _, _, payload in store.entries()) == 3


def test_a_planted_pickle_is_never_opened(
    make: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K09
    filled(make, 1)
    opened: list[object] = []
    WATCHED.append(opened)
    bomb = pickle.dumps({"a": 1})
    (tmp_path / "cache" / "v1" / "small" / "x.val").write_bytes(bomb)
    planted = [(4, None, bomb), (4, "x.val", None), (2, "x.val", None), (3, "x.val", None), (1, None, "text")]
    with sqlite3.connect(database(tmp_path)) as connection:
        for place, (mode, filename, value) in enumerate(planted, 1):
            row = ("L" + KEYS[place], 1, mode, filename, value)
            insert = (
                "INSERT INTO Cache (key, raw, mode, filename, value, store_time) VALUES (?, ?, ?, ?, ?, 0)"
            )
            connection.execute(insert, row)
        insert = "INSERT INTO Cache (key, raw, mode, value, store_time) VALUES (?, 0, 1, ?, 0)"
        connection.execute(insert, (pickle.dumps(("L" + KEYS[7],)), b"x"))
    store = make()
    assert [store.get("labels", key) for key in KEYS[1:8]] == [None] * 7
    list(store.entries())
    store.gc(older_than_s=0.0)
    store.put("labels", KEYS[1], b"mine")
    store.flush()
    assert store.get("labels", KEYS[1]) == b"mine"
    cache = open_for_writing(tmp_path / "cache" / "v1" / "small")
    for wrong in ({"a": 1}, (1,), True, None):
        with pytest.raises(TypeError):
            cache.set("key", wrong)
    cache.close()
    WATCHED.clear()
    assert opened == []


WATCHED: list[list[object]] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if WATCHED and event == "pickle.find_class":
        WATCHED[0].append(arguments)


_LOADS, _LOAD = pickle.loads, pickle.load


def _noted(load: Callable[..., Any]) -> Callable[..., Any]:
    def noting(*arguments: Any, **options: Any) -> Any:
        if WATCHED:
            WATCHED[0].append(arguments)
        return load(*arguments, **options)

    return noting


@pytest.fixture(autouse=True, scope="module")
def watched_pickle() -> Iterator[None]:
    pickle.loads, pickle.load = _noted(_LOADS), _noted(_LOAD)
    yield
    pickle.loads, pickle.load = _LOADS, _LOAD


def test_a_database_out_of_reach_is_left_alone(make: Callable[..., Store], tmp_path: Path) -> None:
    filled(make)
    path = database(tmp_path)
    away = path.rename(path.with_name("away"))
    path.symlink_to(path.parent)  # what can't be read for a reason that is none of the database's
    with pytest.raises(CacheError, match=r"cache.db: .*; choose another --cache-dir"):
        make()
    path.unlink()
    away.rename(path)
    assert make().get("labels", KEYS[0]) == KEYS[0].encode()
    assert not list(path.parent.glob("*corrupt*"))


def test_damage_that_cannot_be_renamed_is_missed(
    make: Callable[..., Store], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(make, 500)
    store, offline = make(), make(offline=True)
    path = database(tmp_path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(0).randbytes(path.stat().st_size - 4096))

    def denied(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.rename", denied)
    for key in KEYS[:500]:
        assert store.get("labels", key) in (None, key.encode())
    assert [line for line in said if "can't be set aside (Permission denied)" in line] == said != []
    with pytest.raises(CacheError, match="is damaged"):
        [offline.get("labels", key) for key in KEYS[:500]]


def test_what_another_process_rebuilt_stays(
    make: Callable[..., Store], tmp_path: Path, said: list[str]
) -> None:
    filled(make, 500)
    first, second = make(), make()
    path = database(tmp_path)
    with path.open("r+b") as file:
        file.write(random.Random(0).randbytes(path.stat().st_size))
    for store in (first, second):
        assert store.get("labels", KEYS[0]) is None
        store.put("labels", KEYS[0], b"anew")
        store.flush()
    asides = [found for found in path.parent.glob("cache.db.corrupt-*") if "journal" not in found.name]
    assert len(asides) == len(said) == 1
    assert first.get("labels", KEYS[0]) == b"anew"


CUT_SHORT = (
    "import os, sys; from pathlib import Path; import tgi_stack.answers; from cache.store import Store; "
    "from cache.keys import digest; s = Store(Path(sys.argv[1])); "
    "s.put('labels', digest(b'1'), b'1'); s.flush(); os.truncate(sys.argv[2], 0); "
    "s.put('labels', digest(b'2'), b'2'); s.flush(); "
    "print(s.get('labels', digest(b'1'))); s.close()"
)


def test_a_writer_outlives_a_file_cut_short(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CUT_SHORT, str(tmp_path / "cache"), str(database(tmp_path))]
    done = subprocess.run(command, env=READING, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr
