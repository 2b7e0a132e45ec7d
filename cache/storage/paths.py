"""Where the cache lies: folders, permissions, file systems; what is damaged is set aside, never deleted."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from cache.errors import CacheError
from cache.sharing import forks
from cache.sharing.patience import Patience
from cache.storage.codecs import FORMAT
from cache.storage.replacing import ANEW, descriptor_of
from cache.system import system

# SQLite's locks do not hold on these; see its own documentation of corruption.
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "beegfs", "gpfs", "afs", "fuse.sshfs"}
    | {"fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"}
)
LEAST_WAIT_S, MOST_WAIT_S = 0.001, 0.02  # between two tries, each of which wakes a process
COUNTS_S = 1.0  # that a run waits at its end to add its counts
MOUNTS = Path("/proc/self/mounts")


def default(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's cache folder."""
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".cache")
    return Path(base) / "fastqwen" / "cache"


def shared(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a team shares the folder (`FASTQWEN_CACHE_GROUP=1`)."""
    return environ.get("FASTQWEN_CACHE_GROUP") == "1"


def prepare(directory: Path, mounts: Path = MOUNTS, *, offline: bool = False) -> Path:
    """The folder of this format's databases, made where it is missing; nothing is made `offline`.

    Raises:
        CacheError: a network file system, a folder that anybody may write to, or one that can't be made.
    """
    kind = file_system(directory, mounts)
    if kind in NETWORK:
        raise CacheError(
            f"{directory} is on a network file system ({kind}), where SQLite loses data; choose a local "
            "--cache-dir, and hand results over with: fastqwen cache export"
        )
    root = directory / f"v{FORMAT}"
    try:
        if not offline:
            _make_folder(directory, team=shared())
            _make_folder(root, team=_is_teams(directory))
        mode = directory.stat().st_mode if not offline or directory.exists() else 0
    except OSError as error:
        raise CacheError(f"{directory}: {error.strerror}; choose another --cache-dir") from error
    if mode & stat.S_IWOTH:
        raise CacheError(f"anybody may write to {directory}; mend it with: chmod o-w {directory}")
    return root


def make(folder: Path, database: Path) -> None:
    """The folder of a database and its file, with the permissions that all files beside it will have."""
    make_folder(folder)
    if not database.exists():
        touch(database)


@contextlib.contextmanager
def alone(path: Path, most_s: float, patience: Patience) -> Iterator[None]:
    """One process after the other; SQLite's own waiting lets some wait for seconds.

    Raises:
        OSError: the turn did not come within `most_s` seconds.
        StandsStillError: the process whose turn it is stands still.
    """
    touch(path)
    handle = descriptor_of(path, os.O_RDWR)
    forks.close_in_child(handle)
    try:
        _wait_for_lock(handle, path, most_s, patience)
        yield
    finally:
        system.unlock(handle)
        forks.close(handle)


def _wait_for_lock(handle: int, path: Path, most_s: float, patience: Patience) -> None:
    began = time.monotonic()
    while True:
        try:
            system.lock(handle)
        except BlockingIOError:
            now = time.monotonic()
            if now - began > most_s:
                reason = "another process writes to it all the time"
                raise OSError(errno.ETIMEDOUT, reason, str(path)) from None
            patience.check(path)
            time.sleep(min(LEAST_WAIT_S + (now - began) / 4, MOST_WAIT_S))
        else:
            patience.over(path)
            return


def may_write(folder: Path, name: str) -> bool:
    """Whether a database, and files beside it, may be written here."""
    return os.access(folder, os.W_OK) and os.access(folder / name, os.W_OK)


def touch(path: Path) -> None:
    """An empty file that its owner (or group) alone may read and write."""
    mode = 0o660 if _is_teams(path.parent) else 0o600
    with contextlib.suppress(FileExistsError):
        handle = descriptor_of(path, ANEW, mode)
        system.set_mode(handle, mode)
        os.close(handle)


def make_folder(folder: Path) -> None:
    """A folder inside the cache's, which a team shares if it does that."""
    _make_folder(folder, team=_is_teams(folder.parent))


def _is_teams(folder: Path) -> bool:
    """Whether a team shares a folder of the cache: also where one of them has not set the variable."""
    both = stat.S_ISGID | stat.S_IWGRP
    return shared() or folder.stat().st_mode & both == both


def _make_folder(folder: Path, *, team: bool) -> None:
    if folder.is_dir():
        return
    mode = 0o2770 if team else 0o700
    folder.mkdir(parents=True, mode=mode, exist_ok=True)
    folder.chmod(mode)


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that a path is on, or will be; `unknown` where it can't be told."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return "unknown"
    place = os.path.realpath(path)
    found, longest = "unknown", -1
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mounted = fields[1].encode().decode("unicode_escape")
        inside = place == mounted or place.startswith(mounted.rstrip("/") + "/")
        if inside and len(mounted) >= longest:
            found, longest = fields[2], len(mounted)
    return found


def set_aside(folder: Path, name: str) -> Path:
    """Renames a damaged database and what belongs to it; gives its new name.

    Raises:
        OSError: it may not be renamed here.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S")
    aside = folder / f"{name}.corrupt-{stamp}"
    count = 0
    while aside.exists():
        count += 1
        aside = folder / f"{name}.corrupt-{stamp}-{count}"
    for ending in ("-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder / f"{name}{ending}", f"{aside}{ending}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder / name, aside)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / "made")
    return aside


def read_counts(path: Path) -> Counter[str]:
    """The counts in a file; none where it can't be read."""
    try:
        return Counter(json.loads(path.read_text()))
    except (OSError, ValueError):
        return Counter()


def add_counts(path: Path, counts: Counter[str], patience: Patience) -> None:
    """Adds to the counts in a file that several processes add to; raises as `alone` does."""
    with alone(path, COUNTS_S, patience), open(path, "r+b", opener=descriptor_of) as file:
        try:
            known = Counter(json.loads(file.read() or b"{}"))
        except ValueError:
            known = Counter()
        text = json.dumps(known + counts).encode()
        file.seek(0)
        file.write(text)
        file.truncate(len(text))
