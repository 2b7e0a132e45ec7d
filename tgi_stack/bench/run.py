"""`fastqwen bench`: every row of the seed's table, each in a process of its own, in random order."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from tgi_stack import __version__
from tgi_stack.backends import local
from tgi_stack.bench import child, variants
from tgi_stack.bench.child import Found
from tgi_stack.bench.tasks import CATALOGUE, Sizes, Task, text_task, vision_task
from tgi_stack.bench.variants import BASELINE, VARIANTS, Variant
from tgi_stack.engine.load import VISION_TYPES
from tgi_stack.engine.placement import Placement, choose, devices
from tgi_stack.engine.shapes import kind_of, random_model
from tgi_stack.settings import Settings
from tgi_stack.tiny import TINY

Say = Callable[[str], None]
ON_CPU = Sizes(prompts=96, longest=512, images=24, new_tokens=24, checked=16)
ON_GPU = Sizes(prompts=2048, longest=1024, images=512, new_tokens=96, checked=64)
TRUTH = Variant("fp32, one at a time", variants.SEED)
MINUTES_15 = 900


@dataclass(frozen=True)
class Order:
    """What `fastqwen bench` was asked for beside its settings.

    Attributes:
        random_weights: a shape's name in place of a model.
        labelled: a rerank file whose rows name what is `positive`, with its items.
        only: parts of names; other rows are left out.
        sizes: how much is measured; what suits the device without it.
    """

    random_weights: str | None = None
    labelled: Path | None = None
    items: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    repeats: int = 3
    seed: int = 0
    sizes: Sizes | None = None
    kinds: tuple[str, ...] = ("text", "vision")


@dataclass(frozen=True)
class Line:
    """One row of the table for one kind of task; see `child.Found`.

    Attributes:
        apart: the largest difference of a probability from fp32; for summaries None.
        agreement: how often the first choice, or the whole text, is that of fp32.
    """

    kind: str
    variant: Variant
    found: Found
    apart: float | None
    agreement: float | None


async def bench(settings: Settings, order: Order, say: Say) -> dict[str, Any]:
    """Measures all rows and gives them with what they were measured on, as plain data.

    Raises:
        UsageError, MachineError: an unknown model, a device that is not here.
    """
    placement = choose(devices(settings.device)[0], settings.dtype)
    sizes = order.sizes or (ON_GPU if placement.device.type == "cuda" else ON_CPU)
    lines: list[Line] = []
    with _checkpoint(settings, order, placement, say) as (chosen, kinds):
        for kind in (kind for kind in kinds if kind in order.kinds):
            task = await _task(chosen, kind, sizes, order)
            lines += _table(kind, chosen, task, order, say)
    return {
        "fastqwen": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(placement.device) if placement.device.type == "cuda" else "CPU",
        "dtype": placement.dtype_name,
        "model": order.random_weights or settings.model or "defaults",
        "random_weights": order.random_weights is not None,
        "sizes": asdict(sizes),
        "lines": [_plain(line, lines) for line in lines],
    }


def _table(kind: str, settings: Settings, task: Task, order: Order, say: Say) -> Iterator[Line]:
    truth = _in_process(TRUTH, settings.model_copy(update={"dtype": "fp32"}), _truth_task(task), 2)
    rows = [*VARIANTS, *(variants.server(url) for url in settings.endpoint)]
    rows = [
        row for row in rows if row is BASELINE or not order.only or any(o in row.name for o in order.only)
    ]
    random.Random(order.seed).shuffle(rows)  # noqa: S311  # no secrets
    for row in rows:
        flags = {"engine": "torch", "endpoint": ()} | row.flags
        found = _in_process(row, settings.model_copy(update=flags), task, order.repeats)
        rate = found.reason or f"{statistics.median(found.rates):.2f}/s"
        say(f"{kind}: {row.name}: {rate}")
        yield Line(kind, row, found, _apart(kind, found, truth), _agreement(kind, found, truth))


def _truth_task(task: Task) -> Task:
    return Task(task.kind, task.requests[: task.checked], task.checked)


def _in_process(variant: Variant, settings: Settings, task: Task, repeats: int) -> Found:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    # Not a daemon: on several GPUs it has processes of its own.
    process = context.Process(target=child.run, args=(theirs, variant, settings, task, repeats))
    process.start()
    theirs.close()
    try:
        if not ours.poll(MINUTES_15):
            return Found(reason="it took longer than 15 minutes")
        found = ours.recv()
    except EOFError:
        process.join()
        return Found(reason=f"its process ended with status {process.exitcode}")
    finally:
        process.join(10)
        process.kill()
    return found if isinstance(found, Found) else Found(reason="no answer")


async def _task(settings: Settings, kind: str, sizes: Sizes, order: Order) -> Task:
    plan = local.plan(settings, kind, child.print_nothing)
    tiny = settings.model == "tiny" and CATALOGUE.is_dir()
    if kind == "vision":
        catalogue = CATALOGUE if tiny else None
        return await vision_task(plan.profile, plan.identity, sizes, catalogue)
    labelled, items = order.labelled, order.items
    if tiny and labelled is None:
        labelled, items = CATALOGUE / "sessions.jsonl", (str(CATALOGUE / "items.jsonl"),)
    return await text_task(plan.profile, plan.identity, sizes, labelled, items)


@contextmanager
def _checkpoint(
    settings: Settings, order: Order, placement: Placement, say: Say
) -> Iterator[tuple[Settings, tuple[str, ...]]]:
    """The settings that name the model, and its kinds of task; random weights are a folder for a while."""
    if order.random_weights is None:
        if settings.model in ("tiny", None):
            yield settings, ("text", "vision")
            return
        found = local.plan(settings, "text", say)
        yield (
            settings,
            ("vision",) if found.checkpoint.config.get("model_type") in VISION_TYPES else ("text",),
        )
        return
    kind = kind_of(order.random_weights)
    with tempfile.TemporaryDirectory(prefix="fastqwen-bench-") as name:
        folder = Path(name)
        say(f"random weights of {order.random_weights}'s shape in {folder}")
        random_model(order.random_weights, placement).save_pretrained(folder)
        for file in (TINY / kind).glob("*"):
            if file.name not in ("config.json", "generation_config.json", "model.safetensors", "README.md"):
                shutil.copy(file, folder)
        yield settings.model_copy(update={"model": str(folder)}), (kind,)


def _apart(kind: str, found: Found, truth: Found) -> float | None:
    if kind != "text" or not found.answers or not truth.answers:
        return None
    pairs = zip(found.answers, truth.answers, strict=True)
    return float(max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True)))


def _agreement(kind: str, found: Found, truth: Found) -> float | None:
    if not found.answers or not truth.answers:
        return None
    pairs = zip(found.answers, truth.answers, strict=True)
    if kind == "vision":
        return float(statistics.mean(a == b for a, b in pairs))
    return float(statistics.mean(_first(a) == _first(b) for a, b in pairs))


def _first(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _plain(line: Line, lines: Sequence[Line]) -> dict[str, Any]:
    found, variant = line.found, line.variant
    base = next(one.found for one in lines if one.kind == line.kind and one.variant is BASELINE)
    rate = statistics.median(found.rates) if found.rates else None
    measured = {
        "kind": line.kind,
        "name": variant.name,
        "expected": variant.summaries if line.kind == "vision" else variant.prompts,
        "expected_memory": variant.memory,
        "reason": found.reason,
    }
    if rate is None:
        return measured
    memory = None
    if found.peak_mib and base.peak_mib:
        memory = found.peak_mib / base.peak_mib - 1
    return measured | {
        "rate": rate,
        "range": [min(found.rates), max(found.rates)],
        "speed_up": rate / statistics.median(base.rates) if base.rates else None,
        "peak_mib": found.peak_mib,
        "memory_change": memory,
        "first_s": found.first_s,
        "apart": line.apart,
        "agreement": line.agreement,
        "right": found.right,
    }
