"""An engine whose weights load when the first question comes: what is in the cache needs none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from tgi_stack.backends.base import Backend
from tgi_stack.backends.work import Work, busy
from tgi_stack.errors import UsageError
from tgi_stack.prompting.profile import Profile
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest


class LazyBackend:
    """Stands for a backend that is known but not opened.

    What the opening raises is raised to whoever asks, now and later: it stops the run before that answer.

    Args:
        open_backend: takes seconds; called once, in a thread, so that rows are read and prepared meanwhile.
        max_concurrency: how many questions it will like to be asked at once.

    Attributes:
        opening_s: what the opening took.
    """

    takes_tokens = True

    def __init__(
        self, identity: Identity, profile: Profile, max_concurrency: int, open_backend: Callable[[], Backend]
    ) -> None:
        self.identity = identity
        self.profile = profile
        self.max_concurrency = max_concurrency
        self.opening_s = 0.0
        self._open = open_backend
        self._opening: Future[Backend] | None = None
        self._backend: Backend | None = None
        self._when_opened: Callable[[], None] = lambda: None
        self._asked = self._closed = False

    def when_opened(self, call: Callable[[], None]) -> None:
        """Has something called, by the first who asks, once the backend is open."""
        self._when_opened = call

    @property
    def work(self) -> Work:
        """What it is at, once it is open."""
        return busy(self._backend).work

    @property
    def is_begun(self) -> bool:
        """Whether it is being opened, or open."""
        return self._opening is not None

    def begin(self) -> Future[Backend]:
        """Begins to open it, unless somebody has: for whoever knows that a question will come."""
        if self._opening is None:
            self._opening = Future()
            # Not of a pool, for which a stopped run would wait; no daemon, as a process that ends while torch
            # works in one is aborted.
            threading.Thread(target=self._work, args=(self._opening,), name="load").start()
        return self._opening

    async def score(self, request: ScoreRequest) -> LabelScores:
        return await (await self._opened()).score(request)

    async def caption(self, request: CaptionRequest) -> Caption:
        if request.image is not None and self.profile.grid is None:
            raise UsageError(f"{self.identity.model} reads no images")
        return await (await self._opened()).caption(request)

    async def _opened(self) -> Backend:
        self._asked = True
        if self._backend is not None:
            return self._backend
        backend = await asyncio.shield(asyncio.wrap_future(self.begin()))
        if self._backend is None:
            self._backend = backend
            self._when_opened()
        return backend

    def _work(self, opening: Future[Backend]) -> None:
        began = time.monotonic()
        try:
            backend = self._open()
        except BaseException as error:  # noqa: BLE001  # whatever it is, those who ask are told
            opening.set_exception(error)
            return
        self.opening_s = time.monotonic() - began
        opening.set_result(backend)
        if self._closed:  # it came too late; closing twice does no harm
            asyncio.run(backend.aclose())

    async def aclose(self) -> None:
        opening = self._opening
        if opening is not None and not self._asked:  # what it says of itself comes before a run's last line
            await asyncio.wait([asyncio.wrap_future(opening)])
        self._closed = True
        if opening is not None and opening.done() and opening.exception() is None:
            await opening.result().aclose()
