"""More questions than are computed at once: with a tier, many rows wait for it together."""

from __future__ import annotations

import asyncio

from tgi_stack.backends.base import Backend, Replaced
from tgi_stack.backends.work import Work, busy
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

LOOKED_UP = {"text": 512, "vision": 128}  # rows at once; those of images hold their files


def ahead(inner: Backend, kind: str, computed: int | None) -> Backend:
    """A backend that may be asked by as many rows as the tier is to be asked about.

    Args:
        kind: `text` or `vision`.
        computed: questions that go on to `inner` at once; None for as many as it likes.
    """
    asked = Ahead if not isinstance(inner, Replaced) else AheadReplaced
    return asked(inner, max(LOOKED_UP[kind], inner.max_concurrency), computed or inner.max_concurrency)


class Ahead:
    """Holds back what is more than `computed`; it does not close what it holds."""

    def __init__(self, inner: Backend, asked: int, computed: int) -> None:
        self.identity = inner.identity
        self.profile = inner.profile
        self.takes_tokens = inner.takes_tokens
        self.max_concurrency = asked
        self._inner = inner
        self._computed = asyncio.Semaphore(computed)

    @property
    def work(self) -> Work:
        """What whoever computes is at."""
        return busy(self._inner).work

    async def score(self, request: ScoreRequest) -> LabelScores:
        async with self._computed:
            return await self._inner.score(request)

    async def caption(self, request: CaptionRequest) -> Caption:
        async with self._computed:
            return await self._inner.caption(request)

    async def aclose(self) -> None:
        pass


class AheadReplaced(Ahead):
    """The same of a backend for which another answers what it can't answer exactly."""

    async def stand_in(self) -> Identity | None:
        return await self._inner.stand_in() if isinstance(self._inner, Replaced) else None
