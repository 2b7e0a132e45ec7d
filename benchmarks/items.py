"""Items a second where many prompts begin alike: what is computed once, beside whole prompts and the floor.

    python benchmarks/items.py --shared 120 --own 180         # candidates of a query, a prompt each
    python benchmarks/items.py --shared 400 --own 85
    python benchmarks/items.py --orders 4 --history 0.25      # orders of a row's candidates
    python benchmarks/items.py ... --count                    # tokens alone: no network, no time

`tokens` are those that a pass computes for an item, on average. `least` is what they would be if no beginning
were computed twice, however long; `whole` if each were. What shares a beginning sees as many keys as before,
so that a token's operations are then more. `--common` tokens are the same for all queries, as an instruction
is. The time of a CPU is the processors', so that who else uses it counts less. The floor is what
the tokens' operations take at the rate at which the device multiplies large matrices, in the same run.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from engine_options import engine_options
from tgi_stack.bench import roofline
from tgi_stack.bench.timing import synchronise
from tgi_stack.engine.layers.linear import FP8
from tgi_stack.engine.loader import load
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.shapes import random_model, text_config
from tgi_stack.engine.packing import pack
from tgi_stack.engine.placement import Placement, choose
from tgi_stack.engine.runtime import gathered, ops_for
from tgi_stack.engine.scorer import Scorer, options_for
from tgi_stack.engine.switches import Switches
from tgi_stack.hub import locate
from tgi_stack.scoring import distributions
from tgi_stack.types import ScoreRequest

VOCABULARY = {"tiny": 900}
CANDIDATES = 20  # of a prompt that lists them


def pointwise(args: argparse.Namespace, rng: np.random.Generator, vocabulary: int) -> Iterator[list[int]]:
    """A prompt for each candidate of each query."""
    common = rng.integers(0, vocabulary, min(args.common, args.shared))
    for _ in range(args.queries):
        query = np.concatenate((common, rng.integers(0, vocabulary, args.shared - len(common))))
        for _ in range(args.candidates):
            yield np.concatenate((query, rng.integers(0, vocabulary, args.own))).tolist()


def listwise(args: argparse.Namespace, rng: np.random.Generator, vocabulary: int) -> Iterator[list[int]]:
    """A prompt for each order of each row's candidates."""
    tail = rng.integers(0, vocabulary, 15)
    common = rng.integers(0, vocabulary, args.common)
    known = int(args.length * args.history)
    each = (args.length - known - len(tail)) // CANDIDATES
    for _ in range(args.queries):
        history = np.concatenate((common, rng.integers(0, vocabulary, known)))[:known]
        candidates = rng.integers(0, vocabulary, (CANDIDATES, each))
        for shift in distributions.rotations(CANDIDATES, args.orders):
            yield np.concatenate((history, np.roll(candidates, -shift, axis=0).ravel(), tail)).tolist()


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens that a pass computes; the keys that they see, over all of them; prompts."""

    tokens: int
    keys: int
    prompts: int

    def operations(self, config: Any) -> float:
        """As `roofline.text_operations` counts them."""
        key: float = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        prompt: float = 2 * config.hidden_size * config.vocab_size
        token = roofline.text_operations(config, [1]) - key - prompt
        return self.tokens * token + self.keys * key + self.prompts * prompt


def least(prompts: Sequence[ScoreRequest]) -> Work:
    """What there is to do if each beginning were computed once; each prompt keeps its last token."""
    seen: dict[int, int] = {}
    keys = 0
    for prompt in prompts:
        before = 0
        for place, token in enumerate(prompt.token_ids[:-1]):
            before = hash((before, token))
            seen[before] = place + 1
        keys += len(prompt.token_ids)
    return Work(len(seen) + len(prompts), keys + sum(seen.values()), len(prompts))


def packed(batches: Sequence[Sequence[ScoreRequest]], budget: int, *, share: bool) -> Work:
    """What there is to do as they are packed."""
    packs = [one for batch in batches for one in pack([r.token_ids for r in batch], budget, share=share)]
    return Work(
        sum(one.tokens for one in packs),
        sum(int((one.positions + 1).sum(dtype=np.int64)) for one in packs),
        sum(len(one.members) for one in packs),
    )


def spent(device: torch.device, run: Any, repeats: int) -> float:
    """The least seconds of some passes after one to warm up."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds = []
    for _ in range(repeats + 1):
        synchronise(device)
        began = clock()
        run()
        synchronise(device)
        seconds.append(clock() - began)
    return min(seconds[1:])


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of large products, by the clock that the ways are measured by."""
    if device.type == "cuda":
        return roofline.product_rate(device, dtype)
    side = roofline.SIDE["cpu"]
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    return 2 * side**3 / spent(device, lambda: a @ b, roofline.REPEATS)


def model_of(shape: str, placement: Placement) -> Any:
    if shape == "tiny":
        return load(locate("tiny", "text", None), "text", placement)
    return random_model(shape, placement)


def config_of(shape: str) -> Any:
    """What its operations depend on."""
    if shape == "tiny":
        return SimpleNamespace(**locate("tiny", "text", None).config)
    return text_config(shape)


def arguments() -> argparse.Namespace:
    parser = engine_options(__doc__, "qwen3-0.6b", "or tiny")
    parser.add_argument("--queries", type=int, default=20, help="or rows, with --orders")
    parser.add_argument("--candidates", type=int, default=100, help="of a query")
    parser.add_argument("--shared", type=int, default=120, help="tokens that a query's prompts begin with")
    parser.add_argument("--own", type=int, default=180, help="tokens of a candidate")
    parser.add_argument("--common", type=int, default=30, help="of the shared tokens, those of all queries")
    parser.add_argument("--orders", type=int, default=0, help="of a row's candidates, all in each prompt")
    parser.add_argument("--history", type=float, default=0.25, help="share of a prompt before the candidates")
    parser.add_argument("--length", type=int, default=700, help="tokens of such a prompt")
    parser.add_argument("--budget", type=int, help="tokens of a pack")
    parser.add_argument("--batch", type=int, help="prompts that are packed together; as in a job without it")
    parser.add_argument("--count", action="store_true", help="count tokens, and measure nothing")
    return parser.parse_args()


def measured(
    args: argparse.Namespace, model: Any, batches: Sequence[Sequence[ScoreRequest]], device: torch.device
) -> Iterator[tuple[str, float, float]]:
    """Ways, with items a second and how far their probabilities are from those of whole prompts."""
    ways = {"whole": (False, False), "shared": (True, False)}
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0):
        ways["shared, fp8"] = (True, True)
    truth: list[tuple[float, ...]] = []
    for name, (share, fp8) in ways.items():
        network = Network(model, ops_for(device), fp8=fp8)
        options = options_for(network, None)
        scorer = Scorer(network, replace(options, share=share, budget=args.budget or options.budget))
        found = [distributions.softmax(one.logprobs) for batch in batches for one in scorer.score(batch)]
        truth = truth or found
        gap = max(abs(a - b) for x, y in zip(found, truth, strict=True) for a, b in zip(x, y, strict=True))
        seconds = spent(device, lambda: [scorer.score(batch) for batch in batches], args.repeats)  # noqa: B023
        yield name, sum(map(len, batches)) / seconds, gap


def main() -> None:
    args = arguments()
    placement = choose(args.device, "auto")
    device = placement.device
    make = listwise if args.orders else pointwise
    vocabulary = VOCABULARY.get(args.shape, 100_000)
    labels = tuple(range(32, 32 + (CANDIDATES if args.orders else 2)))
    drawn = make(args, np.random.default_rng(0), vocabulary)
    requests = [ScoreRequest("", tuple(ids), (), labels) for ids in drawn]
    size = args.batch or gathered(device, "text", Switches())
    batches = [requests[start : start + size] for start in range(0, len(requests), size)]
    for batch in batches:
        random.Random(0).shuffle(batch)  # noqa: S311  # no secrets
    budget = args.budget or (33_792 if device.type == "cuda" else 2_048)
    whole, shared = (packed(batches, budget, share=share) for share in (False, True))
    counts = {"whole": whole, "shared": shared, "least": least(requests)}
    console = Console(width=120)
    per = args.queries if args.orders else len(requests)
    unit = "a row" if args.orders else "an item"
    config = config_of(args.shape)

    def times(name: str) -> str:
        """Beside one order, which is a part of `whole`."""
        if not args.orders:
            return ""
        tokens = args.orders * counts[name].tokens / whole.tokens
        operations = args.orders * counts[name].operations(config) / whole.operations(config)
        return f", {tokens:.2f} times one order; {operations:.2f} times its operations"

    console.print(f"{len(requests):,} prompts, {size} at once, packs of {budget:,} tokens")
    for name in ("whole", "shared", "least"):
        console.print(f"{name}: {counts[name].tokens / per:.1f} tokens {unit}{times(name)}")
    if args.count:
        return
    model = model_of(args.shape, placement)
    table = Table("way", "items/s", "tokens/s", "of the floor", "apart from whole")
    lengths = [len(request.token_ids) for request in requests]
    operations = roofline.text_operations(model.config, lengths) / whole.tokens
    for name, rate, gap in measured(args, model, batches, device):
        dtype = FP8 if name.endswith("fp8") else placement.dtype
        tokens = rate * counts[name.removesuffix(", fp8")].tokens / len(requests)
        share = tokens * operations / product_rate(device, dtype)
        table.add_row(name, f"{rate:.1f}", f"{tokens:,.0f}", f"{share:.0%}", f"{gap:.1e}")
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, seconds of its processors"
    console.print(f"{args.shape}, {placement.dtype_name}, {what}, torch {torch.__version__}")
    console.print(table)


if __name__ == "__main__":
    main()
