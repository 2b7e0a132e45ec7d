"""What a worker process does: opens the backend on its device and answers what comes over the pipe."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from tgi_stack import logs
from tgi_stack.backends.torch.backend import LocalBackend, open_local, plan
from tgi_stack.backends.torch.pipe import Sender, received
from tgi_stack.errors import FastqwenError, MachineError
from tgi_stack.settings import Settings

SAY, READY = "say", "ready"
LAST_WORDS_S = 5.0


def work(pipe: Connection, settings: Settings, kind: str, share: int, level: int) -> None:
    """The process's life: says that it is ready (or what stood in the way), answers, ends with the pipe.

    Args:
        share: how many workers there are on this CPU.
        level: from which on the parent wants to hear what is said here.
    """
    # Ctrl-C reaches all processes of a terminal; the first one decides when the others end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if share > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // share))
    sender = Sender(pipe)
    logs.pass_on(lambda record: sender.put((SAY, record, None)), level)
    try:
        backend = open_local(plan(settings, kind))
    except FastqwenError as error:
        sender.put((READY, _portable(error), None))
    else:
        sender.put((READY, backend.max_concurrency, None))
        asyncio.run(_serve(pipe, sender, backend))
    sender.close(LAST_WORDS_S)


async def _serve(pipe: Connection, sender: Sender, backend: LocalBackend) -> None:
    """Answers until the parent closes the pipe or is gone."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    running: set[asyncio.Task[None]] = set()

    async def answer(number: int, question: str, request: Any) -> None:
        try:
            result = await getattr(backend, question)(request)
        except Exception as error:  # noqa: BLE001  # whatever it is, the one who asked is told
            sender.put((number, None, _portable(error)))
        else:
            sender.put((number, result, None))

    def take(batch: list[tuple[Any, ...]]) -> None:
        for asked in batch:
            task = loop.create_task(answer(*asked))
            running.add(task)
            task.add_done_callback(running.discard)

    def listen() -> None:
        with suppress(RuntimeError):  # the loop is closed
            for batch in received(pipe):
                loop.call_soon_threadsafe(take, batch)
            loop.call_soon_threadsafe(over.set)

    threading.Thread(target=listen, name="listener", daemon=True).start()
    try:
        await over.wait()
    finally:
        await backend.aclose()


def _portable(error: Exception) -> Exception:
    """The error itself where it survives the pipe, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own object, made a moment ago
    except Exception:  # noqa: BLE001  # errors are free to be unpicklable in any way
        return MachineError(f"{type(error).__name__}: {error}")
    return error
