"""What users do, measured: the installed command on data like theirs, beside a floor, in one run.

    python benchmarks/end_to_end.py [--rows 4000] [--only NAME ...]
    python benchmarks/end_to_end.py --engine torch --random-weights qwen3-0.6b --device cuda:0
    python benchmarks/end_to_end.py --engine torch --random-weights qwen3-vl-2b --photographs 3000

The command runs as a child. `first s` is the time from its start to its first record; `rows/s` is its rate
in the steady state: between a tenth and nine tenths of the records, by the clock, without start and end, and
`run's us` the CPU time that the run's own process took a row there, without those that prepare.

Beside each line stands what it is held against:
  floor    each finished prompt tokenized once by the same tokenizer, its row's JSON parsed and a record
           written, in `--processes` processes (as many as cores unless told)
  engine   the torch engine alone, in a process of its own, over the same prompts as token ids, or over the
           same pictures prepared before the clock starts; where a server answers, a raw loop of aiohttp that
           sends it the finished prompts as token ids, eight in a request, and parses what comes back
  vllm     `vllm_offline.py` over the same prompts as text, where `--vllm PYTHON` names an environment
Runs keep nothing, unless `--cache` has each begin with an empty cache and keep its answers there.
The server is one on loopback that answers label reads at once, in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import sample_data
from client import raw_live, served
from tgi_stack.engine.placement import devices
from tgi_stack.prompting import prompts
from tgi_stack.prompting.labels import default_labels
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY
from tgi_stack.types import ScoreRequest
from watched import Measured, command

GROUP, IN_FLIGHT = 8, 256  # prompts of a request, as the command sends them, and of all requests at a time


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked of the command, and what it is held against."""

    name: str
    arguments: tuple[str, ...]
    rows: int
    source: Path
    catalogue: bool = False


# -- what it is held against -----------------------------------------------------------------------------


def finished(case: Case, tokenizer: Tokenizer, items: dict[str, str], *, closes_thinking: bool) -> list[str]:
    """The prompts of a case's rows, as the command sends them; no text of the data needs to be cut."""
    found = []
    for line in case.source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        past, shown = (
            [_sentence(items[one] if isinstance(one, str) else one["text"]) for one in row[name]]
            for name in ("history", "candidates")
        )
        body = "".join(prompts.listwise_body(default_labels(len(shown), tokenizer), shown, history=past))
        found.append(prompts.user_turn(tokenizer.harmless(body), close_thinking=closes_thinking))
    return found


def _sentence(text: str) -> str:
    line = prompts.one_line(text)
    return line if line.endswith((".", "!", "?")) else line + "."


def floor(case: Case, texts: Sequence[str], tokenizer: Path, processes: int, folder: Path) -> float:
    """Rows a second of the least that any way has to do."""
    lines = case.source.read_text(encoding="utf-8").splitlines()
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(processes + 1), context.Event()
    crew = [
        context.Process(
            target=_share,
            args=(tokenizer, texts[n::processes], lines[n::processes], folder / f"floor-{n}", ready, go),
        )
        for n in range(processes)
    ]
    for one in crew:
        one.start()
    ready.wait()
    began = time.perf_counter()
    go.set()
    for one in crew:
        one.join()
    return len(texts) / (time.perf_counter() - began)


def _share(tokenizer: Path, texts: list[str], lines: list[str], out: Path, ready: Any, go: Any) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    encode = Tokenizer(tokenizer).encode
    encode("warm")
    ready.wait()
    go.wait()
    with out.open("w", encoding="utf-8") as file:
        for text, line in zip(texts, lines, strict=True):
            row = json.loads(line)
            ids = encode(text)
            ranking = [
                {"id": "B000000", "rank": place, "score": 0.05, "probability": 0.05, "logprob": -2.9957}
                for place in range(len(row["candidates"]))
            ]
            reads = [{"order": ["B000000"] * len(ranking), "logprobs": [-2.9957] * len(ranking)}]
            record = {"id": row["id"], "status": "ok", "ranking": ranking, "reads": reads, "tokens": len(ids)}
            file.write(json.dumps(record) + "\n")


def engine_alone(model: Path, source: Path, args: argparse.Namespace) -> float:
    """Prompts of a file, or pictures of a folder, a second: the engine in a process of its own; of several
    devices in one each, of which each is asked everything, and the sum of what they give.
    """
    script = Path(__file__).with_name("engine_alone.py")
    started = []
    for device in devices(args.device):
        asked = [sys.executable, str(script), str(model), str(source), device, args.quantization or "none"]
        if source.is_dir():
            asked.append(str(args.new_tokens))
        started.append(subprocess.Popen(asked, stdout=subprocess.PIPE, text=True))  # noqa: S603
    lines = [one.communicate()[0].splitlines() for one in started]
    if any(one.returncode for one in started):
        raise SystemExit("the engine alone came to grief; see above")
    return sum(float(json.loads(found[-1])["rate"]) for found in lines)


def vllm_script(python: str, model: Path, prompts_file: Path, folder: Path) -> float:
    """Prompts a second of the vLLM script, loading left out."""
    script = Path(__file__).with_name("vllm_offline.py")
    asked = [python, str(script), str(model), str(prompts_file), str(folder / "vllm.jsonl")]
    done = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    spent = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"loading_s"')))
    return len(prompts_file.read_text(encoding="utf-8").splitlines()) / float(spent["answering_s"])


@contextmanager
def loopback(tokenizer_file: Path) -> Iterator[str]:
    """The URL of a server that answers label reads at once."""
    process, url = served(0.0, tokenizer_file)
    try:
        yield url
    finally:
        process.terminate()


# -- cases -----------------------------------------------------------------------------------------------


def cases(args: argparse.Namespace, folder: Path) -> list[Case]:
    """The lines of the table that were asked for."""
    found = []
    if args.photographs:
        pictures = sample_data.photographs(folder, args.photographs)
        arguments = ("summarize", str(pictures), "--max-new-tokens", str(args.new_tokens))
        found.append(Case("summarize, photographs", arguments, args.photographs, pictures))
    for name, candidates, catalogue, share in (
        ("rerank, 20 candidates written out", 20, False, 1.0),
        ("rerank, 20 ids into a catalogue", 20, True, 1.0),
        ("rerank, 5 candidates written out", 5, False, 1.0),
        ("rerank, 100 candidates written out", 100, False, 0.25),
    ):
        rows = max(1, round(args.rows * share))
        if not rows or args.photographs or (args.only and not any(one in name for one in args.only)):
            continue
        source, items = sample_data.rerank_rows(folder, rows, candidates=candidates, catalogue=catalogue)
        more = () if items is None else ("--items", str(items))
        found.append(Case(name, ("rerank", str(source), *more), rows, source, catalogue))
    return found


@contextmanager
def computing(bench: Bench) -> Iterator[list[str]]:
    """What the command is told of who computes, while they are there."""
    args = bench.args
    if args.engine == "server":
        with loopback(bench.tokenizer_file) as url:
            yield ["--endpoint", url, "--tokenizer", str(bench.tokenizer_file)]
    elif args.engine == "torch":
        quantized = ["--quantization", args.quantization] if args.quantization else []
        yield [
            "--engine",
            "torch",
            "--model",
            str(bench.model or "tiny"),
            "--device",
            args.device,
            *quantized,
        ]
    else:
        yield ["--engine", "scripted", "--tokenizer", str(bench.tokenizer_file)]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all lines of a table share; `model` is a checkpoint of random weights, if there is one."""

    args: argparse.Namespace
    folder: Path
    tokenizer_file: Path
    model: Path | None

    def line(self, case: Case, told: Sequence[str], preparers: int | None) -> list[str]:
        """One line of the table; where so many processes prepare rows, as many make the floor."""
        name, processes = case.name, self.args.processes
        if preparers is not None:
            name, processes = f"{name}, --preparers {preparers}", max(1, preparers)
            told = [*told, "--preparers", str(preparers)]
        run = self._median(case, told)
        cells = [name, f"{case.rows:,}", f"{run.first_s:.1f}", f"{run.rate:,.0f}", f"{1e6 * run.cpu_s:,.0f}"]
        cells.append(f"{run.peak_mib:.0f}")
        if case.arguments[0] == "summarize":
            return [*cells, "", "", "", *_beside(run.rate, self._alone(case.source, told)), ""]
        tokenizer = Tokenizer(self.tokenizer_file)
        texts = finished(case, tokenizer, self._items(case), closes_thinking=True)
        lengths = [len(tokenizer.encode(text)) for text in texts[:500]]
        cells.append(f"{sum(lengths) / len(lengths):.0f}")
        if self.args.no_floor:
            cells += ["", ""]
        else:
            least = floor(case, texts, self.tokenizer_file, processes, self.folder)
            cells += [f"{least:,.0f}", f"{run.rate / least:.2f}"]
        asked = self._prompts(case, texts, tokenizer)
        return [*cells, *_beside(run.rate, self._alone(asked, told), self._vllm(asked))]

    def _median(self, case: Case, told: Sequence[str]) -> Measured:
        runs = []
        for _ in range(self.args.repeats):
            arguments = [*case.arguments, *told, *self._cache(), *self.args.more]
            runs.append(command(arguments, self.folder / "out.jsonl", case.rows))
            for path in self.folder.glob("out.jsonl*"):
                path.unlink()
            print(f"{case.name}: {runs[-1]}", file=sys.stderr, flush=True)
        return sorted(runs, key=lambda run: run.rate)[len(runs) // 2]

    def _cache(self) -> list[str]:
        """What a run is told of a cache: none, or one that knows nothing yet."""
        if not self.args.cache:
            return ["--no-cache"]
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        return ["--cache-dir", str(self.folder / "cache")]

    def _items(self, case: Case) -> dict[str, str]:
        if not case.catalogue:
            return {}
        rows = map(json.loads, (self.folder / "items.jsonl").read_text(encoding="utf-8").splitlines())
        return {row["id"]: row["text"] for row in rows}

    def _prompts(self, case: Case, texts: Sequence[str], tokenizer: Tokenizer) -> Path:
        with case.source.open(encoding="utf-8") as file:
            count = len(json.loads(file.readline())["candidates"])
        ids = [tokenizer.encode(label)[0] for label in default_labels(count, tokenizer)]
        rows = [{"id": str(n), "prompt": text, "label_ids": ids} for n, text in enumerate(texts)]
        sample_data.write_lines(self.folder / "prompts.jsonl", rows)
        return self.folder / "prompts.jsonl"

    def _alone(self, asked: Path, told: Sequence[str]) -> float | None:
        """What whoever computes gives a second to one who does nothing else."""
        if self.args.engine == "server":
            url = told[told.index("--endpoint") + 1]
            return asyncio.run(raw_live(url, _requests(asked, self.tokenizer_file), IN_FLIGHT, GROUP))
        if self.args.engine != "torch":
            return None
        model = self.model or TINY / ("vision" if asked.is_dir() else "text")
        return engine_alone(model, asked, self.args)

    def _vllm(self, asked: Path) -> float | None:
        if self.args.vllm is None or self.model is None:
            return None
        return vllm_script(self.args.vllm, self.model, asked, self.folder)


def _requests(asked: Path, tokenizer_file: Path) -> list[ScoreRequest]:
    """The finished prompts of a file as token ids."""
    encode = Tokenizer(tokenizer_file).encode
    rows = map(json.loads, asked.read_text(encoding="utf-8").splitlines())
    return [
        ScoreRequest(
            "", tuple(encode(row["prompt"])), tuple("x" * len(row["label_ids"])), tuple(row["label_ids"])
        )
        for row in rows
    ]


def _beside(reached: float, *rates: float | None) -> list[str]:
    """Each rate with the share of it that was reached."""
    return ["" if rate is None else f"{rate:,.0f} ({reached / rate:.2f})" for rate in rates]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--photographs", type=int, default=0, help="summarize so many, instead of ranking")
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--engine", choices=("scripted", "torch", "server"), default="scripted")
    parser.add_argument("--random-weights", metavar="SHAPE", help="qwen3-0.6b, qwen3-vl-2b, ...")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quantization")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json; one of 151,000 tokens is made")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="of the floor")
    parser.add_argument("--no-floor", action="store_true", help="which takes longest of many rows")
    parser.add_argument("--preparers", type=int, nargs="+", help="a line for each, with as many of the floor")
    parser.add_argument("--cache", action="store_true", help="answers are kept, as without --no-cache")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", action="append", help="cases whose name contains this")
    parser.add_argument("--vllm", metavar="PYTHON", help="of an environment with vLLM")
    parser.add_argument("--folder", type=Path, help="where the data is kept for another run")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further options of the command")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="fastqwen-end-to-end-") as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = args.tokenizer or sample_data.large_tokenizer(folder / "tokenizer.json")
        model = None
        if args.random_weights:
            model = sample_data.random_checkpoint(folder, args.random_weights, tokenizer)
        elif args.engine == "torch":
            tokenizer = TINY / ("vision" if args.photographs else "text") / "tokenizer.json"
        bench = Bench(args, folder, tokenizer, model)
        columns = ["case", "rows", "first s", "rows/s", "run's us", "peak MiB", "tokens", "floor", "of it"]
        title = f"--engine {args.engine}, floor of {args.processes} processes{', a cache' * args.cache}"
        table = Table(*columns, "engine", "vllm", title=title)
        for case in cases(args, folder):
            with computing(bench) as told:
                for preparers in args.preparers or (None,):
                    table.add_row(*bench.line(case, told, preparers))
        Console(width=160).print(table)


if __name__ == "__main__":
    main()
