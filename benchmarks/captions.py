"""Summaries a second of the writing engine, beside transformers' generate and the floor, on one device.

    python benchmarks/captions.py [--shape qwen3-vl-2b] [--images 512] [--new-tokens 96] [--only NAME ...]
    python benchmarks/captions.py --only continuous --slots 128 256 512 --steps 8
    python benchmarks/captions.py --only "256 slots" --slots 256 --schema catalogue

Weights and pictures are random, and an answer never ends by itself: each has --new-tokens tokens. The floor
is the prompt's operations at the rate of large products, and for each token written the weights (shared by
all slots) and its own keys and values at the rate of a large copy, both measured in the same run. With
--schema there is a way whose answers are held to it, over a vocabulary of 151,000; few of them end sooner.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import sample_data
from engine_options import engine_options
from tgi_stack.bench import roofline, workload
from tgi_stack.bench.timing import MIB, measure
from tgi_stack.engine import caption, generator
from tgi_stack.engine.models.shapes import random_model
from tgi_stack.engine.placement import choose
from tgi_stack.engine.runtime import Runtime
from tgi_stack.engine.switches import Switches
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.forms import read_form
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY
from tgi_stack.types import CaptionRequest

GRID = Grid(factor=32, min_pixels=65_536, max_pixels=16_777_216)
Way = Callable[[Sequence[CaptionRequest]], object]


@torch.inference_mode()
def generate(model: Any, size: int, requests: Sequence[CaptionRequest]) -> None:
    """transformers' generate, `size` pictures at a time."""
    for start in range(0, len(requests), size):
        part = requests[start : start + size]
        ids = torch.tensor([request.token_ids for request in part], device=model.device)
        images = [request.image for request in part if request.image is not None]
        new = part[0].max_new_tokens
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            **caption.image_arguments(model, GRID, images, ids),
        )


class Endless(Runtime):
    """Writes on to the last token: random weights end nowhere that means anything."""

    ends = frozenset[int]()


class Held(Runtime):
    """Ends where the schema is complete."""

    @property
    def ends(self) -> frozenset[int]:
        assert self._tokenizer is not None  # noqa: S101  # for the type checker
        return frozenset((self._tokenizer.vocabulary["<|im_end|>"],))


def written(runtime: Runtime, form: str | None, seen: bool, requests: Sequence[CaptionRequest]) -> float:
    """The mean number of tokens that were written; unless `seen`, each picture is looked at anew."""
    if runtime._sight is not None and not seen:
        runtime._sight.forget()
    futures = [runtime.write(replace(request, form=form)) for request in requests]
    return statistics.mean(future.result().completion_tokens for future in futures)


def ways(
    model: Any, slots_of: Sequence[int], schema: str | None, seen: bool
) -> dict[str, tuple[Callable[[], Way], float]]:
    """What is measured, and over which part of the pictures."""
    tokenizer = Tokenizer(TINY / "vision" / "tokenizer.json")

    def ours(**switches: Any) -> Way:
        runtime = Endless(model, Switches(**switches), tokenizer=tokenizer, grid=GRID, kind="vision")
        return partial(written, runtime, None, seen)

    def held(form: str, **switches: Any) -> Way:
        large = Tokenizer(sample_data.large_tokenizer(Path(tempfile.gettempdir()) / "fastqwen-151000.json"))
        runtime = Held(model, Switches(**switches), tokenizer=large, grid=GRID, kind="vision")
        return partial(written, runtime, form, seen)

    found: dict[str, tuple[Callable[[], Way], float]] = {
        "generate, one by one": (lambda: partial(generate, model, 1), 1 / 128),
        "generate, batch 4": (lambda: partial(generate, model, 4), 1 / 32),
        "generate, batch 128": (lambda: partial(generate, model, 128), 1 / 2),
    }
    for slots in slots_of:
        found[f"continuous, {slots} slots"] = (partial(ours, batch_size=slots), 1.0)
        if schema:
            found[f"continuous, {slots} slots, schema"] = (
                partial(held, read_form(schema), batch_size=slots),
                1.0,
            )
    if model.device.type == "cuda":
        found["continuous, 256 slots, fp8"] = (partial(ours, batch_size=256, weights="fp8"), 1.0)
        found["continuous, 256 slots, compiled"] = (partial(ours, batch_size=256, compiled=True), 1.0)
    return found


def run_way(
    name: str, make: Callable[[], Way], requests: Sequence[CaptionRequest], device: torch.device, repeats: int
) -> dict[str, Any]:
    """One line of the table."""
    began = time.perf_counter()
    way: Any = make()
    tokens = way(requests[: max(2, len(requests) // 8)])
    first_s = time.perf_counter() - began
    measured = measure(partial(way, requests), device, repeats=repeats, warm=bool)
    for runtime in getattr(way, "args", ()):
        if isinstance(runtime, Runtime):
            runtime.close()
    peak = None if measured.peak_bytes is None else measured.peak_bytes / MIB
    rate = measured.rate(len(requests))
    return {"name": name, "images/s": rate, "first_s": first_s, "peak_mib": peak, "tokens": tokens}


def table_of(lines: Sequence[dict[str, Any]], least_s: float) -> Table:
    """The lines, slow to fast, beside the floor."""
    table = Table("way", "images/s", "range", "of the floor", "peak MiB", "first s", "tokens")
    for line in sorted(lines, key=lambda line: line["images/s"][0]):
        median, low, high = line["images/s"]
        table.add_row(
            line["name"],
            f"{median:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{median * least_s:.0%}",
            "" if line["peak_mib"] is None else f"{line['peak_mib']:.0f}",
            f"{line['first_s']:.1f}",
            "" if line["tokens"] is None else f"{line['tokens']:.1f}",
        )
    return table


def arguments() -> argparse.Namespace:
    parser = engine_options(__doc__, "qwen3-vl-2b")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--slots", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument(
        "--steps", type=int, default=generator.STEPS_BETWEEN, help="between two looks of the host"
    )
    parser.add_argument("--only", action="append", help="ways whose name contains this")
    parser.add_argument(
        "--seen", action="store_true", help="pictures are seen again: their features are kept"
    )
    parser.add_argument("--schema", help="a file, or catalogue: a way whose answers are held to it")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    generator.STEPS_BETWEEN = args.steps
    placement = choose(args.device, "auto")
    device = placement.device
    model = random_model(args.shape, placement)
    requests = workload.pictures(args.images, args.side, GRID, vars(model.config), args.new_tokens)
    rate, bandwidth = roofline.product_rate(device, placement.dtype), roofline.copy_rate(device)
    prompt, patches = len(requests[0].token_ids), (args.side // 16) ** 2
    least = roofline.writing_seconds(model.config, 256, prompt, args.new_tokens, patches, rate, bandwidth)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    console = Console(width=150)
    console.print(
        f"{name}, torch {torch.__version__}; {args.images} pictures of {args.side} x {args.side} "
        f"({prompt} tokens), {args.new_tokens} new tokens\n"
        f"floor at {rate / 1e12:.2f} TFLOP/s and {bandwidth / 1e12:.3f} TB/s, 256 slots: "
        f"{1 / least:.1f} images/s"
    )
    chosen = [
        (name, *way)
        for name, way in ways(model, args.slots, args.schema, args.seen).items()
        if not args.only or any(o in name for o in args.only)
    ]
    random.Random(0).shuffle(chosen)  # noqa: S311  # no secrets
    lines = []
    for name, make, share in chosen:
        part = requests[: max(2, int(len(requests) * share))]
        lines.append(run_way(name, make, part, device, args.repeats if share == 1 else 1))
        print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    console.print(table_of(lines, least))
    if args.json:
        args.json.write_text(json.dumps({"floor": 1 / least, "lines": lines}))


if __name__ == "__main__":
    main()
