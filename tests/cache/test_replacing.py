"""Whole files: they appear when all of them is written, and replace nothing unasked."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cache.bundle import export_bundle
from cache.errors import BundleError, RefusedBundleError
from cache.storage import replacing as whole
from cache.storage.replacing import FileLock, HeldError, PresentError, Replacement, replacing
from cache.store import Store


def write(path: Path, content: bytes = b"new", *, force: bool = False) -> None:
    with replacing(path, overwrite=force) as file:
        file.write(content)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_a_file_is_replaced_when_told_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(PresentError, match="is there already"):
        write(path)
    assert path.read_bytes() == b"old"
    write(path, force=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_what_comes_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    path = tmp_path / "file"
    with pytest.raises(PresentError, match="is there by now"), replacing(path, overwrite=False):
        path.write_bytes(b"of another")
    assert path.read_bytes() == b"of another"
    write(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


def refuse_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_errors_leave_the_old_file_and_name_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, b"old")
    with pytest.raises(OSError, match="No space") as caught, replacing(path, overwrite=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == f"{path}.tmp"
    with pytest.raises(FileNotFoundError) as missing:
        write(tmp_path / "none" / "file")
    assert "none" in str(missing.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_one_writes_a_file_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path, overwrite=False) as file:
        with pytest.raises(HeldError, match=r"is being written by process \d+"):
            write(path)
        file.write(b"first")
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("left", ["half", "hard", "soft"])
def test_what_a_kill_left_harms_nothing(tmp_path: Path, left: str) -> None:
    """A run that was killed between its link and its end leaves a second name of the file in place."""
    path, beside, other = tmp_path / "file", tmp_path / "file.tmp", tmp_path / "other"
    path.write_bytes(b"old")
    other.write_bytes(b"precious")
    if left == "half":
        beside.write_bytes(b"half of a longer content")
    elif left == "hard":
        os.link(path, beside)
    else:
        beside.symlink_to(other)
    begun = Replacement(path, overwrite=True)
    assert (path.read_bytes(), other.read_bytes()) == (b"old", b"precious")
    begun.file.write(b"new")
    begun.commit()
    begun.close()
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"precious")


def test_a_lock_is_not_written_through_links(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    (tmp_path / "file.lock").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        write(tmp_path / "file")
    assert other.read_bytes() == b"precious"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_folders_that_can_not_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    whole.sync_folder(tmp_path)


# -- what an export adds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["same", "hard", "soft", "through", "beside"])
def test_what_is_read_is_never_replaced(tmp_path: Path, store: Store, way: str) -> None:
    (tmp_path / "folder").mkdir()
    source = tmp_path / "source"
    path = source if way == "same" else tmp_path / "other"
    if way == "beside":
        source = tmp_path / "other.tmp"
    source.write_bytes(b"source")
    if way == "hard":
        os.link(source, path)
    if way == "soft":
        path.symlink_to(source)
    if way == "through":
        path = tmp_path / "folder" / ".." / "source"
    with pytest.raises(RefusedBundleError, match="is a file that is read here"):
        export_bundle(store, path, None, force=True, reads=(source,))
    assert source.read_bytes() == b"source"
    store.close()


def test_devices_are_never_replaced(tmp_path: Path, store: Store) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(RefusedBundleError, match="is no regular file"):
            export_bundle(store, path, None, force=True)
    store.close()


def test_an_export_replaces_no_database(tmp_path: Path, store: Store) -> None:
    database = tmp_path / "cache" / "v1" / "small" / "cache.db"
    with pytest.raises(RefusedBundleError, match="is a file that is read here"):
        export_bundle(store, database, None, force=True)
    assert export_bundle(store, tmp_path / "bundle", None) == 0
    with pytest.raises(RefusedBundleError, match="is there already; to replace it: --force"):
        export_bundle(store, tmp_path / "bundle", None)
    store.close()


def test_an_export_goes_where_a_link_points(tmp_path: Path, store: Store) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "bundle")
    assert export_bundle(store, tmp_path / "link", None) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "bundle").is_file()
    held = FileLock(tmp_path / "bundle")
    with pytest.raises(RefusedBundleError, match="wait for it"):
        export_bundle(store, tmp_path / "bundle", None, force=True)
    held.release()
    with pytest.raises(BundleError, match="none"):
        export_bundle(store, tmp_path / "none" / "bundle", None)
    store.close()
