"""Prompts a second of several GPUs: a network on each, or one network cut in pieces, beside one GPU alone.

    python benchmarks/tensor_parallel.py --shape qwen3-8b --prompts 512
    python benchmarks/tensor_parallel.py --shape tiny --ranks 2 --device cpu --prompts 64 --lengths 64 256

A process for each GPU (`--ranks` of them, all without it). `one` is the first alone, `each` all of them with
a share of the prompts, which is what `--device all` does, and `cut` tensor parallelism: each process has a
share of every layer's heads and of its MLP's columns, and sums what they add to the residual over all, twice
a layer. `apart` is the largest difference of a probability from `one`. `sums` are those of a full pack alone,
by the clock, in a share of the time that the same pack takes `cut`.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any, cast

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from engine_options import engine_options
from tgi_stack.bench import workload
from tgi_stack.bench.timing import synchronise
from tgi_stack.engine.layers.linear import Activations, LinearMap, Pending
from tgi_stack.engine.loader import load
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.shapes import random_model
from tgi_stack.engine.placement import Placement, choose
from tgi_stack.engine.runtime import ops_for
from tgi_stack.engine.scorer import Scorer, options_for
from tgi_stack.hub import locate
from tgi_stack.scoring import distributions
from tgi_stack.types import ScoreRequest

VOCABULARY = {"tiny": 900}
LABELS = 20
COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # cut by what they give
ROWS = ("o_proj", "down_proj")  # cut by what they take


class Summed:
    """A piece of a matrix; what all pieces give is summed over the processes."""

    wants_fp8 = False

    def __init__(self, piece: LinearMap) -> None:
        self._piece = piece

    def __call__(self, x: Activations) -> torch.Tensor:
        product = self._piece(x)
        dist.all_reduce(product)
        return product

    def add(self, residual: torch.Tensor, x: Activations) -> tuple[torch.Tensor, Pending]:
        return residual, self(x)


def cut(model: Any, rank: int, ranks: int) -> None:
    """Leaves this process's share of each layer's heads and columns in a model of transformers'."""
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, module in part.named_children():
                if name in COLUMNS:
                    module.weight.data = module.weight.data.chunk(ranks, 0)[rank].clone()
                    module.out_features //= ranks
                elif name in ROWS:
                    module.weight.data = module.weight.data.chunk(ranks, 1)[rank].clone()
                    module.in_features //= ranks


def network_of(args: Any, placement: Placement, rank: int, ranks: int) -> Network:
    """The network, or of several processes this one's piece of it."""
    if args.shape == "tiny":
        model = load(locate("tiny", "text", None), "text", placement)
    else:
        model = random_model(args.shape, placement)
    if ranks > 1:
        cut(model, rank, ranks)
    network = Network(model, ops_for(placement.device))
    network.heads, network.kv_heads = network.heads // ranks, network.kv_heads // ranks
    for layer in network.layers if ranks > 1 else ():
        for name in ("out", "down"):
            object.__setattr__(layer, name, Summed(getattr(layer, name)))
    return network


@dataclass(frozen=True, slots=True)
class Rank:
    """One process, and what all of them are asked."""

    args: Any
    number: int
    ranks: int
    placement: Placement
    requests: Sequence[ScoreRequest]

    def scorer(self, *, pieces: bool) -> Scorer:
        network = network_of(self.args, self.placement, self.number, self.ranks if pieces else 1)
        # A recorded pass would hold sums, which are to be in the same order in all processes.
        return Scorer(network, replace(options_for(network, None), replay=not pieces))

    def timed(self, run: Callable[[], object]) -> list[float]:
        """Seconds of passes that all processes begin together, until the last has ended."""
        seconds = []
        for _ in range(self.args.repeats + 1):
            self.together()
            began = time.perf_counter()
            run()
            self.together()
            seconds.append(time.perf_counter() - began)
        return seconds[1:]

    def together(self) -> None:
        synchronise(self.placement.device)
        dist.barrier()

    def sums(self, network: Network, budget: int) -> float:
        """Seconds of all sums of a full pack; the last layer's are of last positions alone."""
        rows = torch.randn(budget, network.embedding.shape[1], device=network.device, dtype=network.dtype)

        def run() -> None:
            for _ in range(2 * (len(network.layers) - 1)):
                dist.all_reduce(rows)
                rows.mul_(1 / self.ranks)  # lest they grow

        return statistics.median(self.timed(run))


def measured(rank: Rank) -> dict[str, Any]:
    """Seconds of passes of each way, and probabilities of the whole network's and of the pieces'."""
    whole = rank.scorer(pieces=False)
    own = list(rank.requests[rank.number :: rank.ranks])
    found: dict[str, Any] = {
        "one": rank.timed(lambda: whole.score(rank.requests) if rank.number == 0 else None),
        "each": rank.timed(lambda: whole.score(own)),
    }
    truth = [distributions.softmax(one.logprobs) for one in whole.score(rank.requests)]
    pieces = rank.scorer(pieces=True)
    found["cut"] = rank.timed(lambda: pieces.score(rank.requests))
    answers = [distributions.softmax(one.logprobs) for one in pieces.score(rank.requests)]
    pairs = zip(truth, answers, strict=True)
    found["apart"] = max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True))
    budget = pieces.options.budget
    packs = sum(len(request.token_ids) for request in rank.requests) / budget
    found["sums"] = rank.sums(pieces._network, budget) * packs / statistics.median(found["cut"])
    return found


def work(number: int, args: Any, ranks: int, port: int) -> None:
    """A process's life; the first one prints the table."""
    device = f"cuda:{number}" if args.device == "auto" and torch.cuda.is_available() else "cpu"
    placement = choose(device, "auto")
    if placement.device.type == "cuda":
        torch.cuda.set_device(placement.device)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    backend = "nccl" if placement.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=number, world_size=ranks)
    vocabulary = VOCABULARY.get(args.shape, 100_000)
    requests = workload.prompts(args.prompts, *args.lengths, vocabulary=vocabulary, labels=LABELS)
    found = measured(Rank(args, number, ranks, placement, requests))
    dist.destroy_process_group()
    if number == 0:
        show(args, placement, requests, ranks, found)


def show(
    args: Any, placement: Placement, requests: Sequence[ScoreRequest], ranks: int, found: dict[str, Any]
) -> None:
    """Prints the table."""
    device = placement.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    table = Table(
        "way",
        "prompts/s",
        "range",
        "times one",
        title=f"{ranks} x {name}, torch {torch.__version__}, {args.shape}, {placement.dtype_name}, "
        f"{len(requests)} prompts of {workload.mean_length(requests):.0f} tokens",
    )
    least = statistics.median(found["one"])
    for way in ("one", "each", "cut"):
        middle, *ends = (f(found[way]) for f in (statistics.median, max, min))
        low, high = (len(requests) / seconds for seconds in ends)
        table.add_row(way, f"{len(requests) / middle:.1f}", f"{low:.1f}-{high:.1f}", f"{least / middle:.2f}")
    console = Console(width=150)
    console.print(table)
    console.print(f"cut: apart {found['apart']:.1e}; sums {found['sums']:.0%} of its time")


def main() -> None:
    parser = engine_options(__doc__, "qwen3-8b", "or tiny")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--lengths", type=int, nargs=2, default=(128, 1024), help="least and most tokens")
    parser.add_argument("--ranks", type=int, default=torch.cuda.device_count(), help="processes")
    args = parser.parse_args()
    if args.ranks < 2:
        raise SystemExit("there is one GPU or none here: give --ranks 2 --device cpu to try it on a CPU")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(n, args, args.ranks, port), daemon=True) for n in range(args.ranks)
    ]
    for one in processes:
        one.start()
    left = {one.sentinel: one for one in processes}
    while left:
        for sentinel in wait(list(left)):
            one = left.pop(cast(int, sentinel))
            one.join()
            if one.exitcode:  # the others would wait for it
                raise SystemExit(f"a process ended with status {one.exitcode}; see above")


if __name__ == "__main__":
    main()
