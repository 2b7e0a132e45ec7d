"""Matches the answers of two outputs by their ids, in whatever orders, without holding either of them.

As long as both come in nearly one order, few answers wait for their partners. Where too many wait they go to
disk, in files by the digests of their ids, and are matched file by file at the end (Grace hash join,
Kitsuregawa et al. 1983).
"""

from __future__ import annotations

import hashlib
import marshal
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from tgi_stack.errors import InputError
from tgi_stack.rows.looking.per_row import Duplicates, on_disk
from tgi_stack.scoring.agreement.answers import Answer

WAITING = 20_000  # answers that are held in memory
BUCKETS = 64
Pair = tuple[Answer | None, Answer | None]

_LENGTH = struct.Struct("<I")


class Pairing:
    """The pairs of two outputs. A context, which holds temporary files; `pairs` is asked once.

    Args:
        names: what the two are called.
        waiting: how many answers may be held.
    """

    def __init__(self, names: tuple[str, str], *, waiting: int = WAITING) -> None:
        self._names = names
        self._most = waiting
        self._waiting: tuple[dict[str, Answer], dict[str, Answer]] = ({}, {})
        self._ids = (Duplicates(), Duplicates())
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[tuple[int, int], IO[bytes]] = {}

    def __enter__(self) -> Pairing:
        return self

    def __exit__(self, *_: object) -> None:
        for ids in self._ids:
            ids.__exit__(None, None, None)
        for file in self._files.values():
            file.close()
        if self._folder is not None:
            self._folder.cleanup()

    def pairs(self, first: Iterable[Answer], second: Iterable[Answer]) -> Iterator[Pair]:
        """Each id's answers, None where one output has none; an answer without an id is alone.

        Raises:
            InputError: an id that stands twice in one output.
            DiskError: temporary files can't be written.
        """
        for side, found in _in_turn(first, second):
            if found.id is None:
                yield _sided(side, found, None)
                continue
            self._ids[side].add(found.number, found.id)
            partner = self._waiting[1 - side].pop(found.id, None)
            if partner is not None:
                yield _sided(side, found, partner)
            else:
                self._waiting[side][found.id] = found
                if len(self._waiting[side]) > self._most:
                    self._put_down()
        self._refuse_twice()
        if self._folder is not None:
            self._put_down()
        yield from self._rest()

    def _refuse_twice(self) -> None:
        for name, ids in zip(self._names, self._ids, strict=True):
            if (twice := ids.first()) is not None:
                raise InputError(
                    f"{name}: records {twice[0]:,} and {twice[1]:,} have one id; leave one of them out"
                )

    def _rest(self) -> Iterator[Pair]:
        yield from _joined(*self._waiting)
        for bucket in range(BUCKETS):
            sides = [{one.id or "": one for one in self._taken_up(side, bucket)} for side in (0, 1)]
            yield from _joined(*sides)

    def _put_down(self) -> None:
        """Moves what waits to disk."""
        with on_disk():
            for side, waiting in enumerate(self._waiting):
                for id, found in waiting.items():
                    content = marshal.dumps(tuple(found))
                    self._file(side, _bucket_of(id)).write(_LENGTH.pack(len(content)) + content)
                waiting.clear()

    def _file(self, side: int, bucket: int) -> IO[bytes]:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fastqwen-pairs-")
        if (side, bucket) not in self._files:
            self._files[side, bucket] = Path(self._folder.name, f"{side}-{bucket}").open("w+b")  # noqa: SIM115
        return self._files[side, bucket]

    def _taken_up(self, side: int, bucket: int) -> Iterator[Answer]:
        file = self._files.get((side, bucket))
        if file is None:
            return
        with on_disk():
            file.seek(0)
            while head := file.read(_LENGTH.size):
                yield Answer(*marshal.loads(file.read(*_LENGTH.unpack(head))))  # noqa: S302  # our own


def _in_turn(first: Iterable[Answer], second: Iterable[Answer]) -> Iterator[tuple[int, Answer]]:
    """The answers of both, one of each in turn; each with its side."""
    left = {0: iter(first), 1: iter(second)}
    while left:
        for side, answers in list(left.items()):
            found = next(answers, None)
            if found is None:
                del left[side]
            else:
                yield side, found


def _sided(side: int, found: Answer, other: Answer | None) -> Pair:
    return (found, other) if side == 0 else (other, found)


def _joined(first: dict[str, Answer], second: dict[str, Answer]) -> Iterator[Pair]:
    yield from ((found, second.get(id)) for id, found in first.items())
    yield from ((None, found) for id, found in second.items() if id not in first)


def _bucket_of(id: str) -> int:
    # Another digest than that of `Duplicates` is not needed: the two share no file.
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=2).digest()[0] % BUCKETS
