"""Ends what a cluster of our own leaves: run as a program of its own, by the path of this file.

Ray's agents go on when the process that started them is killed. This process waits for the end of its
standard input, which comes whatever that process dies of. Then it ends all that hold files in the folder that
was made for that one cluster, and removes the folder.

    python -I watchdog.py FOLDER PID
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROUNDS = 20  # those that were just being started are found in the next one
PAUSE_S = 0.1


def main() -> None:
    """Waits, then clears up."""
    folder, driver = sys.argv[1], int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    spared = {driver, os.getpid()}
    for _ in range(ROUNDS):
        left = [pid for pid in _holders(folder) if pid not in spared]
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break
        time.sleep(PAUSE_S)
    shutil.rmtree(folder, ignore_errors=True)


def _holders(folder: str) -> Iterator[int]:
    """Processes of ours that were started for the folder, or have a file in it open."""
    if not Path("/proc/self/fd").is_dir():
        yield from _named(folder)
        return
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and _holds(process, folder):
            yield int(process.name)


def _holds(process: Path, folder: str) -> bool:
    try:
        if folder.encode() in (process / "cmdline").read_bytes():
            return True
        return any(os.readlink(one).startswith(folder) for one in (process / "fd").iterdir())
    except OSError:  # it has ended, or is somebody else's
        return False


def _named(folder: str) -> Iterator[int]:
    command = ["/bin/ps", "-axo", "pid=,command="]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    for line in found.stdout.splitlines():
        pid, _, rest = line.strip().partition(" ")
        if folder in rest:
            yield int(pid)


if __name__ == "__main__":
    main()
