"""Whole files: they appear when all of them is written, and replace nothing unasked."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cache.bundle import export_bundle
from cache.errors import RefusedBundleError
from cache.storage import atomic
from cache.storage.atomic import RefusedError, replacing
from cache.store import Store


def write(path: Path, content: bytes = b"new", *, force: bool = False, reads: tuple[Path, ...] = ()) -> None:
    with replacing(path, force=force, reads=reads) as file:
        file.write(content)


def test_a_file_is_replaced_when_told_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(RefusedError, match="is there already; to replace it: --force"):
        write(path)
    assert path.read_bytes() == b"old"
    write(path, force=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_what_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(RefusedError, match="is there by now"), replacing(path, force=False):
        path.write_bytes(b"of another")
    assert path.read_bytes() == b"of another"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("way", ["same", "hard", "soft", "through"])
def test_what_is_read_is_never_replaced(tmp_path: Path, way: str) -> None:
    (tmp_path / "folder").mkdir()
    source = tmp_path / "source"
    source.write_bytes(b"source")
    path = source if way == "same" else tmp_path / "other"
    if way == "hard":
        os.link(source, path)
    if way == "soft":
        path.symlink_to(source)
    if way == "through":
        path = tmp_path / "folder" / ".." / "source"
    with pytest.raises(RefusedError, match="is a file that is read here"):
        write(path, force=True, reads=(source,))
    assert source.read_bytes() == b"source"


def test_errors_leave_the_old_file_and_name_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(OSError, match="No space") as caught, replacing(path, force=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == f"{path}{atomic.SUFFIX}"
    with pytest.raises(FileNotFoundError) as missing:
        write(tmp_path / "none" / "file")
    assert "none" in str(missing.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_one_writes_a_file_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path, force=False) as file:
        with pytest.raises(RefusedError, match="another process writes"):
            write(path)
        file.write(b"first")
    assert path.read_bytes() == b"first"


def test_what_a_kill_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.with_name(f"file{atomic.SUFFIX}").write_bytes(b"half of a longer content")
    write(path)
    assert path.read_bytes() == b"new"


def test_devices_are_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(RefusedError, match="is no regular file"):
            write(path, force=True)


def test_an_export_replaces_no_database(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    database = tmp_path / "cache" / "v1" / "small" / "cache.db"
    with pytest.raises(RefusedBundleError, match="is a file that is read here"):
        export_bundle(store, database, None, force=True)
    assert export_bundle(store, tmp_path / "bundle", None) == 0
    with pytest.raises(RefusedBundleError, match="--force"):
        export_bundle(store, tmp_path / "bundle", None)
    store.close()
