"""A fork: the child keeps no lock of its parent's, and uses nothing that is not its own."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tgi_stack.answers  # noqa: F401  # registers the kinds
from cache.errors import CacheError
from cache.keys import digest
from cache.sharing import forks
from cache.sharing.active_jobs import ActiveJobs
from cache.sharing.patience import Patience
from cache.storage import paths
from cache.storage.replacing import FileLock
from cache.store import Store

KEY = digest(b"key")


@contextmanager
def forked() -> Iterator[int]:
    """A child that does nothing until it is killed; it has left its parent's files when this yields."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"!")
            time.sleep(600)
        finally:
            os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def in_child(ask: Callable[[], object]) -> str:
    """What a forked child got, or the error that it met."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(ask()).encode())
        except Exception as error:  # noqa: BLE001  # told to the parent
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        found = file.read()
    os.waitpid(child, 0)
    return found


def test_a_child_does_not_keep_a_job_active(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    store.get("labels", KEY)
    users = tmp_path / "cache" / "v1" / "users"
    with forked():
        assert len(ActiveJobs(users).now()) == 1
        store._job = None  # the job dies, its child lives on
        for descriptor in list(forks._locked):
            forks.close(descriptor)
        assert ActiveJobs(users).now() == set()
    store.close()


def test_a_child_does_not_keep_the_turn(tmp_path: Path) -> None:
    path = tmp_path / "writing"
    with paths.alone(path, 1.0, Patience()):
        child = forked()
        child.__enter__()
        descriptor = next(iter(forks._locked))
        os.close(os.dup(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    with paths.alone(path, 0.0, Patience()):
        pass
    child.__exit__(None, None, None)


def test_a_child_does_not_keep_an_output_locked(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "out")
    with forked():
        os.close(os.dup(lock._file.fileno()))
        os.close(lock._file.fileno())  # as if its process had ended
        FileLock(tmp_path / "out").release()


@pytest.mark.parametrize(
    "use", [lambda store: store.get("labels", KEY), lambda store: store.put("labels", KEY, b"x")]
)
def test_a_store_refuses_work_in_a_child(tmp_path: Path, use: Callable[[Store], object]) -> None:
    store = Store(tmp_path / "cache")
    store.put("labels", KEY, b"value")
    assert "CacheError" in in_child(lambda: use(store))
    assert "open it in the child" in in_child(lambda: use(store))
    assert in_child(store.close) == "None"
    assert store.get("labels", KEY) == b"value"
    store.close()


def test_a_child_opens_a_store_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    store.put("labels", KEY, b"value")
    store.flush()

    def ask() -> bytes | None:
        mine = Store(tmp_path / "cache")
        mine.put("labels", digest(b"another"), b"of the child")
        found = mine.get("labels", KEY)
        mine.close()
        return found

    assert in_child(ask) == "b'value'"
    assert store.get("labels", digest(b"another")) == b"of the child"
    store.close()


def test_forks_beside_a_writer_lose_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    keys = [digest(b"%d" % number) for number in range(300)]
    for place, key in enumerate(keys):
        store.put("labels", key, key.encode())
        if place % 30 == 0:
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0,))
            process.start()
            process.join()
            assert process.exitcode == 0
    store.close()
    again = Store(tmp_path / "cache")
    assert [again.get("labels", key) for key in keys] == [key.encode() for key in keys]
    again.close()


def test_a_store_says_why_it_is_not_pickled(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    with pytest.raises(TypeError, match="can't be pickled; open it in the other process"):
        pickle.dumps(store)
    store.close()
    assert issubclass(CacheError, Exception)


def test_a_reused_number_stays_the_childs(tmp_path: Path) -> None:
    number = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    forks.close_in_child(number)
    os.close(number)  # unheard: nobody has it forgotten
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
    assert other == number
    try:
        assert in_child(lambda: os.write(other, b"!")) == "1"
    finally:
        os.close(other)
        forks.forget(number)
