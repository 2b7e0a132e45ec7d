"""Where a server can't give an exact answer torch computes the row, or bounds stand, or it fails.

A row's whole distribution is replaced, never single labels: numbers of two computations don't add up to one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from tgi_stack.answers.tables import STOOD_IN
from tgi_stack.backends.base import Backend
from tgi_stack.backends.work import Work, busy
from tgi_stack.errors import (
    FastqwenError,
    MachineError,
    NoEngineError,
    ScoreError,
    UsageError,
    WrongServerError,
)
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

LOG = logging.getLogger(__name__)

UNSEEN = "score.unseen"


class FallbackBackend:
    """Servers, with something behind them for the rows that they can't answer exactly.

    Args:
        mode: `torch`, `bounds`, `fail`; None for torch if its weights are on this machine, else bounds.
        open_torch: opens the same model in process; takes seconds.
        opened: is told who that is.
    """

    def __init__(
        self,
        served: Backend,
        mode: str | None,
        open_torch: Callable[[], Backend],
        opened: Callable[[Identity], None] = lambda identity: None,
    ) -> None:
        self._served = served
        self._mode = mode
        self._open_torch = open_torch
        self._told = opened
        self._torch: Backend | None = None
        self._opening = asyncio.Lock()
        self.identity = served.identity
        self.profile = served.profile
        self.max_concurrency = served.max_concurrency
        self.takes_tokens = served.takes_tokens

    @property
    def work(self) -> Work:
        """What the servers are at."""
        return busy(self._served).work

    async def score(self, request: ScoreRequest) -> LabelScores:
        failure: ScoreError | None = None
        try:
            scores = await self._served.score(request)
            if scores.exact:
                return scores
        except ScoreError as error:
            if error.type != UNSEEN:
                raise
            failure = error
        if self._mode in ("torch", None) and (torch := await self._opened()) is not None:
            found = await torch.score(request)
            return replace(found, flags=(*found.flags, STOOD_IN), stand_in=torch.identity)
        if failure is not None:
            raise failure
        if self._mode == "fail":
            raise ScoreError(
                "score.inexact",
                "the server shows too few tokens for an exact answer; --fallback torch or bounds gives one",
            )
        return scores

    async def stand_in(self) -> Identity | None:
        torch = await self._opened()
        return None if torch is None else torch.identity

    async def _opened(self) -> Backend | None:
        """Torch, opened at first need; None where its weights are not here and nobody asked for it."""
        async with self._opening:
            if self._torch is None and self._mode in ("torch", None):
                try:
                    opened = await asyncio.to_thread(self._open_torch)
                    self._refuse_another_model(opened)
                    self._torch = opened
                    self._told(opened.identity)
                except (NoEngineError, MachineError, UsageError, WrongServerError) as error:
                    if self._mode == "torch":
                        raise _unavailable(error) from error
                    LOG.warning(f"some labels are not shown by the server and are given as bounds ({error})")
                    self._mode = "bounds"
        return self._torch

    def _refuse_another_model(self, torch: Backend) -> None:
        ours, theirs = torch.identity, self.identity
        if ours.tokenizer != theirs.tokenizer:
            raise WrongServerError(f"the tokenizer of {ours.model} here is not the server's")
        if "unknown" not in (ours.revision, theirs.revision) and ours.revision != theirs.revision:
            raise WrongServerError(
                f"{ours.model} here is revision {ours.revision}, the server's is {theirs.revision}"
            )

    async def caption(self, request: CaptionRequest) -> Caption:
        return await self._served.caption(request)

    async def aclose(self) -> None:
        await self._served.aclose()
        if self._torch is not None:
            await self._torch.aclose()


def _unavailable(error: FastqwenError) -> NoEngineError:
    return NoEngineError(f"--fallback torch: {error}; or use --fallback bounds")
