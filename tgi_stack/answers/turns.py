"""Who computes: of all that ask for one answer at the same time one does, and the others wait for it.

Among the tasks of an event loop by what is pending, among the processes of a host by leases.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from cache.sharing.leases import MOST_WAIT_S, Lease
from cache.store import Store
from tgi_stack.errors import is_certain

Answer = TypeVar("Answer")

LOOK_EVERY_S = 0.02


class Turn(Generic[Answer]):
    """One's turn to give an answer.

    Attributes:
        answer: what another task gave meanwhile; else whoever has the turn sets it.
        lease: keeps other processes from computing.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.lease: Lease | None = None

    @property
    def leased(self) -> bool:
        """Whether other processes are kept from computing; one of them may have done so before."""
        return self.lease is not None

    def handed_over(self) -> Callable[[], None] | None:
        """What ends the lease: to be called once others can read the answer."""
        lease, self.lease = self.lease, None
        return None if lease is None else lease.release


class Turns(Generic[Answer]):
    """Takes turns for each question, and remembers the answers that were asked for last.

    A failure is told to the one who computed, and to those who waited where it is certain for all of them
    (see `errors.is_certain`); else each of those computes once on their own behalf, all at the same time.
    Nobody is told of one that came before they asked. Where whoever computes gives up, another one has the
    turn. Safe among the tasks of one event loop.

    Args:
        store: its leases keep other processes out; None for this process alone.
        kind: what is computed.
        memory: how much is remembered, in the unit of `size`.
        size: of one answer; 1 unless told.
    """

    def __init__(
        self,
        store: Store | None,
        kind: str,
        *,
        memory: int,
        size: Callable[[Answer], int] = lambda answer: 1,
    ) -> None:
        self._store = store
        self._kind = kind
        self._memory = memory
        self._size = size
        self._remembered: OrderedDict[str, Answer] = OrderedDict()
        self._held = 0
        self._pending: dict[str, asyncio.Future[Answer | Exception | None]] = {}

    @asynccontextmanager
    async def turn(self, asked: str) -> AsyncIterator[Turn[Answer]]:
        """A turn for a question: with its answer, or to compute one.

        Raises:
            Exception: what another task failed of, where that is certain.
        """
        waited = False
        while (answer := self._again(asked)) is None and (others := self._pending.get(asked)) is not None:
            came = await asyncio.shield(others)  # whoever gives up waiting does not take it from the others
            if isinstance(came, Exception):
                if is_certain(came):
                    raise came
                waited = True
                break
        if answer is not None:
            yield Turn(answer)
            return
        pending = None if waited else asyncio.get_running_loop().create_future()
        if pending is not None:
            self._pending[asked] = pending
        turn, came = Turn[Answer](), None
        try:
            until = asyncio.get_running_loop().time() + MOST_WAIT_S
            while not self._leased(turn, asked) and asyncio.get_running_loop().time() < until:
                await asyncio.sleep(LOOK_EVERY_S)
            yield turn
            came = turn.answer
            self.remember(asked, turn.answer)
        except Exception as error:
            came = error
            raise
        finally:
            if (release := turn.handed_over()) is not None:
                release()
            if pending is not None:
                del self._pending[asked]
                pending.set_result(came)

    def remember(self, asked: str, answer: Answer | None) -> None:
        """Answers a question that is asked again; what was asked for longest ago is forgotten for it."""
        if answer is None:
            return
        if asked in self._remembered:
            self._held -= self._size(self._remembered[asked])
        self._remembered[asked] = answer
        self._held += self._size(answer)
        while self._held > self._memory:
            _, oldest = self._remembered.popitem(last=False)
            self._held -= self._size(oldest)

    def _leased(self, turn: Turn[Answer], asked: str) -> bool:
        """Whether no other process computes, as far as processes can be kept apart."""
        store = self._store
        if store is None or not store.leases:
            return True
        turn.lease = store.lease(self._kind, asked)
        return turn.leased

    def _again(self, asked: str) -> Answer | None:
        if asked in self._remembered:
            self._remembered.move_to_end(asked)
        return self._remembered.get(asked)
