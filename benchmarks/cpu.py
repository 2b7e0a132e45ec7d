"""The scoring engine on a CPU beside a plain loop over transformers' forward, by length of prompt.

    python benchmarks/cpu.py [--shape tiny|qwen3-0.6b] [--lengths 50 200 ...] [--dtype fp32|bf16]
    python benchmarks/cpu.py --command [--lengths 50 200 ...]

Each prompt of the loop goes through the model alone, the head at its last position alone; both have the
same weights, prompts and threads. They take turns, and the best of `--repeats` counts: by the time that all
processors spent, and by the clock, which whoever else uses this machine moves. A ratio above 1 is in the
engine's favour. `apart` is the largest difference of a probability among the labels. Prompts are random
tokens, so that none begins as another does. `--profile` says where the time goes at each length.

With `--command` it is `fastqwen probs --model tiny --no-cache` in a process of its own, from rows in a file
to records in a file. It runs twice, the second time over `ROUNDS` times as many prompts: the difference is
without the start. The loop's prompts are tokenized beforehand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from tgi_stack.bench import workload
from tgi_stack.engine.models import compat
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.shapes import random_model
from tgi_stack.engine.placement import DTYPES, Placement
from tgi_stack.engine.runtime import GATHERED, ops_for
from tgi_stack.engine.scorer import Scorer, options_for
from tgi_stack.hub import locate
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.prompting.vocabulary import tokenizer_of
from tgi_stack.types import ScoreRequest

LABELS = 20
LENGTHS = (50, 100, 200, 350, 500, 1000, 2000, 3000, 4000)
ROUNDS = 4
CPU = torch.device("cpu")
WORDS = ("red", "blue", "small", "large", "wooden", "cotton", "light", "shoes", "lamp", "table", "coat")


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of all processors, and by the clock."""

    processors: float
    clock: float

    def least(self, other: Spent) -> Spent:
        return Spent(min(self.processors, other.processors), min(self.clock, other.clock))

    def less(self, other: Spent) -> Spent:
        return Spent(self.processors - other.processors, self.clock - other.clock)


NOTHING_YET = Spent(math.inf, math.inf)


def model_of(shape: str, placement: Placement) -> tuple[Any, int]:
    """A transformers model, and how many tokens may be drawn for it."""
    if shape != "tiny":
        return random_model(shape, placement), 100_000
    compat.quiet()
    folder = locate("tiny", "text", None, may_download=False).folder
    loaded = compat.transformers().AutoModelForCausalLM.from_pretrained(folder, dtype=placement.dtype)
    return loaded.eval(), 900


@torch.inference_mode()
def plain(model: Any, requests: Sequence[ScoreRequest]) -> list[list[float]]:
    """What few lines do: a prompt at a time, the head at the last position alone.

    Without a mask of ones transformers 4.57 makes one of its own, which takes half as long again.
    """
    found = []
    for request in requests:
        ids = torch.tensor([request.token_ids])
        ones = torch.ones_like(ids)
        logits = model(input_ids=ids, attention_mask=ones, use_cache=False, logits_to_keep=1).logits[0, -1]
        found.append(torch.log_softmax(logits.float(), -1)[list(request.label_ids)].tolist())
    return found


def spent(run: Callable[[], object]) -> Spent:
    """What a run takes in this process."""
    clock, processors = time.perf_counter(), time.process_time()
    run()
    return Spent(time.process_time() - processors, time.perf_counter() - clock)


def in_turns(ours: Callable[[], Spent], theirs: Callable[[], Spent], repeats: int) -> tuple[Spent, Spent]:
    """The least of each."""
    least = NOTHING_YET, NOTHING_YET
    for _ in range(repeats):
        least = least[0].least(ours()), least[1].least(theirs())
    return least


def apart(found: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> float:
    """The largest difference of a probability."""
    return max(
        abs(math.exp(ours) - math.exp(theirs))
        for one, other in zip(found, truth, strict=True)
        for ours, theirs in zip(one, other, strict=True)
    )


def show_profile(console: Console, name: str, run: Callable[[], object]) -> None:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    table = profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=14)
    console.print(f"{name}\n{table}")


# -- the command -----------------------------------------------------------------------------------------


def written_prompts(tokenizer: Tokenizer, count: int, length: int) -> list[str]:
    """Texts of random words, of about as many tokens."""
    draws = random.Random(length)  # noqa: S311  # no secrets
    sample = " ".join(draws.choices(WORDS, k=1000))
    words = round(1000 * length / len(tokenizer.encode(sample)))
    return [" ".join(draws.choices(WORDS, k=words)) for _ in range(count)]


def command(folder: Path, prompts: Sequence[str]) -> Spent:
    """What `fastqwen probs` takes over these prompts, start and end included."""
    rows, out = folder / "rows.jsonl", folder / "out.jsonl"
    rows.write_text("".join(json.dumps({"prompt": p, "num_candidates": LABELS}) + "\n" for p in prompts))
    program = str(Path(sys.executable).with_name("fastqwen"))
    arguments = [program, "probs", str(rows), "-o", str(out), "--engine", "torch", "--model", "tiny"]
    began = time.perf_counter()
    quiet = ["--no-cache", "--overwrite", "--quiet"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen([*arguments, *quiet], env=os.environ | threads) as process:  # noqa: S603  # our own
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"fastqwen ended with {process.returncode}")
    return Spent(used.ru_utime + used.ru_stime, time.perf_counter() - began)


def command_less_start(folder: Path, prompts: Sequence[str]) -> Spent:
    """What the command takes over all but the first of `ROUNDS` parts of the prompts."""
    few = command(folder, prompts[: len(prompts) // ROUNDS])
    return command(folder, prompts).less(few)


# -- what is printed -------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="tiny")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--tokens", type=int, default=16_000, help="of all prompts of a length together")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--command", action="store_true", help="the command in place of the engine alone")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def add(table: Table, length: int, count: int, both: tuple[Spent, Spent], difference: float | None) -> None:
    ours, theirs = both
    table.add_row(
        str(length),
        str(count),
        f"{count / ours.clock:.1f}",
        f"{count / theirs.clock:.1f}",
        f"{theirs.processors / ours.processors:.2f}",
        f"{theirs.clock / ours.clock:.2f}",
        "" if difference is None else f"{difference:.1e}",
    )


def measure_engine(args: argparse.Namespace, model: Any, vocabulary: int, table: Table) -> None:
    network = Network(model, ops_for(CPU))
    scorer = Scorer(network, options_for(network, None))
    for length in args.lengths:
        count = min(GATHERED["cpu"], max(2, args.tokens // length))
        requests = workload.prompts(count, length, length, vocabulary=vocabulary, labels=LABELS)
        ours, theirs = partial(scorer.score, requests), partial(plain, model, requests)
        difference = apart([scores.logprobs for scores in ours()], theirs())
        both = in_turns(partial(spent, ours), partial(spent, theirs), args.repeats)
        add(table, length, count, both, difference)
        if args.profile:
            show_profile(Console(), f"{length} tokens, engine", ours)
            show_profile(Console(), f"{length} tokens, loop", theirs)


def measure_command(args: argparse.Namespace, model: Any, table: Table) -> None:
    tokenizer = tokenizer_of(locate("tiny", "text", None, may_download=False))
    with tempfile.TemporaryDirectory() as folder:
        for length in args.lengths:
            part = max(1, args.tokens // length)
            prompts = written_prompts(tokenizer, ROUNDS * part, length)
            counted = prompts[part:]
            ids = [tuple(tokenizer.encode(prompt)) for prompt in counted]
            requests = [ScoreRequest("", one, (), tuple(range(32, 32 + LABELS))) for one in ids]
            ours = partial(command_less_start, Path(folder), prompts)
            both = in_turns(ours, partial(spent, partial(plain, model, requests)), args.repeats)
            add(table, length, len(counted), both, None)


def main() -> None:
    args = arguments()
    model, vocabulary = model_of(args.shape, Placement(CPU, DTYPES[args.dtype]))
    capability = torch.backends.cpu.get_cpu_capability()
    title = f"{args.shape}, {args.dtype}, torch {torch.__version__}, {capability}, "
    title += f"{torch.get_num_threads()} threads"
    who = "command" if args.command else "engine"
    names = ("tokens", "prompts", f"{who}/s", "loop/s", "by processors", "by the clock", "apart")
    table = Table(*names, title=title)
    if args.command:
        measure_command(args, model, table)
    else:
        measure_engine(args, model, vocabulary, table)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
