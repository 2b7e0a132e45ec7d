"""Processes behind pipes: what both ends agree on (each part of a message behind its length), and the end."""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import IO

from cache.sharing.patience import stands_still
from cache.system import system

LOG = logging.getLogger(__name__)

LOOK_S = 0.5
MOST_LOOKS = 4  # in a row, at a process that stands still
LENGTH = struct.Struct(">I")
READY = b"ready\n"
# No pipe gives more at once. asyncio would make room for four times as much, which is mapped and given back
# by the system for each read, at three times the cost of the read.
PIPE_BYTES = 2**16


def framed(*parts: bytes) -> bytes:
    """Parts, each behind its length in 4 bytes, big-endian."""
    return b"".join(piece for part in parts for piece in (LENGTH.pack(len(part)), part))


def read_part(file: IO[bytes]) -> bytes:
    """The next part; raises EOFError where there is none."""
    head = file.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    return file.read(LENGTH.unpack(head)[0])


async def stream_of(file: IO[bytes], most: int) -> asyncio.StreamReader:
    """What comes out of a pipe, of which at most some `most` bytes wait here."""
    stream = asyncio.StreamReader(limit=most)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), file
    )
    transport.max_size = PIPE_BYTES  # type: ignore[attr-defined]
    return stream


async def next_part(stream: asyncio.StreamReader) -> bytes:
    """The next part; raises asyncio.IncompleteReadError where there is none."""
    (length,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
    return await stream.readexactly(length)


def kill(process: asyncio.subprocess.Process) -> None:
    """Kills a process that was started in a session of its own, with all that it started; it may have ended.

    Up to Python 3.12 `Process.kill` looks first whether it has, and if so takes its exit status. asyncio then
    looks for that in vain, says so on stderr and makes one up.
    """
    if process.returncode is None:
        system.kill_session(process.pid)


class Watch:
    """Kills a process of ours that stands still (stopped, frozen), which nothing else would ever end.

    Args:
        does: what it is for, as in `a process that {does}`.
    """

    def __init__(self, process: asyncio.subprocess.Process, does: str) -> None:
        self._process = process
        self._does = does
        self._looks = 0
        self._look_later()

    def _look_later(self) -> None:
        self._next = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        if self._process.returncode is not None:
            return
        self._looks = self._looks + 1 if stands_still(self._process.pid) else 0
        if self._looks == MOST_LOOKS:
            line = "process %d, which %s, stands still; it is ended, and what it had in hand is done anew"
            LOG.warning(line, self._process.pid, self._does)
            kill(self._process)
        self._look_later()

    def cancel(self) -> None:
        """Looks no more."""
        self._next.cancel()
