"""Rows a second, start and memory of `--runner ray` beside the plain runner, in turn, with the same server.

    python benchmarks/ray_rows.py [--rows 30000] [--delay-ms 20] [--workers 2] [--rows-per-block 500]

A server in a process of its own answers label reads in vLLM's dialect after a delay; no cache. The steady
state is what comes between the first tenth of the rows and the last one; the start is all time beside it.
Memory is the sum of the proportional shares (PSS) of all processes of a run, at its peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from client import served
from rows import write_input

FASTQWEN = str(Path(sys.executable).with_name("fastqwen"))
OWN_FOLDER = "/fastqwen-ray-"
SAMPLE_EVERY_S = 1.0


class Memory:
    """The most that the processes of a run held, in MiB, and how many they were then."""

    def __init__(self, root: int) -> None:
        self.peak = 0.0
        self.processes = 0
        self._root = root
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            found = [size for pid in _of_run(self._root) if (size := _pss_mib(pid))]
            if sum(found) > self.peak:
                self.peak, self.processes = sum(found), len(found)


def _of_run(root: int) -> Iterator[int]:
    """A process, its descendants, and what holds files of a cluster of its own."""
    parents: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    for pid in parents:
        above = pid
        while above not in (root, 0):
            above = parents.get(above, 0)
        if above == root or _holds_files(pid):
            yield pid


def _holds_files(pid: int) -> bool:
    try:
        return any(OWN_FOLDER in str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measured(arguments: list[str], manifest: Path) -> dict[str, Any]:
    """What one command took."""
    began = time.time()
    command = [FASTQWEN, *arguments, "--no-cache", "--quiet", "--overwrite"]
    process = subprocess.Popen(command)  # noqa: S603  # our own program
    memory = Memory(process.pid)
    status = process.wait()
    spent = time.time() - began
    memory.end()
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with {status}")
    timeline = json.loads(manifest.read_text())["timeline"]
    seconds = [point[0] for point in timeline["points"]]
    rows = [point[1] + point[2] for point in timeline["points"]]
    return {"s": spent, "memory": memory, "steady": steady(seconds, rows), "seconds": seconds, "rows": rows}


def steady(seconds: list[float], rows: list[int]) -> float:
    """Rows a second from the first tenth of the rows to the last one."""
    whole = rows[-1]
    inner = [(s, n) for s, n in zip(seconds, rows, strict=True) if whole * 0.1 <= n <= whole * 0.9]
    if len(inner) < 2 or inner[-1][0] <= inner[0][0]:
        return 0.0
    return (inner[-1][1] - inner[0][1]) / (inner[-1][0] - inner[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--rows-per-block", default="500")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    table = Table("runner", "s", "start, s", "steady, rows/s", "peak MiB", "processes")
    process, url = served(args.delay_ms / 1000)
    with tempfile.TemporaryDirectory(prefix="fastqwen-bench-") as name:
        source = Path(name, "in.jsonl")
        write_input(source, args.rows)
        asked = ["probs", str(source), "--engine", "vllm", "--endpoint", url, "--model", "tiny"]
        plain, folder = Path(name, "plain.jsonl"), Path(name, "parts")
        ray = ["--runner", "ray", "--workers", args.workers, "--rows-per-block", args.rows_per_block]
        for _ in range(args.repeats):
            for runner, more, manifest in (
                ("local", ["-o", str(plain)], Path(f"{plain}.run.json")),
                ("ray", ["-o", str(folder), *ray], folder / "run.json"),
            ):
                found = measured([*asked, *more], manifest)
                memory = found["memory"]
                start = found["s"] - args.rows / max(1.0, found["steady"])
                cells = (f"{found['s']:.1f}", f"{start:.1f}", f"{found['steady']:,.0f}")
                table.add_row(runner, *cells, f"{memory.peak:,.0f}", str(memory.processes))
    process.terminate()
    Console().print(table)


if __name__ == "__main__":
    main()
