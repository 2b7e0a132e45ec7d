"""How long `fastqwen --help` takes, beside Python alone and a bare Typer program in the same run.

python benchmarks/startup.py [--repeats 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

GOAL_S = 0.4
BARE_TYPER = "import typer; app = typer.Typer(); app.command()(lambda: None); app()"


def seconds(command: list[str], repeats: int) -> list[float]:
    """Wall-clock seconds of each run, after one run to warm the disk cache."""
    spent = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603  # our own programs
        spent.append(time.perf_counter() - began)
    return spent[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    programs = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "a bare Typer program": [sys.executable, "-c", BARE_TYPER, "--help"],
        "fastqwen --help": [str(Path(sys.executable).with_name("fastqwen")), "--help"],
    }
    table = Table("program", "median s", "least s", "most s", title=f"start-up, {repeats} runs each")
    for name, command in programs.items():
        runs = seconds(command, repeats)
        table.add_row(name, f"{statistics.median(runs):.3f}", f"{min(runs):.3f}", f"{max(runs):.3f}")
    Console().print(table)
    print(f"goal for fastqwen --help: {GOAL_S} s")


if __name__ == "__main__":
    main()
