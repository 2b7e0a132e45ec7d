"""How far engines are from each other on the catalogue, for text, images and both ways to rank.

    python tools/agreement.py [--served NAME=TEXT_URL,VISION_URL ...] [--out out/agreement] [--page FILE]

Every job is done by torch in fp32, which the others are held against: by torch in fp32 with one prompt in a
batch (how far an engine is from itself), by torch in bf16, and by the servers that are named, which hold the
checkpoints `tiny`. It prints a table, and with --page writes it into a page, between the marks, with the
instruction set that torch computed with, which numbers in bf16 depend on; it exits with 1 where a probability
or the share of texts that differ is above its limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "examples" / "catalogue"
BEGIN, END = "<!-- agreement: begin -->", "<!-- agreement: end -->"

FP32 = 1e-5  # another batch, another processor, another server: see docs/probabilities.md
BF16 = 0.03
TEXTS = 0.1  # of summaries: one near tie turns all that follows
ALONE = "torch fp32, one at a time"
HEAD = "| job | by | rows | largest | 99 % | Kendall tau | first differs | equal texts | limit |"


@dataclass(frozen=True)
class Job:
    """What is asked: the command without who answers."""

    name: str
    kind: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """Who answers, and how far its probabilities may be from those of torch in fp32.

    `options` are by the kind of model.
    """

    name: str
    options: Mapping[str, tuple[str, ...]]
    limit: float


def jobs(folder: Path) -> list[Job]:
    """All jobs; rows of prompts are written into the folder."""
    prompts = folder / "prompts.jsonl"
    counts = (2, 5, 20, 52, 53, 100)
    rows = [{"id": str(n), "prompt": f"Which of {n}?\n", "num_candidates": n} for n in counts]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rank = ("rerank", str(CATALOGUE / "sessions.jsonl"), "--items", str(CATALOGUE / "items.jsonl"))
    return [
        Job("probs", "text", ("probs", str(prompts))),
        Job("rerank", "text", rank),
        Job("rerank --mode pointwise", "text", (*rank, "--mode", "pointwise", "--limit", "6")),
        Job("rerank --item-images", "vision", (*rank, "--item-images", "--limit", "4")),
        Job(
            "rerank --item-images --mode pointwise",
            "vision",
            (*rank, "--item-images", "--mode", "pointwise", "--limit", "2"),
        ),
        Job("summarize", "vision", ("summarize", str(CATALOGUE / "images"))),
    ]


def engines(served: Sequence[str]) -> list[Engine]:
    """torch in fp32 first."""
    torch = ("--engine", "torch", "--model", "tiny", "--device", "cpu")
    kinds = ("text", "vision")
    found = [
        Engine("torch fp32", dict.fromkeys(kinds, (*torch, "--dtype", "fp32")), 0.0),
        Engine(ALONE, dict.fromkeys(kinds, (*torch, "--dtype", "fp32")), FP32),
        Engine("torch bf16", dict.fromkeys(kinds, (*torch, "--dtype", "bf16")), BF16),
    ]
    for one in served:
        name, _, urls = one.partition("=")
        by_kind = zip(("text", "vision"), urls.split(","), strict=True)
        options = {kind: ("--endpoint", url, "--model", "tiny") for kind, url in by_kind}
        found.append(Engine(name, options, BF16 if "bf16" in name else FP32))
    return found


def fastqwen(*arguments: str) -> str:
    """What a command prints; exits where it fails."""
    command = [sys.executable, "-m", "cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: S603  # ours
    if done.returncode not in (0, 1) or (done.returncode and not done.stdout):
        raise SystemExit(f"fastqwen {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def measured(folder: Path, served: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """A row of the table for each job and engine, and whether it is within its limit."""
    reference, *others = engines(served)
    for job in jobs(folder):
        outs = {}
        for engine in (reference, *others):
            out = folder / f"{job.name}, {engine.name}.jsonl".replace(" ", "-").replace(",", "")
            options = engine.options[job.kind]
            if engine.name == ALONE:
                size = "--semantic-summary-batch-size" if job.name == "summarize" else "--llm-batch-size"
                options = (*options, size, "1")
            fastqwen(*job.command, *options, "--no-cache", "--overwrite", "-o", str(out))
            outs[engine.name] = str(out)
        for engine in others:
            limit = TEXTS if job.name == "summarize" else engine.limit
            pair = (outs[reference.name], outs[engine.name])
            found = json.loads(fastqwen("compare", *pair, "--limit", str(limit), "--json"))["pairs"][0]
            yield row(job.name, engine.name, limit, found), found["within"]


def row(job: str, engine: str, limit: float, found: dict[str, Any]) -> str:
    """One of the table."""
    numbers, texts = found["probabilities"], found["texts_and_orders"]
    cells: list[str] = [f"`{job}`", engine, f"{found['rows']}"]
    cells += ["" if one is None else f"{one:.1e}" for one in (numbers["largest"], numbers["percentile_99"])]
    cells += ["", "", f"{texts['equal']} of {texts['rows']}"]
    if numbers["rows"]:
        cells[-3:] = [f"{found['kendall_tau']:.4f}", f"{found['first_differs']}", ""]
    kind = "of texts" if texts["rows"] else ""
    return f"| {' | '.join(cells)} | {limit:g} {kind}".rstrip() + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--served", action="append", default=[], metavar="NAME=TEXT_URL,VISION_URL")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "agreement")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = []
    capability = torch.backends.cpu.get_cpu_capability()
    lines = [f"torch {torch.__version__}, {capability}:", "", HEAD, "|---|---|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for line, within in measured(given.out.resolve(), given.served):
        print(line if within else f"{line} ABOVE", flush=True)
        lines.append(line)
        found.append(within)
    if given.page is not None:
        page = given.page.read_text(encoding="utf-8")
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        given.page.write_text("\n".join([page[:start], "", *lines, "", page[end:]]), encoding="utf-8")
    if not all(found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
