"""What the process of one row does: opens the engine, warms up, times passes, and tells."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from cache.system import system
from tgi_stack.backends.base import Backend
from tgi_stack.backends.servers.connect import open_served
from tgi_stack.backends.torch import workers
from tgi_stack.backends.torch.backend import plan
from tgi_stack.bench import baseline, variants
from tgi_stack.bench.floor import floors
from tgi_stack.bench.tasks import Task, TaskBuilder
from tgi_stack.bench.variants import Variant
from tgi_stack.engine.loader import VISION_TYPES
from tgi_stack.engine.models import by_transformers
from tgi_stack.errors import FastqwenError
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings

MIB = 2**20
PADDED_SIZE = 32
FIRST = 4  # requests of the first pass that is measured
PASS_S = 5.0  # about what a timed pass takes
MOST_GROWTH = 8.0  # of a pass over the one before it: small batches tell little of large ones
ROOM = 1.5  # what twice the requests take at most where a batch has room for them
FORKED_LATE = "the process that it was forked from had begun to use CUDA"
SERVER_PATIENCE_S = 10.0  # unless --startup-timeout says otherwise

Ask = Callable[[Sequence[Any]], Awaitable[list[Any]]]


@dataclass(frozen=True)
class RowFigures:
    """What was measured: answers a second of each timed pass, and what there was beside.

    Attributes:
        requests: how many a timed pass asks.
        ready_s: from the start of loading to the first timed pass (compiling is in it), less what the
            requests of warming up take at the measured rate.
        answers: probabilities, or texts, of the first requests that are checked.
        comparable: whether they were given to the requests that fp32 was given, by the same weights.
        right: the share of the labelled requests that were answered rightly.
        floors: by dtype; see `floor.floors`.
        reason: why it could not be measured; then all else is empty.
    """

    rates: tuple[float, ...] = ()
    requests: int = 0
    ready_s: float = 0.0
    peak_mib: float | None = None
    answers: tuple[Any, ...] = ()
    comparable: bool = True
    right: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


def run(
    pipe: Connection,
    variant: Variant,
    settings: Settings,
    task: Task | TaskBuilder,
    repeats: int,
    floor_dtypes: Sequence[str] | None = None,
) -> None:
    """The process's life: measures and sends a `RowFigures`; see `process.in_process`."""
    # Ctrl-C reaches all processes of a terminal; the first one decides when the others end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if torch.cuda._is_in_bad_fork():
        pipe.send(RowFigures(reason=FORKED_LATE))
        return
    try:
        found = asyncio.run(_measure(variant, settings, task, repeats, floor_dtypes))
    except FastqwenError as error:
        found = RowFigures(reason=str(error))
    except Exception as error:  # noqa: BLE001  # the table's row says what happened
        found = RowFigures(
            reason=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
    pipe.send(found)


def _end_with_parent() -> None:
    """A benchmark that was killed leaves nothing behind that keeps the device busy."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


async def _measure(
    variant: Variant,
    settings: Settings,
    given: Task | TaskBuilder,
    repeats: int,
    floor_dtypes: Sequence[str] | None,
) -> RowFigures:
    began = time.perf_counter()
    ask, close, device, task = await _open(variant, settings, given)
    opened_s = time.perf_counter() - began
    try:
        if floor_dtypes is not None:
            answers = tuple(await ask(task.requests[: task.checked]))
            network = plan(settings, task.kind).checkpoint.config
            return RowFigures(answers=answers, floors=floors(network, task, device, floor_dtypes))
        warm = await warm_up(ask, task.requests)
        part, rates = task.requests[: warm.count], list(warm.rates)
        while len(rates) < _passes(repeats, rates, len(part)):
            start = time.perf_counter()
            await ask(part)
            rates.append(len(part) / (time.perf_counter() - start))
        right = _right(task, await ask(task.labelled)) if task.labelled else None
    finally:
        await close()
    return RowFigures(
        rates=tuple(rates),
        requests=len(part),
        ready_s=opened_s + max(0.0, warm.seconds - warm.asked / statistics.median(rates)),
        peak_mib=_peak_mib(device, variant),
        answers=tuple(warm.answers[: task.checked]),
        comparable=not (isinstance(given, TaskBuilder) and given.random_weights),
        right=right,
    )


def _passes(repeats: int, rates: Sequence[float], count: int) -> int:
    """How many timed passes are wanted: no more than two where each takes long."""
    return min(repeats, 2) if rates and count / rates[-1] > PASS_S else repeats


@dataclass(frozen=True)
class Warm:
    """What warming up found out.

    Attributes:
        count: how many requests a timed pass asks.
        answers: theirs.
        rates: of a pass that was as good as a timed one.
        asked, seconds: requests of the passes before it was ready, and how long those took.
    """

    count: int
    answers: list[Any]
    rates: tuple[float, ...]
    asked: int
    seconds: float


async def warm_up(ask: Ask, requests: Sequence[Any], clock: Callable[[], float] = time.perf_counter) -> Warm:
    """Asks more and more, until a pass takes long enough to be timed and twice as many would take longer, or
    it asks everything.
    """
    count, asked, seconds = 1, 0, 0.0
    again = False  # the first pass of a size may have compiled something
    enough: Warm | None = None
    longest = math.inf
    while True:
        start = clock()
        answers = await ask(requests[:count])
        took = clock() - start
        if enough is not None and took > longest:
            return enough
        growth = min(MOST_GROWTH, PASS_S / took)
        if again and growth < 2:
            enough, longest = Warm(count, answers, (count / took,), asked, seconds), ROOM * took
            if count == len(requests):
                return enough
            count = min(len(requests), 2 * count)
            continue
        asked, seconds = asked + count, seconds + took
        if count == len(requests):
            return Warm(count, answers, (), asked, seconds)
        again = growth < 2 and count >= min(FIRST, len(requests))
        if not again:
            count = min(len(requests), max(FIRST, int(count * growth)))


async def _open(
    variant: Variant, settings: Settings, given: Task | TaskBuilder
) -> tuple[Ask, Callable[[], Awaitable[None]], torch.device, Task]:
    """How to ask, how to end, where it computes, and what to ask."""
    cpu = torch.device("cpu")
    if isinstance(given, TaskBuilder):
        patience = None if "startup_timeout" in settings.model_fields_set else SERVER_PATIENCE_S
        served = await open_served(settings, given.kind, patience_s=patience)
        task = await given.task(served.profile, served.identity, takes_tokens=served.takes_tokens)
        return _asking(served, task.kind), served.aclose, cpu, task
    found = plan(settings, given.kind)
    device = found.placements[0].device
    if variant.how in (variants.ONE_BY_ONE, variants.PADDED):
        sees = found.checkpoint.config.get("model_type") in VISION_TYPES
        model = by_transformers.load(found.checkpoint, sees=sees, placement=found.placements[0])
        size = 1 if variant.how == variants.ONE_BY_ONE else PADDED_SIZE
        return _alone(model, found.profile, given.kind, size), _nothing, device, given
    backend = workers.open_torch(settings, given.kind)
    return _asking(backend, given.kind), backend.aclose, device, given


def _alone(model: Any, profile: Any, kind: str, size: int) -> Ask:
    """By transformers alone, `size` requests at a time."""

    async def ask(requests: Sequence[Any]) -> list[Any]:
        if kind == "text":
            return list(baseline.score(model, requests, size))
        return list(baseline.write(model, profile.tokenizer, profile.grid, requests, size))

    return ask


def _asking(backend: Backend, kind: str) -> Ask:
    """By a backend, as many at once as it likes."""

    async def ask(requests: Sequence[Any]) -> list[Any]:
        limit = asyncio.Semaphore(backend.max_concurrency)

        async def one(request: Any) -> Any:
            async with limit:
                if kind == "text":
                    return distributions.softmax((await backend.score(request)).logprobs)
                return (await backend.caption(request)).text

        return await asyncio.gather(*map(one, requests))

    return ask


async def _nothing() -> None:
    """What was loaded goes with the process."""


def _right(task: Task, answers: Sequence[Any]) -> float:
    if task.kind == "text":
        hits = [
            max(range(len(p)), key=p.__getitem__) in right
            for p, right in zip(answers, task.right, strict=True)
        ]
    else:
        hits = [all(word in text for word in right) for text, right in zip(answers, task.right, strict=True)]
    return statistics.mean(hits)


def _peak_mib(device: torch.device, variant: Variant) -> float | None:
    """Of the device; of the process where the device is the CPU; unknown where others compute."""
    if variant.how in (variants.SERVER, variants.DEVICES):
        return None
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return system.peak_bytes() / MIB
