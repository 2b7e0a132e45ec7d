"""A report of many rankings: how large its page is, and how soon it can be used in a real browser.

    python benchmarks/report_page.py [--rows 10000] [--candidates 20] [--permutations 2]

Two runs of drawn sessions (scripted answers) are compared in one page. Each view is opened in a fresh context
of Chromium; the milliseconds are those that the page notes once a row can be found, sorted and opened.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.table import Table

FASTQWEN = Path(sys.executable).with_name("fastqwen")
VIEWS = {"overview": "", "rankings": "#view=rankings", "bias": "#view=trust", "one row": "#id=u7"}
TIMES = 5
WORDS = (
    "red",
    "blue",
    "teapot",
    "mug",
    "camping",
    "kitchen",
    "steel",
    "cotton",
    "classic",
    "vintage",
    "lamp",
)


def drawn(folder: Path, rows: int, candidates: int) -> None:
    """Sessions and 5,000 items."""
    rng = random.Random(1)  # noqa: S311  # drawn data
    items = [f"B{number:09d}" for number in range(5000)]
    with (folder / "items.jsonl").open("w") as file:
        for name in items:
            title, summary = (" ".join(rng.choices(WORDS, k=count)) for count in (8, 20))
            file.write(json.dumps({"id": name, "title": title, "summary": summary}) + "\n")
    with (folder / "sessions.jsonl").open("w") as file:
        for row in range(rows):
            names = rng.sample(items, candidates)
            session = {"id": f"u{row}", "history": rng.sample(items, 10), "candidates": names}
            file.write(json.dumps(session | {"positive": names[row % 7]}) + "\n")


def run(folder: Path, *arguments: str) -> None:
    environment = os.environ | {"FASTQWEN_NO_CACHE": "1"}
    asked = [str(FASTQWEN), *arguments, "--overwrite", "--quiet"]
    subprocess.run(asked, cwd=folder, env=environment, check=True)  # noqa: S603  # our own program


def usable_ms(browser: Browser, page: Path, at: str) -> list[float]:
    found = []
    for _ in range(TIMES):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        tab = context.new_page()
        tab.goto(page.as_uri() + at)
        while not (ready := tab.evaluate("document.body.dataset.ready")):
            time.sleep(0.01)
        found.append(float(ready))
        context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, value in (("rows", 10_000), ("candidates", 20), ("permutations", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        drawn(folder, given.rows, given.candidates)
        for out, reads in (("a.jsonl", given.permutations), ("b.jsonl", 1)):
            asked = ["--items", "items.jsonl", "--engine", "scripted", "--permutations", str(reads)]
            run(folder, "rerank", "sessions.jsonl", "-o", out, *asked)
        beside = ["--input", "sessions.jsonl", "--items", "items.jsonl"]
        run(folder, "report", "a.jsonl", "b.jsonl", *beside, "-o", "page.html")
        page = folder / "page.html"
        size = page.stat().st_size / 1e6
        title = f"{given.rows:,} rows of {given.candidates} candidates, two runs: {size:,.1f} MB"
        table = Table("view", "ms, median", "least", "most", "load", title=title)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for view, at in VIEWS.items():
            found = usable_ms(browser, page, at)
            values = [f"{value:,.0f}" for value in (statistics.median(found), min(found), max(found))]
            table.add_row(view, *values, f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        browser.close()
    Console().print(table)


if __name__ == "__main__":
    main()
