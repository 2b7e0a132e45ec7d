"""Measures the rates of `fastqwen plan-scale` on this machine, and how far its model is from other runs.

    python benchmarks/scale.py [--rows 8000]

Two runs under Ray give the rates: one whose answers nobody knows and the same one again, from the cache. The
model then foretells three others: more rows of which a part is known, those again with all known, and smaller
blocks. The server is a loopback one that answers after 20 ms, so it stands for GPUs that are never the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from client import served
from ray_rows import FASTQWEN, steady
from rows import write_input
from tgi_stack.jobs import pipeline
from tgi_stack.jobs.spec import opened
from tgi_stack.jobs.tally import Tally
from tgi_stack.settings import load
from tgi_stack.stack.planning.scale import Job, Rates, forecast

CORES = 2
DELAY_S = 0.02


@dataclass(frozen=True, slots=True)
class Run:
    """One command: seconds of all of it, and rows a second in between."""

    seconds: float
    steady: float


def run(folder: Path, url: str, rows: int, block: int) -> Run:
    source, out = folder / f"{rows}.jsonl", folder / "out"
    if not source.exists():
        write_input(source, rows)
    command = [FASTQWEN, "probs", str(source), "-o", str(out), "--engine", "vllm", "--endpoint", url]
    command += ["--model", "tiny", "--runner", "ray", "--workers", str(CORES), "--overwrite", "--quiet"]
    command += ["--rows-per-block", str(block), "--cache-dir", str(folder / "cache")]
    began = time.monotonic()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)  # noqa: S603  # our own program
    spent = time.monotonic() - began
    timeline = json.loads((out / "run.json").read_text())["timeline"]["points"]
    return Run(spent, steady([point[0] for point in timeline], [point[1] + point[2] for point in timeline]))


def looked(folder: Path, rows: int) -> float:
    """Rows a second of the look before the first question."""
    source = folder / "look.jsonl"
    write_input(source, rows)
    spec, found = opened("probs", str(source), [], {}, load({"engine": "scripted"}, {}))
    began = time.monotonic()
    pipeline.count(spec.schema, found, spec.settings, Tally())
    return rows / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8000)
    rows = parser.parse_args().rows
    process, url = served(DELAY_S)
    with tempfile.TemporaryDirectory(prefix="fastqwen-bench-") as name:
        folder = Path(name)
        look = looked(folder, 100_000)
        cold, warm = run(folder, url, rows, 500), run(folder, url, rows, 500)
        start_s = max(0.0, cold.seconds - rows / look - rows / cold.steady)
        # Known rows are through before the timeline has two points.
        kept = rows / max(0.5, warm.seconds - start_s - rows / look)
        rates = Rates(gpu=1e6, prepared=cold.steady / CORES, kept=kept / CORES, looked=look, start_s=start_s)
        table = Table("rows", "known", "block", "foretold, s", "measured, s", "error")
        for many, known, block in ((3 * rows, 1 / 3, 500), (3 * rows, 1.0, 500), (4 * rows, 3 / 4, 100)):
            job = Job(many, 1, CORES, known, block, load_s=0.0)
            foretold, measured = forecast(job, rates).seconds, run(folder, url, many, block).seconds
            error = f"{foretold / measured - 1:+.0%}"
            table.add_row(
                f"{many:,}", f"{known:.0%}", str(block), f"{foretold:.0f}", f"{measured:.0f}", error
            )
    process.terminate()
    print(
        f"looked {look:,.0f}, prepared {rates.prepared:,.0f}, kept {rates.kept:,.0f} rows/s; "
        f"start {rates.start_s:.0f} s",
        file=sys.stdout,
    )
    Console().print(table)


if __name__ == "__main__":
    main()
