"""A worker process for each device; each question goes to whoever has least to do.

A worker opens the same backend on its own device and talks over a pipe; one that ends takes the run with it,
since what is wrong there (a driver, a memory) is nothing that another row would cure. A rerun resumes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from cache.sharing.patience import stands_still
from tgi_stack import logs
from tgi_stack.backends.base import Backend
from tgi_stack.backends.lazy import LazyBackend
from tgi_stack.backends.torch.backend import TorchPlan, open_local, plan
from tgi_stack.backends.torch.pipe import Sender, received
from tgi_stack.backends.torch.worker import READY, SAY, work
from tgi_stack.engine.placement import devices
from tgi_stack.errors import FastqwenError, MachineError, UsageError
from tgi_stack.images.pipe import LOOK_S, MOST_LOOKS
from tgi_stack.prompting.profile import Profile
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

LOG = logging.getLogger(__name__)

END_S = 10.0  # what a worker may take to end


@dataclass(eq=False)
class Worker:
    """One process and what it was asked; futures belong to their loop."""

    device: str
    process: BaseProcess
    pipe: Connection
    sender: Sender
    max_concurrency: int
    asked: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]]] = field(default_factory=dict)
    ended: bool = False


class Workers:
    """Several processes as one backend."""

    takes_tokens = True

    def __init__(self, workers: Sequence[Worker], identity: Identity, profile: Profile) -> None:
        self.identity = identity
        self.profile = profile
        self.max_concurrency = sum(worker.max_concurrency for worker in workers)
        self._workers = workers
        self._numbers = itertools.count()
        for worker in workers:
            threading.Thread(target=_listen, args=(worker,), daemon=True).start()
        threading.Thread(target=_watch, args=(workers,), daemon=True).start()

    async def score(self, request: ScoreRequest) -> LabelScores:
        scores: LabelScores = await self._ask("score", request)
        return scores

    async def caption(self, request: CaptionRequest) -> Caption:
        if request.image is not None and self.profile.grid is None:
            raise UsageError(f"{self.identity.model} reads no images")
        answer: Caption = await self._ask("caption", request)
        return answer

    async def aclose(self) -> None:
        await asyncio.to_thread(_end, self._workers)

    async def _ask(self, question: str, request: object) -> Any:
        worker = min(self._workers, key=lambda one: len(one.asked) / one.max_concurrency)
        number = next(self._numbers)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        worker.asked[number] = (loop, future)
        try:
            if worker.ended:
                raise _gone(worker)
            worker.sender.put((number, question, request))
            return await future
        finally:
            worker.asked.pop(number, None)


def open_torch(settings: Settings, kind: str) -> Backend:
    """The torch engine on the devices that the settings name: in this process, or a process for each.

    Returns when all have loaded the model.

    Raises:
        UsageError, MachineError: see `local.plan`; what one of the processes met while loading.
    """
    return _opened(plan(settings, kind), settings)


def plan_torch(settings: Settings, kind: str) -> LazyBackend:
    """As `open_torch`, but the model is loaded when the first question comes.

    Raises:
        UsageError, MachineError: see `local.plan`.
    """
    found = plan(settings, kind)
    return LazyBackend(
        found.identity, found.profile, found.max_concurrency, partial(_opened, found, settings)
    )


def _opened(found: TorchPlan, settings: Settings) -> Backend:
    names = devices(settings.device)
    if len(names) == 1:
        return open_local(found)
    context = multiprocessing.get_context("spawn")  # a forked process can't use CUDA
    workers: list[Worker] = []
    for number, device in enumerate(names):
        ours, theirs = context.Pipe()
        one = settings.model_copy(update={"device": device})
        share = len(names) if device == "cpu" else 1
        told = (theirs, one, found.kind, share, logs.level())
        process = context.Process(target=work, args=told, daemon=True)
        process.start()
        theirs.close()
        name = f"{device} (worker {number + 1} of {len(names)})"
        workers.append(Worker(name, process, ours, Sender(ours), 1))
    try:
        for worker in workers:
            worker.max_concurrency = _loaded(worker)
    except BaseException:
        _end(workers)
        raise
    return Workers(workers, found.identity, found.profile)


def _loaded(worker: Worker) -> int:
    """Passes on what a worker says while it loads; how much it likes to be asked at once."""
    for batch in received(worker.pipe):
        found = None
        for kind, value, _ in batch:
            if kind == SAY:
                logs.receive(value)
            elif kind == READY:
                found = value
        if isinstance(found, FastqwenError):
            raise found
        if found is not None:
            return int(found)
    raise _gone(worker)


def _listen(worker: Worker) -> None:
    """Hands answers to those who asked, until the worker ends."""
    for batch in received(worker.pipe):
        answers = []
        for number, answer, error in batch:
            if number == SAY:
                logs.receive(answer)
            else:
                answers.append((number, answer, error))
        _settle(worker, answers)
    worker.ended = True
    _settle(worker, [(number, None, _gone(worker)) for number in list(worker.asked)])


def _watch(workers: Sequence[Worker]) -> None:
    """Says of a worker that is waited for and stands still, once each time: nothing else would tell."""
    looks = dict.fromkeys(range(len(workers)), 0)
    while not all(worker.ended for worker in workers):
        time.sleep(LOOK_S)
        for number, worker in enumerate(workers):
            pid = worker.process.pid
            is_still = pid is not None and not worker.ended and worker.asked and stands_still(pid)
            looks[number] = looks[number] + 1 if is_still else 0
            if looks[number] == MOST_LOOKS:
                line = "the process on %s stands still; let it go on (kill -CONT %d) or end it (kill -9 %d)"
                LOG.warning(line, worker.device, pid, pid)


def _settle(worker: Worker, answers: Sequence[tuple[int, object, Exception | None]]) -> None:
    """Tells those who asked, each in its own loop."""
    told: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], object, Exception | None]]] = {}
    for number, answer, error in answers:
        if (entry := worker.asked.get(number)) is not None:
            told.setdefault(entry[0], []).append((entry[1], answer, error))
    for loop, settled in told.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set, settled)


def _set(settled: Sequence[tuple[asyncio.Future[Any], object, Exception | None]]) -> None:
    for future, answer, error in settled:
        if future.done():
            continue
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)


def _gone(worker: Worker) -> MachineError:
    return MachineError(
        f"the process on {worker.device} ended (exit status {worker.process.exitcode}); "
        "run the same command again to go on"
    )


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.sender.close(0.0)
    for worker in workers:
        worker.process.join(END_S)
        if worker.process.is_alive():
            worker.process.kill()
