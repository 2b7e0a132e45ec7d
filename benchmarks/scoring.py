"""Prompts a second of the scoring engine, beside slower ways and the floor, in one run on one device.

    python benchmarks/scoring.py [--shape qwen3-0.6b] [--prompts 2048] [--repeats 5] [--only NAME ...]
    python benchmarks/scoring.py --lengths 4096 4096 --prompts 256 --only "own kernels"
    python benchmarks/scoring.py --only "own kernels" --vllm PYTHON

Weights and tokens are random: neither changes the speed. The floor is what the network's operations take at
the rate that the device multiplies large matrices at, measured in the same run (bf16; fp8 beside it): in a
burst, and under lasting load, when a chip may lower its clock to keep within its power. `apart` is the
largest difference of a probability among the labels from an fp32 forward of the same weights, over
`--checked` prompts. Slow ways run over a part of the prompts. With `--vllm`, vLLM's engine is asked the same
token ids in a process of its own, by `vllm_ids.py` and a Python that has it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tgi_stack.bench import roofline, workload
from tgi_stack.bench.timing import MIB, measure
from tgi_stack.engine import score
from tgi_stack.engine.layers.linear import FP8
from tgi_stack.engine.layers.ops import Ops
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.shapes import random_model
from tgi_stack.engine.placement import Placement, choose
from tgi_stack.engine.runtime import ops_for, prepare_compiler
from tgi_stack.engine.scorer import SIZES, Scorer, options_for
from tgi_stack.scoring import distributions
from tgi_stack.types import ScoreRequest

LABELS = 20


@dataclass(frozen=True)
class Variant:
    """A way to score; `share` is the part of the prompts it runs over."""

    name: str
    make: Callable[[], Callable[[Sequence[ScoreRequest]], object]]
    share: float = 1.0


@torch.inference_mode()
def one_by_one(model: Any, requests: Sequence[ScoreRequest]) -> list[Any]:
    """The optimisation guide: a prompt at a time, logits of every position."""
    values = []
    for request in requests:
        logits = model(torch.tensor([request.token_ids], device=model.device), use_cache=False).logits[0, -1]
        values.append(torch.softmax(logits[list(request.label_ids)].float(), -1).cpu())
    return values


@torch.inference_mode()
def padded(model: Any, requests: Sequence[ScoreRequest], size: int = 32) -> None:
    """The optimisation guide's batch: padded, logits of every position."""
    for start in range(0, len(requests), size):
        part = requests[start : start + size]
        longest = max(len(request.token_ids) for request in part)
        rows = [[0] * (longest - len(r.token_ids)) + list(r.token_ids) for r in part]
        mask = [[0] * (longest - len(r.token_ids)) + [1] * len(r.token_ids) for r in part]
        device = model.device
        logits = model(
            torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            use_cache=False,
        ).logits[:, -1]
        for request, row in zip(part, logits, strict=True):
            torch.softmax(row[list(request.label_ids)].float(), -1).cpu()


def sorted_batches(model: Any, requests: Sequence[ScoreRequest], size: int = 128) -> None:
    """Sorted by length, the head at last positions alone."""
    ordered = sorted(requests, key=lambda request: len(request.token_ids))
    for start in range(0, len(ordered), size):
        score.score(model, ordered[start : start + size])


def variants(model: Any, budget: int | None) -> list[Variant]:
    """The ways, slow to fast; what they need is made when they begin."""
    on_gpu = model.device.type == "cuda"

    def packed(
        ops: Ops, *, fp8: bool = False, compiled: bool = False, flash: bool = False, replay: bool = True
    ) -> Scorer:
        network = Network(model, ops, fp8=fp8)
        if compiled:
            prepare_compiler()
            network.compile(SIZES)
        options = options_for(network, None, compiled, flash)
        if budget:
            options = replace(options, budget=budget)
        return Scorer(network, replace(options, replay=replay))

    best = ops_for(model.device)
    rows = [
        Variant("one by one, full logits", lambda: lambda r: one_by_one(model, r), 1 / 64),
        Variant("batch 32, padded, full logits", lambda: lambda r: padded(model, r), 1 / 8),
        Variant("sorted, last logits, batch 128", lambda: lambda r: sorted_batches(model, r), 1 / 4),
        Variant("packed, torch operations", lambda: packed(Ops(), flash=True).score, 1 / 2),
        Variant("packed, compiled by layer", lambda: packed(Ops(), compiled=True).score),
    ]
    if on_gpu:
        rows.append(Variant("packed, own kernels", lambda: packed(best).score))
        rows.append(Variant("packed, own kernels, fp8", lambda: packed(best, fp8=True).score))
        rows.append(Variant("packed, own kernels, no graph", lambda: packed(best, replay=False).score))
    return rows


def by_vllm(python: str, model: Any, requests: Sequence[ScoreRequest]) -> list[float]:
    """Prompts a second of each of vLLM's passes over the same weights and prompts."""
    with tempfile.TemporaryDirectory(prefix="fastqwen-vllm-") as name:
        prompts = Path(name) / "prompts.jsonl"
        with prompts.open("w", encoding="utf-8") as file:
            for request in requests:
                row = {"ids": list(request.token_ids), "label_ids": list(request.label_ids)}
                file.write(json.dumps(row) + "\n")
        model.save_pretrained(name)
        script = Path(__file__).with_name("vllm_ids.py")
        done = subprocess.run(  # noqa: S603
            [python, str(script), name, str(prompts)], check=True, stdout=subprocess.PIPE, text=True
        )
    rates = next(line for line in done.stdout.splitlines() if line.startswith('{"rates"'))
    return list(json.loads(rates)["rates"])


def apart(found: Sequence[Any], truth: Sequence[torch.Tensor]) -> float:
    """The largest difference of a probability among the labels."""
    differences = [
        float((torch.tensor(distributions.softmax(one.logprobs)) - other).abs().max())
        for one, other in zip(found, truth, strict=True)
    ]
    return max(differences)


def fp32_truth(shape: str, placement: Placement, model: Any, requests: Sequence[ScoreRequest]) -> list[Any]:
    """Probabilities by transformers' forward in fp32 of the very weights."""
    exact = random_model(shape, Placement(placement.device, torch.float32))
    exact.load_state_dict(model.state_dict())
    return one_by_one(exact, requests)


def run_variant(
    variant: Variant,
    requests: Sequence[ScoreRequest],
    checked: Sequence[ScoreRequest],
    truth: list[Any],
    device: torch.device,
    repeats: int,
) -> dict[str, Any]:
    """One line of the table."""
    part = workload.part(requests, variant.share)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    began = time.perf_counter()
    way = variant.make()
    found = way(checked)
    first_s = time.perf_counter() - began
    measured = measure(lambda: way(part), device, repeats=repeats if variant.share == 1 else 2)
    median, low, high = measured.rate(len(part))
    gap = apart(found, truth) if isinstance(found, list) and hasattr(found[0], "logprobs") else None
    return {
        "name": variant.name,
        "prompts/s": median,
        "range": (low, high),
        "tokens/s": median * workload.mean_length(part),
        "peak_mib": None if measured.peak_bytes is None else measured.peak_bytes / MIB,
        "held_before_mib": before / MIB,
        "apart": gap,
        "first_s": first_s,
    }


def sharing(model: Any, device: torch.device, queries: int, documents: int, repeats: int) -> dict[str, Any]:
    """The same prompts with and without computing what they share once."""
    requests = workload.shared(queries, documents, 400, (150, 250), vocabulary=100_000)
    network = Network(model, ops_for(device))
    rates = {}
    answers = {}
    for share in (False, True):
        options = options_for(network, None)
        scorer = Scorer(network, replace(options, share=share))
        answers[share] = scorer.score(requests)
        rates[share] = measure(lambda: scorer.score(requests), device, repeats=repeats).rate(len(requests))  # noqa: B023
    gap = max(
        abs(a - b)
        for one, other in zip(answers[True], answers[False], strict=True)
        for a, b in zip(
            distributions.softmax(one.logprobs), distributions.softmax(other.logprobs), strict=True
        )
    )
    return {"apart, each computed whole": rates[False], "shared": rates[True], "difference": gap}


def floors(
    model: Any, placement: Placement, requests: Sequence[ScoreRequest]
) -> dict[str, tuple[float, float]]:
    """For bf16 the rate of large products, and the prompts a second it would allow; on a GPU for fp8 too, and
    both under lasting load.
    """
    device = placement.device
    rates = {placement.dtype_name: roofline.product_rate(device, placement.dtype)}
    if device.type == "cuda":
        rates["fp8"] = roofline.product_rate(device, FP8)
        rates[f"{placement.dtype_name} (lasting)"] = roofline.lasting_rate(device, placement.dtype)
        rates["fp8 (lasting)"] = roofline.lasting_rate(device, FP8)
    operations = roofline.text_operations(model.config, [len(request.token_ids) for request in requests])
    return {name: (rate, len(requests) * rate / operations) for name, rate in rates.items()}


def table_of(lines: Sequence[dict[str, Any]], base: float) -> Table:
    """The lines, slow to fast, beside the floor."""
    table = Table("way", "prompts/s", "range", "of the floor", "peak MiB", "apart from fp32", "first s")
    for line in sorted(lines, key=lambda line: line["prompts/s"]):
        table.add_row(
            line["name"],
            f"{line['prompts/s']:.1f}",
            f"{line['range'][0]:.1f}-{line['range'][1]:.1f}",
            f"{line['prompts/s'] / base:.0%}",
            "" if line["peak_mib"] is None else f"{line['peak_mib']:.0f}",
            "" if line["apart"] is None else f"{line['apart']:.1e}",
            f"{line['first_s']:.1f}",
        )
    return table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="qwen3-0.6b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompts", type=int, default=2048)
    parser.add_argument("--lengths", type=int, nargs=2, default=(128, 1024), help="least and most tokens")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checked", type=int, default=64, help="prompts compared with fp32")
    parser.add_argument("--budget", type=int, help="tokens of a pack")
    parser.add_argument("--only", action="append", help="variants whose name contains this")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--vllm", metavar="PYTHON", help="of an environment with vLLM")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    console = Console(width=150)
    placement = choose(args.device, "auto")
    device = placement.device
    model = random_model(args.shape, placement)
    requests = workload.prompts(args.prompts, *args.lengths, vocabulary=100_000, labels=LABELS)
    least = floors(model, placement, requests)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    mean = workload.mean_length(requests)
    what = f"{len(requests)} prompts, mean {mean:.0f} tokens, {LABELS} labels"
    console.print(f"{name}, torch {torch.__version__}; {what}")
    for dtype, (rate, prompts) in least.items():
        console.print(f"floor at {rate / 1e12:.2f} TFLOP/s {dtype}: {prompts:.1f} prompts/s")
    checked = workload.part(requests, 0.0, args.checked)
    truth = fp32_truth(args.shape, placement, model, checked)
    lines = []
    chosen = [v for v in variants(model, args.budget) if not args.only or any(o in v.name for o in args.only)]
    random.Random(0).shuffle(chosen)  # noqa: S311  # no secrets
    for variant in chosen:
        lines.append(run_variant(variant, requests, checked, truth, device, args.repeats))
        print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
        torch._dynamo.reset()
    console.print(table_of(lines, least[placement.dtype_name][1]))
    if args.vllm:
        low, median, high = sorted(by_vllm(args.vllm, model, requests))
        console.print(f"vLLM on the same token ids: {median:.1f} prompts/s ({low:.1f}-{high:.1f})")
    result = sharing(model, device, args.queries, args.documents, args.repeats)
    whole, once = result["apart, each computed whole"][0], result["shared"][0]
    console.print(
        f"{args.queries} queries x {args.documents} documents, 400 tokens shared: {whole:.1f} prompts/s each "
        f"computed whole, {once:.1f} shared: {once / whole:.2f} times; apart {result['difference']:.1e}"
    )
    if args.json:
        args.json.write_text(json.dumps({"floors": least, "lines": lines, "sharing": result}))


if __name__ == "__main__":
    main()
