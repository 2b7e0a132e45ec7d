"""Rows a second of the look at a whole input before the first question: by this process alone, and by many.

    python benchmarks/looking.py [--rows 40000]

Rows of `rerank` with 20 candidates written out, and four times as many with 20 ids. `its own` is the CPU time
that this process takes a row. The floor is the JSON parsed by orjson alone, in this process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

import sample_data
from tgi_stack.concurrency import cores
from tgi_stack.rows.looking import crowd
from tgi_stack.rows.looking.check import check
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.schema import Schema


def floor(path: Path) -> float:
    """Seconds."""
    began = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            orjson.loads(line)
    return time.perf_counter() - began


def looked(path: Path, least: int) -> tuple[float, float]:
    """Seconds by the clock, and of this process; inputs of at least so many bytes are looked at by many."""
    crowd.LEAST_BYTES = least
    source = open_source(str(path), kind="rerank")
    began, own = time.perf_counter(), time.process_time()
    check(source, Schema("rerank"))
    return time.perf_counter() - began, time.process_time() - own


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40_000, help="written out")
    args = parser.parse_args()
    table = Table("rows", "bytes a row", "way", "rows/s", "its own us", "floor", title=f"{cores()} cores")
    with tempfile.TemporaryDirectory(prefix="fastqwen-looking-") as name:
        for catalogue, rows in ((False, args.rows), (True, 4 * args.rows)):
            path, _ = sample_data.rerank_rows(Path(name), rows, candidates=20, catalogue=catalogue)
            least_s = floor(path)
            for way, least in (("alone", 2**62), ("by many", 0)):
                seconds, own = looked(path, least)
                cells = [
                    f"{rows:,} {'ids' if catalogue else 'written out'}",
                    f"{path.stat().st_size / rows:.0f}",
                ]
                cells += [way, f"{rows / seconds:,.0f}", f"{1e6 * own / rows:.1f}", f"{rows / least_s:,.0f}"]
                table.add_row(*cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
