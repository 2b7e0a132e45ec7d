"""What fp8 costs a trained network: `tiny` on sessions never seen in training, in fp8 and in fp32.

    python tools/fp8_on_tiny.py [--sessions 100]
    python tools/fp8_on_tiny.py --device cuda:0

On the CPU all is computed in fp32: weights and activations are rounded to fp8 as on a GPU. All else there is
in bf16 and added in another order, and what lies between the MLP's products is scaled by blocks of 128 where
it is by rows here. On a GPU it is the engine as users have it, and in bf16 beside.
`apart` is the largest difference of a label's probability, over all sessions and on the mean of each
session's largest; `same first` is the share of sessions with the same candidate first.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from evaluate_tiny import SESSION_SIZES, sessions
from tgi_stack import settings
from tgi_stack.backends.scripted import Script, ScriptedBackend
from tgi_stack.engine import loader
from tgi_stack.engine.layers.linear import Activations, FusedFp8Linear, Pending, RowScaledFp8
from tgi_stack.engine.layers.ops import Ops
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.placement import choose
from tgi_stack.engine.runtime import ops_for
from tgi_stack.engine.scorer import Scorer, options_for
from tgi_stack.hub import locate
from tgi_stack.jobs.rerank.job import Rerank
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.scoring import distributions
from tgi_stack.tiny import TINY
from tgi_stack.types import LabelScores, RerankRow, ScoreRequest


class Noting(ScriptedBackend):
    """Notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(Script(), "text", Tokenizer(TINY / "text" / "tokenizer.json"))
        self.asked: list[ScoreRequest] = []

    async def score(self, request: ScoreRequest) -> LabelScores:
        self.asked.append(request)
        return await super().score(request)


def questions(count: int, candidates: int) -> list[ScoreRequest]:
    """What `rerank` asks about held-out sessions."""
    backend = Noting()
    job = Rerank(backend, settings.load({"max_history": 20}, {}), {})

    async def ask() -> None:
        for one in sessions(count, candidates):
            await job.answer(RerankRow(1, "s", one.candidates, one.history, one.query))

    asyncio.run(ask())
    return backend.asked


class InFp32:
    """A matrix in fp8 whose products are computed in fp32: a CPU's own in fp8 are slow."""

    wants_fp8 = True

    def __init__(self, rounded: FusedFp8Linear) -> None:
        self._weight = rounded.weight.float() * rounded.scales.T

    def __call__(self, x: Activations) -> torch.Tensor:
        if not isinstance(x, RowScaledFp8):
            raise TypeError("this product needs activations in fp8 with a scale for each row")
        return torch.nn.functional.linear(x.values.float() * x.scales, self._weight)

    def add(self, residual: torch.Tensor, x: Activations) -> tuple[torch.Tensor, Pending]:
        return residual, self(x)


def probabilities(
    asked: Sequence[Sequence[ScoreRequest]], device: str, weights: str
) -> list[list[tuple[float, ...]]]:
    """Of the labels of each question.

    Args:
        weights: `fp32`, `bf16` or `fp8`.
    """
    on_gpu, fp8 = device != "cpu", weights == "fp8"
    unrounded = "bf16" if on_gpu else "fp32"
    placement = choose(device, unrounded if fp8 else weights)
    model = loader.load(locate("tiny", "text", None), "text", placement)
    network = Network(model, ops_for(placement.device) if on_gpu else Ops(), fp8=fp8)
    for layer in network.layers if fp8 and not on_gpu else ():
        for name in ("qkv", "out", "gate_up", "down"):
            object.__setattr__(layer, name, InFp32(getattr(layer, name)))
    scorer = Scorer(network, options_for(network, None, False, False))
    found = []
    for some in asked:
        read = scorer.score(some)
        if any(isinstance(one, Exception) for one in read):
            raise SystemExit("not every session was answered")
        found.append([distributions.softmax(one.logprobs) for one in read])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=100, help="of each size")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    asked = [questions(args.sessions, candidates) for candidates in SESSION_SIZES]
    exact = probabilities(asked, args.device, "fp32")
    table = Table(
        "weights",
        "candidates",
        "apart",
        "on the mean",
        "same first",
        title=f"{args.sessions} sessions of each size, {args.device}, torch {torch.__version__}",
    )
    for weights in ("fp8",) if args.device == "cpu" else ("bf16", "fp8"):
        rounded = probabilities(asked, args.device, weights)
        for candidates, want, got in zip(SESSION_SIZES, exact, rounded, strict=True):
            pairs = list(zip(want, got, strict=True))
            worst = [max(abs(a - b) for a, b in zip(x, y, strict=True)) for x, y in pairs]
            same = sum(x.index(max(x)) == y.index(max(y)) for x, y in pairs)
            cells = f"{max(worst):.1e}", f"{sum(worst) / len(worst):.1e}", f"{100 * same / len(want):.1f} %"
            table.add_row(weights, str(candidates), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
