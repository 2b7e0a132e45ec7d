"""The cache beside what the project's guide began with: lru_cache in memory, and plain diskcache.

    python benchmarks/caching.py [--rows 100000] [--entries 20000] [--no-runs]
    python benchmarks/caching.py --only-runs [probs rerank summarize]

Warm reruns go through the command line, offline, in processes of their own. `warm rows/s` is of a whole
rerun, its start and its end included; `steady rows/s` of its middle, where `run's us` is the CPU time of the
run's own process a row, without the processes that prepare rows.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diskcache
from rich.console import Console
from rich.table import Table

from cache.keys import digest
from cache.store import Store
from tgi_stack.answers.contexts import TokenAnswers
from tgi_stack.answers.images import ImageCodec, PreparedImages
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting.prompts import user_turn
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.settings import load
from tgi_stack.tiny import TINY
from watched import command

CATALOGUE = Path(__file__).resolve().parents[1] / "examples" / "catalogue"
VALUE = bytes(range(256)) * 2  # 512 bytes


def rate(times: int, work: Callable[[int], Any]) -> float:
    """How often a second; the median of three rounds."""
    found = []
    for _ in range(3):
        began = time.perf_counter()
        for number in range(times):
            work(number)
        found.append(times / (time.perf_counter() - began))
    return statistics.median(found)


def stores(folder: Path, entries: int) -> Table:
    """Reads and writes of 512 bytes."""
    names = [f"{number:064x}" for number in range(entries)]
    table = Table("512 bytes", "reads/s", "writes/s", title=f"{entries:,} entries")
    remembered = functools.lru_cache(maxsize=None)(lambda number: VALUE)
    for number in range(entries):
        remembered(number)
    table.add_row("lru_cache in memory", f"{rate(entries, remembered):,.0f}", "")
    plain = diskcache.Cache(str(folder / "plain"))
    writes = entries / timed(lambda: [plain.set(name, VALUE) for name in names])
    reads = rate(entries, lambda number: plain.get(names[number]))
    table.add_row("diskcache as it comes", f"{reads:,.0f}", f"{writes:,.0f}")
    store = Store(folder / "ours")

    def put_all() -> None:
        for name in names:
            store.put("labels", name, VALUE)
        store.flush()

    writes = entries / timed(put_all)
    reads = rate(entries, lambda number: store.get("labels", names[number]))
    table.add_row("fastqwen's (digests checked)", f"{reads:,.0f}", f"{writes:,.0f}")
    store.close()
    return table


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def values(folder: Path) -> Table:
    """An image and a prompt's token ids: made, and from the cache."""
    table = Table("value", "made, ms", "from the cache, ms", "times as fast")
    store = Store(folder / "values")
    grid = Grid.from_checkpoint(TINY / "vision")
    photo = max((CATALOGUE / "images").glob("*.jpg"), key=lambda path: path.stat().st_size)
    content = photo.read_bytes()
    answers = PreparedImages(grid, load({}, {}), store)
    made = prepare(content, photo.name, grid)
    key = answers.key(made.sha256)
    answers._kept.keep(key, made)
    store.flush()
    spent = 1e3 / rate(20, lambda number: prepare(content, photo.name, grid))
    found = 1e3 / rate(500, lambda number: answers._kept.known(key))
    size = f"{made.width}x{made.height} to {made.sent_width}x{made.sent_height}"
    table.add_row(f"image, {size}, {len(ImageCodec.encode(made)):,} bytes", *ratio(spent, found))
    tokenizer = Tokenizer(TINY / "text" / "tokenizer.json")
    text = user_turn(prompt_of(tokenizer, 500, 1), close_thinking=True)
    frame = user_turn("", close_thinking=True)
    tokens = TokenAnswers(store, tokenizer)
    tokens.encode_prompt(text, frame)
    store.flush()
    spent = 1e3 / rate(200, lambda number: tokenizer.encode(text))
    found = 1e3 / rate(2000, lambda number: tokens.encode_prompt(text, frame))
    table.add_row(f"token ids, {len(tokenizer.encode(text))} of them", *ratio(spent, found))
    store.close()
    return table


def ratio(made_ms: float, found_ms: float) -> tuple[str, str, str]:
    return f"{made_ms:.3f}", f"{found_ms:.4f}", f"{made_ms / found_ms:.0f}"


def prompt_of(tokenizer: Tokenizer, tokens: int, seed: int) -> str:
    rng = random.Random(seed)  # noqa: S311  # drawn prompts
    words = ["red", "mug", "for", "hot", "drinks", "at", "home", "blue", "striped", "hat", "summer", "travel"]
    text = f"{seed} "
    while len(tokenizer.encode(text)) < tokens:
        text += " ".join(rng.choice(words) for _ in range(20)) + ". "
    return text


# -- several processes -----------------------------------------------------------------------------------


def crowd(folder: Path, processes: int, writes: int) -> Table:
    """Processes that write and read at once while another one cleans up."""
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes + 1) as pool:
        stop = folder / "stop"
        cleaner = pool.apply_async(clean, (folder / "crowd", stop))
        ended = folder / "ended"
        workers = [pool.apply_async(work, (folder / "crowd", ended, n, writes)) for n in range(processes)]
        while len(list(folder.glob("done *"))) < processes:
            time.sleep(0.01)
        spent_s = time.perf_counter() - began
        stop.touch()
        rounds = cleaner.get()
        ended.touch()
        found = [worker.get() for worker in workers]
    kept = Store(folder / "crowd")
    values = {name: kept.get("labels", name) for n in range(processes) for name in names_of(n, writes)}
    kept.close()
    puts = sorted(value for times, _ in found for value in times)
    flushes = sorted(value for _, times in found for value in times)
    title = f"{processes} processes, {writes:,} writes each, {rounds} rounds of gc, {spent_s:.1f} s"
    table = Table("lost", "wrong", "", "median, ms", "p99, ms", "longest, ms", title=title)
    lost = sum(value is None for value in values.values())
    wrong = sum(value not in (None, name.encode()) for name, value in values.items())
    for what, times in (("a set", puts), ("100 sets, on disk", flushes)):
        places = (times[len(times) // 2], times[int(0.99 * len(times))], times[-1])
        table.add_row(f"{lost:,}", f"{wrong:,}", what, *(f"{1e3 * place:.3f}" for place in places))
    return table


def work(folder: Path, ended: Path, number: int, writes: int) -> tuple[list[float], list[float]]:
    """How long each put took, and each wait until 100 were on disk."""
    store = Store(folder)
    times, flushes = [], []
    names = names_of(number, writes)
    for place, name in enumerate(names):
        began = time.perf_counter()
        store.put("labels", name, name.encode())
        times.append(time.perf_counter() - began)
        store.get("labels", names[random.randrange(place + 1)])  # noqa: S311
        if place % 100 == 99:
            flushes.append(timed(store.flush))
    store.flush()
    (folder.parent / f"done {number}").touch()
    while not ended.exists():  # what a running job has written may not go; of one that is over it may
        time.sleep(0.01)
    store.close()
    return times, flushes


def names_of(number: int, writes: int) -> list[str]:
    return [digest(b"%d of %d" % (place, number)) for place in range(writes)]


def clean(folder: Path, stop: Path) -> int:
    """Collects garbage until it is told to stop."""
    store, rounds = Store(folder), 0
    while not stop.exists():
        store.gc(older_than_s=0.0)
        rounds += 1
        time.sleep(0.05)
    store.close()
    return rounds


# -- whole runs ------------------------------------------------------------------------------------------


def runs(folder: Path, rows: int, only: Sequence[str] | None) -> Table:
    """Warm reruns, offline, and what the cache adds to a run whose engine takes no time."""
    columns = (
        "job",
        "rows",
        "no cache, s",
        "cold, s",
        "added, ms a row",
        "warm, s",
        "warm rows/s",
        "steady rows/s",
        "run's us",
        "peak MiB",
    )
    table = Table(*columns, title="--engine scripted; the peak is of all processes together")
    os.environ["FASTQWEN_CACHE_DIR"] = str(folder / "runs")
    for name, job, count in jobs(folder, rows):
        if only and name not in only:
            continue
        arguments = [*job, "--engine", "scripted", "--quiet"]
        without, _ = run([*arguments, "--no-cache"], folder / f"{name}0.jsonl")
        cold, _ = run(arguments, folder / f"{name}1.jsonl")
        rounds = sorted(run([*arguments, "--offline"], folder / f"{name}2.jsonl") for _ in range(3))
        warm, peak = rounds[1]  # the median
        added = f"{1e3 * (cold - without) / count:.2f}"
        seen = command([*arguments, "--offline", "--overwrite"], folder / f"{name}2.jsonl", count)
        own = f"{seen.rate:,.0f}", f"{1e6 * seen.cpu_s:.0f}"
        times = f"{without:.1f}", f"{cold:.1f}", added, f"{warm:.1f}"
        table.add_row(name, f"{count:,}", *times, f"{count / warm:,.0f}", *own, f"{peak:.0f}")
    return table


def cold_runs(folder: Path, rows: int, rounds: int) -> Table:
    """Cold runs with a network that computes, with and without the cache, in turns."""
    table = Table(
        "job", "rows", "no cache, s", "cold, s", "cold / no cache", title="--engine torch --model tiny"
    )
    (_, job, _), *_ = jobs(folder, rows)
    arguments = [*job, "--engine", "torch", "--model", "tiny", "--device", "cpu", "--quiet"]
    spent: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * rounds):
        cached = (number + number // 2) % 2 == 0
        os.environ["FASTQWEN_CACHE_DIR"] = str(folder / f"cold{number}")
        flags = [] if cached else ["--no-cache"]
        spent[cached].append(run([*arguments, *flags], folder / "cold.jsonl")[0])
    without, cold = statistics.median(spent[False]), statistics.median(spent[True])
    ranges = (
        f"{median:.1f} ({min(found):.1f}-{max(found):.1f})"
        for median, found in ((without, spent[False]), (cold, spent[True]))
    )
    table.add_row("probs", f"{rows:,}", *ranges, f"{cold / without:.3f}")
    return table


def run(arguments: list[str], out: Path) -> tuple[float, float]:
    """Seconds of the command line, and the peak MiB of its processes together."""
    asked = [str(Path(sys.executable).with_name("fastqwen")), *arguments, "-o", str(out), "--overwrite"]
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(asked, stderr=subprocess.PIPE) as process:  # noqa: S603  # our own program
        while process.poll() is None:
            peak = max(peak, resident_pages(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(asked)} ended with {process.returncode}")
    return time.perf_counter() - began, peak * os.sysconf("SC_PAGE_SIZE") / 2**20


def resident_pages(process: int) -> int:
    """Of a process and of all that it started."""
    try:
        held = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has just ended
        return 0
    return held + sum(resident_pages(int(child)) for child in children)


def jobs(folder: Path, rows: int) -> list[tuple[str, list[str], int]]:
    tokenizer = Tokenizer(TINY / "text" / "tokenizer.json")
    bodies = [prompt_of(tokenizer, 470, seed) for seed in range(50)]
    rng = random.Random(1)  # noqa: S311
    probs = folder / "probs.in.jsonl"
    with probs.open("w") as file:
        for number in range(rows):
            text = f"{number}: {bodies[number % 50]}\n"
            file.write(json.dumps({"id": str(number), "prompt": text, "num_candidates": 20}) + "\n")
    items, sessions = folder / "items.jsonl", folder / "sessions.jsonl"
    with items.open("w") as file:
        for number in range(2000):
            words = " ".join(
                rng.choice(["red", "mug", "blue", "hat", "for", "home", "use"]) for _ in range(12)
            )
            file.write(json.dumps({"id": f"i{number}", "title": f"Item {number} {words}"}) + "\n")
    with sessions.open("w") as file:
        for number in range(rows):
            drawn = [f"i{place}" for place in rng.sample(range(2000), 25)]
            row = {"id": str(number), "history": drawn[:5], "candidates": drawn[5:]}
            file.write(json.dumps(row) + "\n")
    images = folder / "images.jsonl"
    paths = sorted((CATALOGUE / "images").iterdir())
    count = max(1, rows // 2)
    letters = string.ascii_lowercase
    with images.open("w") as file:
        for number in range(count):
            title = "".join(rng.choice(letters) for _ in range(20))
            row = {"id": str(number), "image": str(paths[number % len(paths)]), "title": title}
            file.write(json.dumps(row) + "\n")
    return [
        ("probs", ["probs", str(probs)], rows),
        ("rerank", ["rerank", str(sessions), "--items", str(items)], rows),
        ("summarize", ["summarize", str(images)], count),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help="of the whole runs")
    parser.add_argument("--entries", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--writes", type=int, default=2_000, help="of each process")
    parser.add_argument("--cold-rows", type=int, default=400, help="of the runs with a network")
    parser.add_argument("--no-runs", action="store_true", help="leave the whole runs out")
    parser.add_argument("--only-runs", nargs="*", metavar="JOB", help="the warm runs alone, of these jobs")
    args = parser.parse_args()
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="fastqwen-cache-") as name:
        folder = Path(name)
        if args.only_runs is not None:
            console.print(runs(folder, args.rows, args.only_runs))
            return
        console.print(stores(folder, args.entries))
        console.print(values(folder))
        console.print(crowd(folder, args.processes, args.writes))
        if not args.no_runs:
            console.print(runs(folder, args.rows, None))
            console.print(cold_runs(folder, args.cold_rows, 3))


if __name__ == "__main__":
    main()
