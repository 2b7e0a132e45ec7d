"""Rows a second of the look at a whole input before the first question: by this process alone, and by many.

    python benchmarks/looking.py [--rows 40000] [--processes 2]

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
from tgi_stack.rows.looking.crowd import MOST, seen_by_many
from tgi_stack.rows.looking.per_row import Duplicates
from tgi_stack.rows.looking.seen import Looker
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.schema import Schema


def floor(path: Path) -> float:
    """Seconds."""
    began = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            orjson.loads(line)
    return time.perf_counter() - began


def looked(path: Path, many: int) -> tuple[float, float]:
    """Seconds by the clock, and of this process, where so many others look."""
    source = open_source(str(path), kind="rerank")
    began, own = time.perf_counter(), time.process_time()
    with Duplicates() as ids:
        for number, id, _ in seen_by_many(source, Looker(Schema("rerank"), source.wanted), many):
            ids.add(number, id or "")
    return time.perf_counter() - began, time.process_time() - own


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40_000, help="written out")
    parser.add_argument("--processes", type=int, default=max(2, min(cores() - 1, MOST)), help="that look")
    args = parser.parse_args()
    table = Table("rows", "bytes a row", "way", "rows/s", "its own us", "floor", title=f"{cores()} cores")
    with tempfile.TemporaryDirectory(prefix="fastqwen-looking-") as name:
        for catalogue, rows in ((False, args.rows), (True, 4 * args.rows)):
            path, _ = sample_data.rerank_rows(Path(name), rows, candidates=20, catalogue=catalogue)
            least_s = floor(path)
            for many in (0, args.processes):
                seconds, own = looked(path, many)
                cells = [
                    f"{rows:,} {'ids' if catalogue else 'written out'}",
                    f"{path.stat().st_size / rows:.0f}",
                ]
                cells += [f"by {many}" if many else "alone", f"{rows / seconds:,.0f}"]
                cells += [f"{1e6 * own / rows:.1f}", f"{rows / least_s:,.0f}"]
                table.add_row(*cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
