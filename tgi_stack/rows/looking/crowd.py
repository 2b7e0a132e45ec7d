"""Several processes that look at the rows of one input: reading a long one alone takes minutes.

Each has a thread here that hands it a block and waits for what was seen. A process that can't be started,
that ends or stands still is given up: its block is looked at here.
"""

from __future__ import annotations

import marshal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import IO, cast

from cache.sharing.patience import stands_still
from cache.system import system
from tgi_stack.concurrency import cores
from tgi_stack.rows.looking import wire
from tgi_stack.rows.looking.seen import Looker, Seen
from tgi_stack.rows.reader import Line, Source, UnreadRow

LEAST_BYTES = 16 * 2**20  # of an input: a shorter one is looked at sooner than processes are started
MOST = 8  # processes: to read the lines for more takes this one as long as them to look
BLOCK_BYTES, BLOCK_ROWS = 2**20, 2_048
AHEAD = 2  # blocks for each process
LOOK_S = 0.5  # between looks at processes that let wait


def how_many(source: Source) -> int:
    """How many processes are to look at its rows beside this one, which needs a core for itself; 0 for none.

    One more alone would gain nothing: to hand rows over costs as much as to look at them.
    """
    if not system.PIPES_ARE_WATCHED or source.line_bytes() < LEAST_BYTES:
        return 0
    many = min(cores() - 1, MOST)
    return many if many > 1 else 0


def seen_by_many(source: Source, looker: Looker, many: int) -> Generator[Seen, None, None]:
    """All rows of a source, in order, looked at by so many processes, or by this one; see `Source.look`.

    Raises:
        InputError: see `Source.look`.
    """
    if not many:
        yield from map(looker.see, source.look())
        return
    crowd = Crowd(looker, many)
    try:
        yield from crowd.seen(source.look_unread())
    finally:
        crowd.close()


class Crowd:
    """The processes, and the threads that ask them."""

    def __init__(self, looker: Looker, many: int) -> None:
        self._looker = looker
        self._told = wire.told(looker)
        self._waiting = many * AHEAD
        self._threads = ThreadPoolExecutor(many, thread_name_prefix="lookers")
        self._mine = threading.local()
        self._started: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def seen(self, rows: Iterable[UnreadRow]) -> Iterator[Seen]:
        """What is seen of rows, in their order."""
        asked: deque[tuple[Sequence[UnreadRow], Future[wire.Answer] | None]] = deque()
        for block in blocks_of(rows):
            is_lines = isinstance(block[0].value, Line)
            asked.append((block, self._threads.submit(self._look, wire.packed(block)) if is_lines else None))
            if len(asked) > self._waiting:
                yield from self._answered(*asked.popleft())
        while asked:
            yield from self._answered(*asked.popleft())

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        self._closed = True
        for process in self._started:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._started:
            _give_up(process)

    def _answered(self, block: Sequence[UnreadRow], answer: Future[wire.Answer] | None) -> Iterable[Seen]:
        if answer is None:
            return map(self._looker.see_unread, block)
        while not wait([answer], LOOK_S).done:
            self._kill_still()
        return wire.seen_of(block, answer.result(), self._looker)

    def _look(self, block: wire.Block) -> wire.Answer:
        """What is seen of a block: by this thread's process, or by itself where there is none."""
        if not hasattr(self._mine, "process"):
            self._mine.process = self._start()
        process = self._mine.process
        if process is not None:
            try:
                return _asked(process, block)
            except (EOFError, ValueError, TypeError, OSError):
                _give_up(process)
                self._mine.process = None
        if self._closed:
            raise EOFError
        return wire.looked_at(block, wire.looker_of(self._told))

    def _kill_still(self) -> None:
        """Ends processes that stand still: who writes to one, or waits for it, is told by its pipes."""
        for process in self._started:
            if process.poll() is None and stands_still(process.pid):
                process.kill()

    def _start(self) -> subprocess.Popen[bytes] | None:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tgi_stack.rows.looking.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the run
            )
        except OSError:  # no more processes, or files, are allowed
            return None
        self._started.append(process)
        for pipe in (process.stdin, process.stdout):
            system.widen_pipe(cast(IO[bytes], pipe).fileno(), BLOCK_BYTES)
        with suppress(OSError):
            marshal.dump(self._told, cast(IO[bytes], process.stdin))
        return process


def blocks_of(rows: Iterable[UnreadRow]) -> Iterator[list[UnreadRow]]:
    """Rows in blocks, in each of which either all are lines or none is."""
    block: list[UnreadRow] = []
    size = 0
    for row in rows:
        is_line = isinstance(row.value, Line)
        full = size >= BLOCK_BYTES or len(block) >= BLOCK_ROWS
        if block and (full or is_line is not isinstance(block[0].value, Line)):
            yield block
            block, size = [], 0
        block.append(row)
        size += len(row.value.content) if isinstance(row.value, Line) else 0
    if block:
        yield block


def _asked(process: subprocess.Popen[bytes], block: wire.Block) -> wire.Answer:
    """What a process sees of a block.

    Raises:
        EOFError, ValueError, TypeError, OSError: it ended.
    """
    stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    marshal.dump(block, stdin)
    stdin.flush()
    return cast(wire.Answer, marshal.load(stdout))  # noqa: S302  # our own process's words


def _give_up(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()
    process.wait()
