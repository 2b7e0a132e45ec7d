"""How long to wait for a process that holds a lock: a moment, where it stands still.

A process that runs is waited for. One that is stopped, frozen or gone (its children keep its locks) does not
go on by itself: what all of its locks cost a waiter together is `MOST_S`, and half of that for each further
process, so that all of them together cost two seconds (twice as long where they are no jobs of the cache).
The kernel's list of locks tells who holds one; where it tells nothing (other systems than Linux, other
containers) nobody is known to stand still. While that list is read no process of the host can lock anything,
for some milliseconds for each 4 kB of it: sixteen processes that looked while they waited kept each other,
and everybody else, from getting on. So it is read where a job of the cache stands still, or once a wait has
lasted long, and seldom then.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MOST_S = 0.9  # for all that the first process holds, from the moment that it is seen to stand still
CHECK_EVERY_S = 0.05  # at a process that stands still
JOBS_EVERY_S = 0.2  # at the cache's jobs
LONG = 2  # times as long is waited for other programs as for jobs of the cache, before the list is read
LOOK_EVERY_S = 5.0  # at the list, where all run
ANOTHER_S = 2.0  # since the waiter asked last, and it waits anew
LOCKS = Path("/proc/locks")
SHOWN_WORDS = 3  # of a command: its program, script and command, and nothing that may be secret


class StandsStillError(OSError):
    """A process that stands still holds what is needed.

    Attributes:
        pid: the process.
    """

    def __init__(self, pid: int, path: Path) -> None:
        self.pid = pid
        command = _command(pid)
        state = f"({command}) stands still" if command else "is gone, one of its children stays"
        line = (
            f"process {pid} on {socket.gethostname()} {state} and holds {path}; "
            f"let it go on (kill -CONT {pid}) or end it"
        )
        super().__init__(errno.ETIMEDOUT, line)

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass
class _Watched:
    still: bool
    checked_at: float
    since: float
    most_s: float


@dataclass
class _Wait:
    began: float
    last: float
    next_look: float


@dataclass
class Patience:
    """What is known of the processes that one waiter waits for; safe among threads.

    Attributes:
        jobs: the folder in which each job of the cache has a file, named by its process.
    """

    clock: Callable[[], float] = time.monotonic
    jobs: Path | None = None
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _waits: dict[Path, _Wait] = field(default_factory=dict)
    _next_s: float = MOST_S

    def check(self, path: Path) -> None:
        """To be called again and again while a file can't be locked; then `over`.

        Raises:
            StandsStillError: a process that holds it has stood still for too long.
        """
        now = self.clock()
        wait = self._waits.get(path)
        if wait is None or now - wait.last > ANOTHER_S:
            wait = self._waits[path] = _Wait(now, now, now + self._next_s)
        wait.last = now
        if now < wait.next_look:
            return
        if now - wait.began < LONG * self._next_s and not self._a_job_stands():
            wait.next_look = now + JOBS_EVERY_S
            return
        found = holders(path)
        for pid in found:
            self.check_process(pid, path, wait.began)
        stands = any(self._watched[pid].still for pid in found)
        wait.next_look = now + (CHECK_EVERY_S if stands else LOOK_EVERY_S)

    def over(self, path: Path) -> None:
        """The file could be locked."""
        self._waits.pop(path, None)

    def _a_job_stands(self) -> bool:
        """Whether a job of the cache stands still, as far as that can be told without the list of locks."""
        if self.jobs is None:
            return True
        try:
            pids = {int(name.partition("-")[0]) for name in os.listdir(self.jobs)}
        except (OSError, ValueError):
            return True
        # The files of jobs that were killed stay: a process that is gone is no sign here.
        return any(Path(f"/proc/{pid}").exists() and stands_still(pid) for pid in pids)

    def check_process(self, pid: int, path: Path, waits_since: float | None = None) -> None:
        """As `check`, where the holder of `path` is known; one who has waited long looks once more."""
        now = self.clock()
        seen = self._watched.get(pid)
        # Before anybody is passed over, it is looked at again: it may have gone on just now.
        if seen is None or seen.still or now - seen.checked_at >= CHECK_EVERY_S:
            still = pid != os.getpid() and stands_still(pid)
            since = seen.since if seen is not None and seen.still else now
            most_s = seen.most_s if seen is not None else 0.0
            if still and not most_s:
                most_s = self._share()
                if waits_since is not None:
                    since = max(waits_since, now - most_s + CHECK_EVERY_S)
            seen = self._watched[pid] = _Watched(still, now, since, most_s)
        if seen.still and now - seen.since >= seen.most_s:
            raise StandsStillError(pid, path)

    def _share(self) -> float:
        """How long one more process may stand still: half as long as the one before, then no time at all."""
        share, self._next_s = self._next_s, self._next_s / 2
        return share if share >= CHECK_EVERY_S else 0.0

    def refuse(self, path: Path) -> None:
        """To be called before a file is locked.

        Raises:
            StandsStillError: a process that stood still for too long holds it.
        """
        if any(seen.still for seen in list(self._watched.values())):
            for pid in holders(path):
                self.check_process(pid, path)


def holders(path: Path) -> list[int]:
    """The processes that hold a lock on a file, of either kind; none where it can't be told."""
    try:
        lines, about = LOCKS.read_text().splitlines(), path.stat()
    except OSError:
        return []
    exact: set[int] = set()
    alike: set[int] = set()  # layered file systems have another device than their files say
    for words in map(str.split, lines):
        if "->" in words or len(words) < 6:  # one who waits
            continue
        major, minor, inode = words[5].split(":")
        if int(inode) == about.st_ino:
            alike.add(int(words[4]))
            if (int(major, 16), int(minor, 16)) == (os.major(about.st_dev), os.minor(about.st_dev)):
                exact.add(int(words[4]))
    return sorted(pid for pid in exact or alike if pid > 0)


def stands_still(pid: int) -> bool:
    """Whether a process is stopped, traced, frozen or gone."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return LOCKS.exists()
    except OSError:
        return False
    return content.rpartition(")")[2].split()[0] in ("T", "t") or _is_frozen(pid)


def _is_frozen(pid: int) -> bool:
    try:
        group = Path(f"/proc/{pid}/cgroup").read_text().rpartition("0::/")[2].strip()
        return "frozen 1" in Path("/sys/fs/cgroup", group, "cgroup.events").read_text()
    except OSError:
        return False


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    shown = []
    for word in words[:SHOWN_WORDS]:
        if word.startswith("-") or "://" in word:
            break
        shown.append("".join(c if c.isprintable() else "?" for c in word.rpartition("/")[2]))
    return " ".join(shown)
