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
from tgi_stack.backends.torch.backend import open_local, plan
from tgi_stack.errors import FastqwenError, MachineError
from tgi_stack.settings import Settings

SAY, READY = "say", "ready"
CLOSE = None


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
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # who asked is gone
        asyncio.run(_serve(_Parent(pipe, level), settings, kind))


class _Parent:
    """The pipe to the parent process; what modules say here goes there too, from any thread."""

    def __init__(self, pipe: Connection, level: int) -> None:
        self.recv = pipe.recv
        self._pipe = pipe
        self._turn = threading.Lock()
        logs.pass_on(lambda record: self.send((SAY, record, None)), level)

    def send(self, message: object) -> None:
        with self._turn:
            self._pipe.send(message)


async def _serve(pipe: _Parent, settings: Settings, kind: str) -> None:
    try:
        backend = open_local(plan(settings, kind))
    except FastqwenError as error:
        pipe.send((READY, _portable(error), None))
        return
    pipe.send((READY, backend.max_concurrency, None))
    running: set[asyncio.Task[None]] = set()

    async def answer(number: int, question: str, request: Any) -> None:
        try:
            result = await getattr(backend, question)(request)
        except Exception as error:  # noqa: BLE001  # whatever it is, the one who asked is told
            pipe.send((number, None, _portable(error)))
        else:
            pipe.send((number, result, None))

    try:
        while (message := await asyncio.to_thread(pipe.recv)) is not CLOSE:
            task = asyncio.create_task(answer(*message))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        await backend.aclose()


def _portable(error: Exception) -> Exception:
    """The error itself where it survives the pipe, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own object, made a moment ago
    except Exception:  # noqa: BLE001  # errors are free to be unpicklable in any way
        return MachineError(f"{type(error).__name__}: {error}")
    return error
