"""The cache: correct or absent, whatever is done to its files; and shared by processes without loss."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import codecs, paths
from cache.active_jobs import ActiveJob, ActiveJobs
from cache.bundle import export_bundle, import_bundle
from cache.database import Database, journal_mode, open_for_writing
from cache.errors import BundleError, CacheError, DamagedError
from cache.eviction import Room, oldest, remove
from cache.keys import Keys, digest
from cache.kinds import Kind, register
from cache.leases import Leases
from cache.memo import Memo
from cache.store import Store
from tgi_stack.answers import cache_admin
from tgi_stack.answers.audit import Reasked
from tgi_stack.answers.kinds import KINDS
from tgi_stack.errors import MachineError

KEYS = [digest(b"%d" % number) for number in range(1000)]
NUMBERS = st.one_of(st.integers(), st.booleans(), st.none(), st.floats())
PARTS = st.one_of(st.text(max_size=5), st.binary(max_size=5), NUMBERS)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def open(**options: Any) -> Store:
        stores.append(Store(tmp_path / "cache", **options))
        return stores[-1]

    yield open
    for store in stores:
        store.close()


def database(tmp_path: Path, name: str = "small") -> Path:
    return tmp_path / "cache" / "v1" / name / "cache.db"


def filled(make: Callable[..., Store], count: int = 10) -> None:
    store = make()
    for key in KEYS[:count]:
        store.put("labels", key, key.encode())
    store.close()


# -- keys and envelopes --------------------------------------------------------------------------------


@given(st.dictionaries(st.text(min_size=1, max_size=3), PARTS, max_size=4), st.data())
def test_a_key_is_that_of_its_parts_alone(parts: dict[str, Any], data: st.DataObject) -> None:
    keys = Keys("labels", {"shared": 1})
    shuffled = dict(random.Random(0).sample(list(parts.items()), len(parts)))
    assert keys.key(**parts) == keys.key(**shuffled)
    assert keys.key(**parts) != Keys("labels", {"shared": 2}).key(**parts)
    assert keys.key(**parts) != Keys("summary", {"shared": 1}).key(**parts)
    assert keys.key(**parts) != keys.key(**parts, another=None)
    if parts:
        name = data.draw(st.sampled_from(sorted(parts)))
        other = data.draw(PARTS.filter(lambda value: not same(value, parts[name])))
        assert keys.key(**parts) != keys.key(**parts | {name: other})


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or (a != a and b != b)) and repr(a) == repr(b)


def test_keys_do_not_depend_on_the_process() -> None:  # C12
    code = "from cache.keys import Keys; print(Keys('labels', {'a': 1}).key(b='x', c=None))"
    keys = set()
    for seed in ("0", "1"):
        for flag in ("-O", "-B"):
            run = [sys.executable, flag, "-c", code]
            done = subprocess.run(
                run, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
            )
            keys.add(done.stdout)
    assert len(keys) == 1


@given(st.binary(max_size=300), st.data())
def test_an_envelope_that_was_changed_is_no_value(payload: bytes, data: st.DataObject) -> None:  # K02
    blob = codecs.seal("L", payload)
    assert codecs.unseal("L", blob) == payload
    place = data.draw(st.integers(0, len(blob) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = blob[:place] + bytes([blob[place] ^ 1 << bit]) + blob[place + 1 :]
    for wrong in (changed, blob[:place], blob + b"x", b"", None, "text"):
        with pytest.raises(DamagedError):
            codecs.unseal("L", wrong)
    with pytest.raises(DamagedError):
        codecs.unseal("S", blob)


# -- storing -------------------------------------------------------------------------------------------


def test_what_was_put_is_there_at_once_and_later(make: Callable[..., Store]) -> None:
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


def read_all(make: Callable[..., Store]) -> None:
    store = make(offline=True)
    for key in KEYS[:500]:
        store.get("labels", key)


@pytest.mark.parametrize("damage", ["garbage", "empty", "truncated", "header"])
def test_a_damaged_database_is_set_aside_and_rebuilt(  # K01
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


def test_a_value_changed_in_the_database_is_a_counted_miss(
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


sys.addaudithook(_watch)
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


def test_the_journal_is_one_that_keeps_all_rows(make: Callable[..., Store], tmp_path: Path) -> None:  # K15
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


# -- places --------------------------------------------------------------------------------------------


def test_nobody_else_reads_it(make: Callable[..., Store], tmp_path: Path) -> None:  # K11
    filled(make, 1)
    for path in (tmp_path / "cache").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_team_shares_it(
    make: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTQWEN_CACHE_GROUP", "1")
    old = os.umask(0o077)
    try:
        filled(make, 1)
    finally:
        os.umask(old)
    monkeypatch.delenv("FASTQWEN_CACHE_GROUP")  # one of them forgot
    store = make()
    store.put("labels", KEYS[0], b"x")
    store.flush()
    found = list((tmp_path / "cache").rglob("*"))
    assert any(path.parent.name == "users" for path in found)
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (0o2770 if path.is_dir() else 0o660), path


def test_who_can_not_know_what_is_in_use_does_not_clean_up(
    make: Callable[..., Store], tmp_path: Path
) -> None:
    filled(make)
    (tmp_path / "cache" / "v1" / "users" / "another").mkdir()  # nothing that could be read
    with pytest.raises(MachineError, match="can't be used"):
        cache_admin.collect(make(), "0s", None)
    assert make().get("labels", KEYS[0]) == KEYS[0].encode()


def test_a_folder_that_anybody_writes_to_is_refused(
    make: Callable[..., Store], tmp_path: Path
) -> None:  # K11
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(CacheError, match="chmod o-w"):
        make()


@pytest.mark.parametrize(
    ("kind", "refused"), [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False)]
)
def test_network_file_systems_are_refused(tmp_path: Path, kind: str, refused: bool) -> None:  # K14
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/root / ext4 rw 0 0\nhost:/x {tmp_path}/far\\040away {kind} rw 0 0\n")
    place = tmp_path / "far away" / "cache"
    assert paths.file_system(place, mounts) == kind
    if refused:
        with pytest.raises(CacheError, match="cache export"):
            paths.prepare(place, mounts)
    else:
        assert paths.prepare(place, mounts).is_dir()


def test_a_containers_own_layer_is_named(make: Callable[..., Store], tmp_path: Path) -> None:  # K14
    mounts = tmp_path / "mounts"
    mounts.write_text("overlay / overlay rw 0 0\n")
    found = cache_admin.described(make()) | {"file_system": paths.file_system(tmp_path, mounts)}
    assert any("goes with it" in line for line in cache_admin.lines(found))
    found |= {"file_system": "ext4"}
    assert not any("goes with it" in line for line in cache_admin.lines(found))


def test_it_is_read_where_it_can_not_be_written(
    make: Callable[..., Store], tmp_path: Path, said: list[str]
) -> None:  # C08, K11
    filled(make)
    folder = tmp_path / "cache"
    run = [sys.executable, "-c", READ, str(folder), KEYS[3]]
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        if os.geteuid() == 0:  # permissions bind everybody but root
            for path in [*reversed(tmp_path.parents), tmp_path]:
                if "pytest-" in str(path):
                    path.chmod(path.stat().st_mode | 0o055)
            run = ["setpriv", "--reuid=65534", "--clear-groups", *run]
        done = subprocess.run(run, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=READING)
        database(tmp_path).chmod(0)
        refused = subprocess.run(
            run, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=READING
        )
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)
    if done.returncode and "Permission denied" in done.stderr:
        pytest.skip("another user may not run this Python")
    assert done.stdout.split() == [KEYS[3], "False"], done.stderr
    assert "can only be read here" in done.stderr
    assert "cache.db: Permission denied; choose another --cache-dir" in refused.stderr


READ = (
    "import logging, sys; from pathlib import Path; import tgi_stack.answers; "
    "from cache.store import Store; logging.basicConfig(); "
    "s = Store(Path(sys.argv[1])); "
    "print((s.get('labels', sys.argv[2]) or b'-').decode(), s.writable); "
    "s.put('labels', sys.argv[2], b'x'); s.close()"
)
READING = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}


def fill(path: Path) -> None:
    """Takes all the room that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_said_once_and_costs_no_answer(tmp_path: Path, said: list[str]) -> None:  # X05, C08
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
    monkeypatch.setattr("cache.database.BUSY_S", 0.05)
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


def test_a_reader_that_stays_costs_what_was_to_be_kept_and_no_more(
    make: Callable[..., Store], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if journal_mode() == "wal":
        pytest.skip("readers keep nobody out")
    monkeypatch.setattr("cache.database.BUSY_S", 0.05)
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


def test_who_reads_all_keeps_nobody_from_writing(
    make: Callable[..., Store], tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.database.BUSY_S", 0.05)
    filled(make, 200)
    entries = make().entries()
    next(entries)
    store = make()
    store.put("summary", KEYS[0], b"new")
    store.flush()
    assert store.get("summary", KEYS[0]) == b"new"
    assert said == []
    assert len(list(entries)) == 200  # summaries come after labels


def test_the_writer_outlives_what_it_did_not_expect(
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


def test_a_part_of_a_number_shifts_none_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = ActiveJob(tmp_path / "users")
    whole = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", lambda file, data, at: whole(file, bytes(data[:11]), at))
        for key in KEYS[:5]:
            user.uses("L" + key)
        patch.setattr("os.pwrite", lambda file, data, at: whole(file, bytes(data[:3]), at))
        with pytest.raises(OSError, match="No space"):
            user.uses("L" + KEYS[5])
    user.uses("L" + KEYS[6])
    assert ActiveJobs(tmp_path / "users").now() == {ActiveJob.number_of("L" + key) for key in KEYS[:7]}
    user.close()


def test_a_file_that_was_removed_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, folder = fcntl.flock, tmp_path / "users"
    done: list[set[int]] = []

    def late(file: Any, how: int) -> None:
        if how == fcntl.LOCK_EX and not done:
            done.append(ActiveJobs(folder).now())  # somebody cleans up, just then
        lock(file, how)

    monkeypatch.setattr("fcntl.flock", late)
    user = ActiveJob(folder)
    user.uses("L" + KEYS[0])
    assert ActiveJobs(folder).now() == {ActiveJob.number_of("L" + KEYS[0])}
    user.close()


def test_what_a_job_only_reads_stays_too(make: Callable[..., Store]) -> None:
    filled(make, 300)
    reading = make(offline=True)
    for key in KEYS[:7]:  # few: nothing waits to be told
        reading.get("labels", key)
    assert make().gc(older_than_s=0.0)[0] == 293
    assert all(reading.get("labels", key) for key in KEYS[:7])


def test_what_is_read_while_others_are_removed_stays(make: Callable[..., Store], tmp_path: Path) -> None:
    filled(make, 300)
    opened, reading = Database(database(tmp_path).parent), make()
    found = oldest([opened], time.time())
    batches = 0

    def enough() -> bool:
        nonlocal batches
        batches += 1
        assert reading.get("labels", found[64 * (batches - 1)].name[1:])  # one of those that are next
        return False

    removed = remove(found, enough, ActiveJobs(tmp_path / "cache" / "v1" / "users"))
    assert (batches, removed) == (5, 295)
    assert all(reading.get("labels", found[64 * place].name[1:]) for place in range(5))
    opened.let_go()
    opened.close()


def test_a_whole_database_that_can_not_be_opened_is_left_where_it_is(
    make: Callable[..., Store], tmp_path: Path
) -> None:
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


def test_damage_where_nothing_can_be_renamed_is_missed(
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


def test_what_another_process_rebuilt_is_not_set_aside(
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


def test_a_cache_that_is_not_there_is_not_made_offline(make: Callable[..., Store], tmp_path: Path) -> None:
    store = make(offline=True)
    assert store.get("labels", KEYS[0]) is None
    store.put("labels", KEYS[0], b"x")
    assert (store.kept(), list(store.entries()), store.volume()) == ([], [], 0)
    store.close()
    assert not (tmp_path / "cache").exists()


def test_offline_what_can_not_be_looked_up_is_no_miss(
    make: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.database.BUSY_S", 0.01)
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
    monkeypatch.setattr("cache.database.BUSY_S", 0.01)
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


# -- several at once -----------------------------------------------------------------------------------


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


def test_cleaning_up_beside_writers_loses_nothing_of_theirs(
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
    for _ in range(15):
        process = context.Process(target=_write_for_ever, args=(tmp_path / "cache", acknowledged))
        process.start()
        time.sleep(rng.uniform(0.01, 0.15))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    store = make()
    done = set(acknowledged.read_text().split()) if acknowledged.exists() else set()
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


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("call", "new", "step"),
    [("pwrite64", False, 5), ("fdatasync", False, 4), ("ftruncate", False, 3), ("pwrite64", True, 97)],
)
def test_a_kill_at_every_call_that_writes_leaves_whole_values_or_none(  # K07
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


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_what_a_killed_writer_left_half_written_is_taken_back_by_who_reads(
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


def test_the_size_is_kept_and_what_a_job_uses_stays(make: Callable[..., Store]) -> None:  # K13
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


def test_what_one_job_uses_never_goes_and_more_than_the_size_is_not_kept(
    make: Callable[..., Store], said: list[str]
) -> None:  # K13
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


def test_to_look_for_what_may_go_takes_a_part_of_the_time() -> None:
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


def test_who_waited_for_a_failure_asks_once_for_themselves() -> None:
    asking = most = calls = 0

    async def fails() -> bytes:
        nonlocal asking, most, calls
        calls, asking = calls + 1, asking + 1
        most = max(most, asking)
        await asyncio.sleep(0)
        asking -= 1
        raise ValueError(str(calls))

    async def ask() -> list[Any]:
        memo = Memo[str, bytes](10)
        return await asyncio.gather(*(memo.get("a", fails) for _ in range(1500)), return_exceptions=True)

    assert {type(one) for one in asyncio.run(ask())} == {ValueError}
    assert (calls, most) == (1500, 1499)  # not one after the other


def test_a_failure_that_is_certain_is_told_to_all_who_waited_and_to_nobody_later() -> None:
    calls = 0

    async def fails() -> bytes:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        raise ValueError(str(calls))

    async def ask() -> list[Any]:
        memo = Memo[str, bytes](10, certain=lambda error: isinstance(error, ValueError))
        found = await asyncio.gather(*(memo.get("a", fails) for _ in range(1500)), return_exceptions=True)
        return [*found, *await asyncio.gather(memo.get("a", fails), return_exceptions=True)]

    assert [str(one) for one in asyncio.run(ask())] == ["1"] * 1500 + ["2"]


def test_who_waited_for_a_failure_may_succeed() -> None:
    async def ask() -> None:
        memo = Memo[str, bytes](2, size=len)
        answers: Iterator[ValueError | bytes] = iter([ValueError("theirs"), b"a", b"a"])

        async def compute() -> bytes:
            answer = next(answers)
            await asyncio.sleep(0)
            if isinstance(answer, ValueError):
                raise answer
            return answer

        found = await asyncio.gather(*(memo.get("a", compute) for _ in range(3)), return_exceptions=True)
        assert found[1:] == [b"a", b"a"]
        assert await memo.get("a", compute) == b"a"  # counted once, so that another fits
        assert await memo.get("b", lambda: asyncio.sleep(0, b"b")) == b"b"
        assert await memo.get("a", compute) == b"a"

    asyncio.run(ask())


def test_a_lease_ends_with_its_process(make: Callable[..., Store], tmp_path: Path) -> None:
    make().close()
    path = tmp_path / "cache" / "v1" / "leases"
    hold = "import sys; from pathlib import Path; from cache.leases import Leases; "
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


# -- bundles -------------------------------------------------------------------------------------------


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
    monkeypatch.setattr("cache.writer.MOST_WAITING", 3)
    with monkeypatch.context() as patch:
        patch.setattr("cache.writer.LINGER_S", 0.5)
        with pytest.raises(CacheError, match=r"7 of 10 entries of .* import it again"):
            import_bundle(store, bundle, None)
    monkeypatch.setattr("cache.bundle.FLUSH_EVERY", 2)
    assert import_bundle(store, bundle, None).new == 7
    assert sum(held.entries for held in store.kept()) == 10
    store.close()


def test_what_the_commands_can_not_do_says_what_to_do(
    make: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.database.BUSY_S", 0.01)
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
def test_a_bundle_that_is_cut_short_is_an_error(bundle: Path, tmp_path: Path, cut: int) -> None:
    bundle.write_bytes(bundle.read_bytes()[:cut])
    store = other(tmp_path)
    with pytest.raises(BundleError):
        import_bundle(store, bundle, b"k" * 32)
    store.close()


def test_each_kind_has_a_letter_of_its_own() -> None:
    with pytest.raises(ValueError, match="another kind"):
        register(Kind("another", "L"))
    with pytest.raises(ValueError, match="another kind"):
        register(Kind("labels", "X"))
    register(*KINDS)
