"""Where the cache lies, and who may read and write it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import CacheError
from cache.storage import paths
from cache.store import Store
from tests.cache.filling import KEYS, READ, READING, database, filled
from tgi_stack.answers import cache_admin
from tgi_stack.errors import MachineError


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


def test_whoever_cannot_read_jobs_removes_nothing(make: Callable[..., Store], tmp_path: Path) -> None:
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


def test_it_is_read_where_writing_is_forbidden(
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
