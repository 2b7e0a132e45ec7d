"""One variant measured in a process of its own: its memory is its own, and it breaks alone."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from tgi_stack import scoring
from tgi_stack.backends import local, workers
from tgi_stack.backends.base import Backend
from tgi_stack.backends.serving import open_served
from tgi_stack.bench import seed, variants, workload
from tgi_stack.bench.tasks import Task
from tgi_stack.bench.variants import Variant
from tgi_stack.engine.load import load
from tgi_stack.errors import FastqwenError, SettingsError
from tgi_stack.settings import Settings

MIB = 2**20
PADDED_SIZE = 32
# The slow ways run over a part of the requests; a rate needs no more.
SHARES = {variants.SEED: 1 / 16, variants.PADDED: 1 / 4}
LEAST = 8

Ask = Callable[[Sequence[Any]], Awaitable[list[Any]]]


@dataclass(frozen=True)
class Found:
    """What was measured: answers a second of each repeat, and beside fp32.

    Attributes:
        first_s: from the start of loading to the end of the first pass (compiling is in it).
        answers: probabilities, or texts, of the requests that are checked.
        right: the share of the labelled requests that were answered rightly.
        reason: why it could not be measured; then all else is empty.
    """

    rates: tuple[float, ...] = ()
    first_s: float = 0.0
    peak_mib: float | None = None
    answers: tuple[Any, ...] = ()
    right: float | None = None
    reason: str = ""


def run(pipe: Connection, variant: Variant, settings: Settings, task: Task, repeats: int) -> None:
    """The process's life: measures and sends a `Found`."""
    try:
        found = asyncio.run(_measure(variant, settings, task, repeats))
    except FastqwenError as error:
        found = Found(reason=str(error))
    except Exception as error:  # noqa: BLE001  # the table's row says what happened
        found = Found(reason=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    pipe.send(found)


async def _measure(variant: Variant, settings: Settings, task: Task, repeats: int) -> Found:
    began = time.perf_counter()
    ask, close, device = await _open(variant, settings, task)
    try:
        share = SHARES.get(variant.how, 1.0)
        part = workload.part(task.requests, share, LEAST)
        checked = await ask(task.requests[: task.checked])
        await ask(part[: max(1, len(part) // 4)])
        first_s = time.perf_counter() - began
        rates = []
        for _ in range(repeats if share == 1.0 else max(2, repeats // 2)):
            start = time.perf_counter()
            await ask(part)
            rates.append(len(part) / (time.perf_counter() - start))
        right = _right(task, await ask(task.labelled)) if task.labelled else None
    finally:
        await close()
    return Found(tuple(rates), first_s, _peak_mib(device, variant), tuple(checked), right)


async def _open(
    variant: Variant, settings: Settings, task: Task
) -> tuple[Ask, Callable[[], Awaitable[None]], torch.device]:
    found = None if variant.how == variants.SERVER else local.plan(settings, task.kind, print_nothing)
    device = torch.device("cpu") if found is None else found.placements[0].device
    if found is not None and variant.how in (variants.SEED, variants.PADDED):
        model = load(found.checkpoint, task.kind, found.placements[0], print_nothing)
        size = 1 if variant.how == variants.SEED else PADDED_SIZE
        tokenizer, grid = found.profile.tokenizer, found.profile.grid

        async def alone(requests: Sequence[Any]) -> list[Any]:
            if task.kind == "text":
                return list(seed.score(model, requests, size))
            return list(seed.write(model, tokenizer, grid, requests, size))

        async def nothing() -> None:
            pass

        return alone, nothing, device
    if variant.how == variants.DEVICES and found is not None and len(found.placements) < 2:
        raise SettingsError("there is one GPU here")
    backend: Backend
    if variant.how == variants.SERVER:
        backend = await open_served(settings, task.kind, print_nothing)
    else:
        backend = workers.open_torch(settings, task.kind, print_nothing)

    async def together(requests: Sequence[Any]) -> list[Any]:
        limit = asyncio.Semaphore(backend.appetite)

        async def one(request: Any) -> Any:
            async with limit:
                if task.kind == "text":
                    return scoring.softmax((await backend.score(request)).logprobs)
                return (await backend.caption(request)).text

        return await asyncio.gather(*map(one, requests))

    return together, backend.aclose, device


def print_nothing(line: str) -> None:
    """The table is what is printed."""


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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
