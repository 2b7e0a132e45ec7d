"""One row of the table in a process of its own: its memory is its own, and it breaks alone."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from tgi_stack.bench import child
from tgi_stack.bench.child import RowFigures
from tgi_stack.bench.tasks import Task, TaskBuilder
from tgi_stack.bench.variants import Variant
from tgi_stack.settings import Settings

MINUTES_15 = 900
# Forked from a process that has imported torch but not touched a device: a row saves ten seconds of imports.
IMPORTED = [
    child.__name__,
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
]
_ways = ["forkserver", "spawn"] if sys.platform == "linux" else ["spawn"]


def in_process(
    variant: Variant,
    settings: Settings,
    task: Task | TaskBuilder,
    repeats: int,
    *,
    floor_dtypes: tuple[str, ...] | None = None,
) -> RowFigures:
    """Measures a row in a process that ends with it.

    Args:
        task: a recipe for a server, whose prompts are written for its own tokenizer.
        floor_dtypes: in place of the row's rate the checked answers, untimed, and the floors of these dtypes.
    """
    # Whether there is a GPU is asked of its driver's library: CUDA itself can't be used after a fork.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context: Any = multiprocessing.get_context(_ways[0])
    if _ways[0] == "forkserver":
        context.set_forkserver_preload(IMPORTED)
    ours, theirs = context.Pipe(duplex=False)
    # Not a daemon: on several GPUs it has processes of its own.
    process = context.Process(target=child.run, args=(theirs, variant, settings, task, repeats, floor_dtypes))
    process.start()
    theirs.close()
    found = _received(ours, process)
    if found.reason == child.FORKED_LATE and len(_ways) > 1:
        _ways.pop(0)
        return in_process(variant, settings, task, repeats, floor_dtypes=floor_dtypes)
    return found


def _received(pipe: Connection, process: BaseProcess) -> RowFigures:
    try:
        if not pipe.poll(MINUTES_15):
            process.kill()
            return RowFigures(reason="it took longer than 15 minutes")
        found = pipe.recv()
    except EOFError:
        process.join()
        return RowFigures(reason=f"its process ended with status {process.exitcode}")
    except BaseException:  # the run is being stopped: nobody waits for this row
        process.kill()
        raise
    finally:
        process.join(10)
        process.kill()
    return found if isinstance(found, RowFigures) else RowFigures(reason="no answer")
