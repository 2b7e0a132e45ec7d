"""What running jobs use stays."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.eviction import oldest, remove
from cache.sharing.active_jobs import ActiveJob, ActiveJobs
from cache.storage.database import Database
from cache.store import Store
from tests.cache.filling import KEYS, database, filled


def test_part_of_a_number_shifts_none_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_job_file_removed_early_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_is_read_during_removal_stays(make: Callable[..., Store], tmp_path: Path) -> None:
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
