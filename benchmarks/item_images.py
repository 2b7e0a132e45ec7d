"""Rankings of candidates that are pictures, a second: packed beside transformers' padded forward.

    python benchmarks/item_images.py [--shape qwen3-vl-2b] [--rows 96] [--candidates 20] [--side 224]

Weights, pictures and tokens are random. Rows draw their candidates from `--catalogue` pictures, so
that some are seen again: the packed way keeps their features for the run, and begins each pass without any.
`apart` is the largest difference of a probability from the padded way, which ranks its first rows alone.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from engine_options import engine_options
from tgi_stack.bench import workload
from tgi_stack.bench.timing import MIB, measure
from tgi_stack.engine.label_scores import Reading, whole
from tgi_stack.engine.models.shapes import random_model
from tgi_stack.engine.placement import choose
from tgi_stack.engine.runtime import Runtime
from tgi_stack.engine.score_images import score_images
from tgi_stack.engine.switches import Switches
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.scoring import distributions
from tgi_stack.tiny import TINY
from tgi_stack.types import PreparedImage, ScoreRequest

GRID = Grid(factor=32, min_pixels=1_024, max_pixels=16_777_216)
WORDS = 12  # tokens of text beside each picture
PADDED_ROWS, PADDED_AT_ONCE = 16, 8


def requests_of(args: argparse.Namespace, config: Any) -> list[ScoreRequest]:
    """A row's candidates one after the other: some words, then the picture."""
    draws = random.Random(0)  # noqa: S311  # no secrets
    shown: Sequence[PreparedImage] = workload.images(args.catalogue, args.side)
    seen = GRID.tokens(args.side, args.side)
    visual = [config.vision_start_token_id, *[config.image_token_id] * seen, config.vision_end_token_id]
    labels = tuple(range(32, 32 + args.candidates))
    made = []
    for _ in range(args.rows):
        chosen = draws.sample(shown, args.candidates)
        ids = [token for _ in chosen for token in (*draws.choices(range(500), k=WORDS), *visual)]
        made.append(ScoreRequest("", (*ids, *draws.choices(range(500), k=WORDS)), (), labels, tuple(chosen)))
    return made


def arguments() -> argparse.Namespace:
    parser = engine_options(__doc__, "qwen3-vl-2b")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--catalogue", type=int, default=500)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    placement = choose(args.device, "auto")
    device = placement.device
    model = random_model(args.shape, placement)
    requests = requests_of(args, model.config)
    tokenizer = Tokenizer(TINY / "vision" / "tokenizer.json")
    runtime = Runtime(model, Switches(), tokenizer=tokenizer, grid=GRID, kind="vision")

    def padded(rows: Sequence[ScoreRequest]) -> list[Reading]:
        parts = [rows[start : start + PADDED_AT_ONCE] for start in range(0, len(rows), PADDED_AT_ONCE)]
        return [one for part in parts for one in score_images(model, GRID, part)]

    def packed(rows: Sequence[ScoreRequest]) -> list[Reading]:
        if runtime._sight is not None:
            runtime._sight.forget()
        return runtime.score_images(rows)

    ways: list[tuple[str, Callable[[Sequence[ScoreRequest]], list[Reading]], list[ScoreRequest]]] = [
        ("padded, by transformers", padded, requests[:PADDED_ROWS]),
        ("packed", packed, requests),
    ]
    table = Table("way", "rows/s", "pictures/s", "range of rows/s", "peak MiB", "apart")
    exact: list[tuple[float, ...]] = []
    for name, way, rows in ways:
        found = [distributions.softmax(one.logprobs) for one in whole(way(rows[:PADDED_ROWS]))]
        exact = exact or found
        gap = max(abs(a - b) for x, y in zip(found, exact, strict=True) for a, b in zip(x, y, strict=True))
        measured = measure(lambda: way(rows), device, repeats=args.repeats)  # noqa: B023
        median, low, high = measured.rate(len(rows))
        peak = "" if measured.peak_bytes is None else f"{measured.peak_bytes / MIB:.0f}"
        pictures = f"{median * args.candidates:,.0f}"
        table.add_row(name, f"{median:.2f}", pictures, f"{low:.2f}-{high:.2f}", peak, f"{gap:.1e}")
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    tokens = workload.mean_length(requests)
    console = Console(width=120)
    console.print(
        f"{args.shape}, {placement.dtype_name}, {what}, torch {torch.__version__}: {args.rows} rows of"
    )
    console.print(
        f"{args.candidates} pictures of {args.side} x {args.side} pixels, {tokens:.0f} tokens a row"
    )
    console.print(table)


if __name__ == "__main__":
    main()
