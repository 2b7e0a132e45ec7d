"""Rows a second and memory of a whole run, with a scripted backend in the network's place.

    python benchmarks/rows.py [--rows 10000 100000]

For each number of rows: a first run, then the same command with its part file put back as if it had been
killed at the end (resuming). Beside it, in the same run, the reference: reading and writing the same lines
with the `json` module alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

# Runs a command and prints its peak resident memory, which only a parent can ask for.
MEASURE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def write_input(path: Path, rows: int) -> None:
    """Rows of `probs` with two labels."""
    with path.open("w") as file:
        for number in range(rows):
            row = {"id": f"row-{number}", "prompt": f"Is {number} even?\n", "labels": ["A", "B"]}
            file.write(json.dumps(row) + "\n")


def reference(source: Path, out: Path) -> float:
    """Seconds to read each line, make the record that stands in the output, and write it."""
    began = time.perf_counter()
    with source.open() as lines, out.open("w") as file:
        for line in lines:
            row = json.loads(line)
            record = row | {"status": "ok", "probabilities": [0.5, 0.5], "logprobs": [-0.7, -0.7]}
            file.write(json.dumps(record) + "\n")
    return time.perf_counter() - began


def run(source: Path, out: Path) -> tuple[float, float]:
    """Seconds and peak MiB of one command."""
    began = time.perf_counter()
    peak = peak_mib(["probs", str(source), "-o", str(out), "--engine", "scripted", "--quiet"])
    return time.perf_counter() - began, peak


def peak_mib(arguments: list[str]) -> float:
    """The most memory that the command line takes with these arguments."""
    command = [str(Path(sys.executable).with_name("fastqwen")), *arguments]
    done = subprocess.run(  # noqa: S603  # our own program
        [sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True
    )
    return int(done.stdout) / 1024


def resumable(out: Path) -> None:
    """Puts an output back to where it was before it was put in order: all rows in the part file."""
    part = out.with_name(out.name + ".part.jsonl")
    with out.open("rb") as records, part.open("wb") as file:
        for number, line in enumerate(records, 1):
            file.write(b'{"row":%d,"status":"ok","record":%s}\n' % (number, line[:-1]))
    out.unlink()
    manifest = out.with_name(out.name + ".run.json")
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"state": "running"}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    sizes = parser.parse_args().rows
    table = Table("rows", "run s", "rows/s", "peak MiB", "resume s", "resume peak MiB", "json alone s")
    with tempfile.TemporaryDirectory(prefix="fastqwen-rows-") as name:
        for rows in sizes:
            source, out = Path(name, f"{rows}.jsonl"), Path(name, f"{rows}.out.jsonl")
            write_input(source, rows)
            alone_s = reference(source, Path(name, "reference.jsonl"))
            run_s, peak = run(source, out)
            resumable(out)
            resume_s, resume_peak = run(source, out)
            cells = (f"{run_s:.1f}", f"{rows / run_s:,.0f}", f"{peak:.0f}")
            more = (f"{resume_s:.1f}", f"{resume_peak:.0f}", f"{alone_s:.1f}")
            table.add_row(f"{rows:,}", *cells, *more)
    Console().print(table)


if __name__ == "__main__":
    main()
