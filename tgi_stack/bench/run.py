"""`fastqwen bench`: the optimisation guide's table, each row in a process of its own, in random order."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from tgi_stack import __version__
from tgi_stack.backends.torch import backend
from tgi_stack.bench import variants
from tgi_stack.bench.child import RowFigures
from tgi_stack.bench.process import in_process
from tgi_stack.bench.results import Results, TableRow
from tgi_stack.bench.tasks import CATALOGUE, Sizes, Task, TaskBuilder
from tgi_stack.bench.variants import BASELINE, PLAIN, VARIANTS, Variant
from tgi_stack.engine.loader import VISION_TYPES
from tgi_stack.engine.models.shapes import kind_of, random_model
from tgi_stack.engine.placement import Placement, choose, devices
from tgi_stack.engine.scorer import release
from tgi_stack.engine.switches import switches_of
from tgi_stack.errors import FastqwenError, UsageError
from tgi_stack.settings import DEFAULT_MODELS, Settings
from tgi_stack.tiny import TINY

LOG = logging.getLogger(__name__)

ON_CPU = Sizes(prompts=96, longest=512, images=24, new_tokens=24, checked=16)
ON_GPU = Sizes(prompts=2048, longest=1024, images=512, new_tokens=96, checked=32)
MOST_TIMES = 4  # so much: to make random prompts and pictures takes a while, too
VISUAL = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
# Pictures are of one size, so that a padded batch of them holds no padding.
TRUTHS = {
    "text": Variant("fp32, one at a time", variants.ONE_BY_ONE),
    "vision": Variant("fp32, in batches", variants.PADDED),
}


@dataclass(frozen=True)
class Order:
    """What `fastqwen bench` was asked for beside its settings.

    Attributes:
        random_weights: a shape's name in place of a model.
        labelled: a rerank file whose rows name what is `positive`, with its items.
        only: parts of names; other rows are left out.
        sizes: how much is measured at most; what suits the device without it.
    """

    random_weights: str | None = None
    labelled: Path | None = None
    items: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    repeats: int = 3
    seed: int = 0
    sizes: Sizes | None = None
    kinds: tuple[str, ...] = ("text", "vision")


def bench(settings: Settings, order: Order) -> Iterator[dict[str, Any]]:
    """Measures all rows: after each, all that is known so far, with what it was measured on, as plain data.

    Raises:
        UsageError, MachineError: an unknown model, a device that is not here.
    """
    placement = choose(devices(settings.device)[0], settings.dtype)
    rows = _rows(settings, order)
    many = any(row.how == variants.DEVICES for row in rows)
    sizes = order.sizes or sizes_on(placement.device, torch.cuda.device_count() if many else 1)
    with _checkpoint(settings, order, placement) as (chosen, found):
        kinds = [kind for kind in found if kind in order.kinds]
        about = _about(settings, order, placement) | {"sizes": asdict(sizes)}
        results = Results(about, [(kind, row.name) for kind in kinds for row in rows])
        for kind in kinds:
            for line in _table(_recipe(settings, order, kind, sizes), chosen, settings, rows, order):
                results.lines.append(line)
                yield results.plain()
                LOG.info(f"{len(results.lines)} of {len(results.planned)}: {_told(line)}")


def sizes_on(device: torch.device, gpus: int) -> Sizes:
    """How much is measured there, with so many GPUs at once: in a pass each wants more than one batch."""
    if device.type != "cuda":
        return ON_CPU
    times = min(max(1, gpus), MOST_TIMES)
    return replace(ON_GPU, prompts=times * ON_GPU.prompts, images=times * ON_GPU.images)


def _about(settings: Settings, order: Order, placement: Placement) -> dict[str, Any]:
    on_gpu = placement.device.type == "cuda"
    return {
        "fastqwen": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(placement.device) if on_gpu else "CPU",
        "dtype": placement.dtype_name,
        "model": order.random_weights or settings.model or "defaults",
        "random_weights": order.random_weights is not None,
    }


def _rows(settings: Settings, order: Order) -> list[Variant]:
    """The baseline, which all else is compared with, what no switch changes, and the others in random order.

    Raises:
        UsageError: --only names no row.
    """
    others = [*VARIANTS[1:], *map(variants.server, settings.endpoint)]
    if unknown := [part for part in order.only if not any(part in row.name for row in (BASELINE, *others))]:
        names = "; ".join(row.name for row in others)
        raise UsageError(f"--only {unknown[0]}: no row's name contains it; there are: {names}")
    chosen = [row for row in others if not order.only or any(part in row.name for part in order.only)]
    random.Random(order.seed).shuffle(chosen)  # noqa: S311  # no secrets
    # A benchmark that is stopped early has what matters most.
    return [BASELINE, *sorted(chosen, key=lambda row: row is not PLAIN)]


def _table(
    recipe: TaskBuilder, settings: Settings, asked: Settings, rows: list[Variant], order: Order
) -> Iterator[TableRow]:
    """Measures the rows of one kind of task.

    Args:
        settings: of the rows that compute here; `asked` are the user's own.
    """
    kind = recipe.kind
    plan = backend.plan(settings, kind)
    task = asyncio.run(recipe.task(plan.profile, plan.identity))
    exact = settings.model_copy(update={"dtype": "fp32"})
    dtype = choose(devices(settings.device)[0], settings.dtype).dtype_name
    truth = in_process(TRUTHS[kind], exact, task, 1, floor_dtypes=(dtype, "fp8"))
    if truth.reason:
        LOG.info(f"{kind}: nothing is compared with fp32: {truth.reason}")
    for row in rows:
        began = time.monotonic()
        found = _measured(row, settings, asked, task, recipe, order.repeats)
        floor = truth.floors.get("fp8" if row.flags.get("quantization") == "fp8" else dtype)
        if floor is not None and row.how == variants.DEVICES:
            floor *= len(devices(str(row.flags["device"])))
        computed_here = row.how != variants.SERVER
        yield TableRow(kind, row, found, truth, time.monotonic() - began, floor if computed_here else None)


def _measured(
    row: Variant, settings: Settings, asked: Settings, task: Task, recipe: TaskBuilder, repeats: int
) -> RowFigures:
    if row.how == variants.SERVER:
        # A server of another model is refused, as in any job; where weights are random any model will do.
        model = None if recipe.random_weights else asked.model_for(recipe.kind) or DEFAULT_MODELS[recipe.kind]
        engine = asked.engine if asked.engine in ("tgi", "vllm", "sglang") else "auto"
        flags = {"engine": engine, "model": model, "revision": asked.revision} | row.flags
        return in_process(row, asked.model_copy(update=flags), recipe, repeats)
    one = settings.model_copy(update={"engine": "torch", "endpoint": ()} | row.flags)
    try:  # what can't be done here needs no process that says so
        names = devices(one.device)
        for name in names:
            switches_of(one, recipe.kind, choose(name, one.dtype))
    except FastqwenError as error:
        return RowFigures(reason=str(error))
    if row.how == variants.DEVICES and len(names) < 2:
        return RowFigures(reason="there is one GPU here")
    return in_process(row, one, task, repeats)


def _told(line: TableRow) -> str:
    found = line.found
    rate = found.reason or f"{statistics.median(found.rates):.2f}/s over {found.requests:,} requests"
    return f"{line.kind}: {line.variant.name}: {rate} ({line.seconds:.0f} s)"


def _recipe(settings: Settings, order: Order, kind: str, sizes: Sizes) -> TaskBuilder:
    tiny = settings.model == "tiny" and order.random_weights is None and CATALOGUE.is_dir()
    labelled, items = order.labelled, order.items
    if tiny and labelled is None:
        labelled, items = CATALOGUE / "sessions.jsonl", (str(CATALOGUE / "items.jsonl"),)
    catalogue = CATALOGUE if tiny else None
    return TaskBuilder(kind, sizes, labelled, items, catalogue, order.random_weights is not None)


@contextmanager
def _checkpoint(
    settings: Settings, order: Order, placement: Placement
) -> Iterator[tuple[Settings, tuple[str, ...]]]:
    """The settings that name the model, and its kinds of task; random weights are a folder for a while."""
    settings = settings.model_copy(update={"engine": "torch"})
    if order.random_weights is None:
        if settings.model in ("tiny", None):
            yield settings, ("text", "vision")
            return
        found = backend.plan(settings, "text")
        sees = found.checkpoint.config.get("model_type") in VISION_TYPES
        yield settings, ("vision",) if sees else ("text",)
        return
    kind = kind_of(order.random_weights)
    with tempfile.TemporaryDirectory(prefix="fastqwen-bench-") as name:
        folder = Path(name)
        LOG.info(f"random weights of {order.random_weights}'s shape in {folder}")
        random_model(order.random_weights, placement).save_pretrained(folder)
        release(placement.device)  # the rows' own processes need it
        _give_tokenizer(folder, kind)
        yield settings.model_copy(update={"model": str(folder)}), (kind,)


def _give_tokenizer(folder: Path, kind: str) -> None:
    """The tokenizer that ships, and its ids of the tokens that stand for an image and around it."""
    for file in (TINY / kind).glob("*"):
        if file.name not in ("config.json", "generation_config.json", "model.safetensors", "README.md"):
            shutil.copy(file, folder)
    config, tiny = (json.loads((place / "config.json").read_text()) for place in (folder, TINY / kind))
    config |= {name: tiny[name] for name in VISUAL if name in tiny}
    (folder / "config.json").write_text(json.dumps(config))
