"""What a tier of the cache gives a second machine, and what it costs when it is not well.

    python benchmarks/tier.py [--rows 40000] [--rounds 3] [--only second overlap unwell images]

Needs redis-server (or valkey-server) and the extra `tier`; the server listens on loopback. Runs go
through the command line; seconds of the processor are those of all its processes, beside the server's own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import redis
from rich.console import Console
from rich.table import Table

from cache.tier.values import Seals
from caching import CATALOGUE, prompt_of
from tgi_stack.answers.images import ImageCodec
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY

PARTS = ("second", "overlap", "unwell", "images")
GIGABIT = 110e6  # bytes a second that arrive


class Ran(NamedTuple):
    """A run of the command: seconds of the clock and of the processor, and rows that were asked for."""

    wall_s: float
    cpu_s: float
    asked: int


@contextmanager
def server(folder: Path) -> Iterator[redis.Redis]:
    """A server of our own, in memory alone."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("no redis-server: apt-get install redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bounds = ("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru")
    command = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
        *bounds,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: S603
        time.sleep(1.0)
        yield redis.Redis(port=port)
        process.kill()


def url_of(client: redis.Redis) -> str:
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"


def used_s(client: redis.Redis) -> float:
    """Seconds of the processor that the server has used."""
    told = dict(client.info("cpu"))
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def begin(arguments: list[str], out: Path) -> subprocess.Popen[bytes]:
    command = [
        str(Path(sys.executable).with_name("fastqwen")),
        *arguments,
        "-o",
        str(out),
        "--overwrite",
        "--json",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603


def run(arguments: list[str], out: Path) -> Ran:
    began = time.perf_counter()
    process = begin(arguments, out)
    told = process.stdout.read() if process.stdout is not None else b""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    counts = json.loads(told)
    return Ran(time.perf_counter() - began, used.ru_utime + used.ru_stime, counts["ok"] - counts["cached"])


def rows_of(path: Path, numbers: range) -> Path:
    """Prompts of 500 tokens, with 20 labels each."""
    tokenizer = Tokenizer(TINY / "text" / "tokenizer.json")
    bodies = [prompt_of(tokenizer, 470, seed) for seed in range(50)]
    with path.open("w") as file:
        for number in numbers:
            text = f"{number}: {bodies[number % 50]}\n"
            file.write(json.dumps({"id": str(number), "prompt": text, "num_candidates": 20}) + "\n")
    return path


# -- parts -----------------------------------------------------------------------------------------------


def second(client: redis.Redis, folder: Path, rows: int, rounds: int) -> Table:
    """A second machine with an empty cache, and with a warm one, in turns."""
    table = Table("machine", "seconds", "rows/s", "processor, us a row", "the server's", "asked", "load")
    table.title = f"probs, {rows:,} rows of 500 tokens and 20 labels, {os.cpu_count()} cores"
    asked = rows_of(folder / "rows.jsonl", range(rows))
    job = ["probs", str(asked), "--engine", "scripted", "--quiet"]
    tier = ["--cache-tier", url_of(client)]
    run([*job, *tier, "--cache-dir", str(folder / "first")], folder / "first.jsonl")
    found: dict[str, list[tuple[Ran, float]]] = {
        "empty cache, tier": [],
        "warm cache, tier": [],
        "warm, none": [],
    }
    for number in range(rounds):
        cache = ["--cache-dir", str(folder / f"second{number}")]
        for name, more in zip(found, (tier, tier, []), strict=True):
            before = used_s(client)
            ran = run([*job, *more, *cache], folder / "second.jsonl")
            found[name].append((ran, used_s(client) - before))
    for name, several in found.items():
        ran, servers_s = sorted(several)[len(several) // 2]
        cells = (f"{ran.wall_s:.1f}", f"{rows / ran.wall_s:,.0f}", f"{1e6 * ran.cpu_s / rows:.0f}")
        table.add_row(
            name, *cells, f"{1e6 * servers_s / rows:.0f}", f"{ran.asked:,}", f"{os.getloadavg()[0]:.1f}"
        )
    return table


def overlap(client: redis.Redis, folder: Path, rows: int) -> Table:
    """Two jobs at the same time, of which half the rows are the same."""
    table = Table(
        "rows of each", "the same", "asked together", "of the union", title="two jobs at once, 20 ms a row"
    )
    jobs = [range(rows), range(rows // 2, rows + rows // 2)]
    processes = []
    for number, numbers in enumerate(jobs):
        asked = rows_of(folder / f"overlap{number}.jsonl", numbers)
        told = ["--engine", "scripted", "--model", "delay_s=0.02", "--cache-tier", url_of(client)]
        cache = ["--cache-dir", str(folder / f"overlap{number}")]
        processes.append((["probs", str(asked), *told, *cache], folder / f"overlap{number}.out.jsonl"))
    counts = [json.loads(one.communicate()[0]) for one in [begin(*process) for process in processes]]
    asked_of = sum(one["ok"] - one["cached"] for one in counts)
    union = rows + rows // 2
    table.add_row(f"{rows:,}", f"{rows - rows // 2:,}", f"{asked_of:,}", f"{asked_of / union:.4f}")
    return table


def unwell(client: redis.Redis, folder: Path, rows: int, rounds: int) -> Table:
    """Cold runs of an engine of 20 ms without a tier, with one that is well, and with those that are not."""
    table = Table(
        "tier", "seconds", "against none", "processor, s", title=f"{rows:,} rows, 20 ms a row, in turns"
    )
    asked = rows_of(folder / "unwell.jsonl", range(rows))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tiers = {
            "none": [],
            "well": ["--cache-tier", url_of(client)],
            "down": ["--cache-tier", "redis://127.0.0.1:1/0"],
            "never answers": ["--cache-tier", f"redis://127.0.0.1:{silent.getsockname()[1]}/0"],
        }
        found: dict[str, list[Ran]] = {name: [] for name in tiers}
        for number in range(rounds):
            client.flushall()
            for name, more in tiers.items():
                cache = ["--cache-dir", str(folder / f"unwell {name} {number}")]
                told = ["probs", str(asked), "--engine", "scripted", "--model", "delay_s=0.02", "--quiet"]
                found[name].append(run([*told, *more, *cache], folder / "unwell.out.jsonl"))
    none = statistics.median(ran.wall_s for ran in found["none"])
    for name, several in found.items():
        wall, cpu = (statistics.median(column) for column in list(zip(*several, strict=True))[:2])
        table.add_row(name, f"{wall:.1f}", f"{wall - none:+.1f} s, {wall / none:.3f}", f"{cpu:.1f}")
    return table


def images(client: redis.Redis, rounds: int) -> Table:
    """Prepared images: made, and from the tier."""
    photos = sorted((CATALOGUE / "images").glob("*.jpg"))
    grid, seals = Grid.from_checkpoint(TINY / "vision"), Seals()
    contents = [photo.read_bytes() for photo in photos]
    began = time.process_time()
    made = [prepare(content, "photo.jpg", grid) for content in contents * rounds][: len(photos)]
    made_ms = 1e3 * (time.process_time() - began) / (rounds * len(photos))
    asked = [seals.asked("I" + image.sha256) for image in made]
    values = [seals.seal(one, ImageCodec.encode(image)) for one, image in zip(asked, made, strict=True)]
    keys = [one.key for one in asked]
    client.mset(dict(zip(keys, values, strict=True)))
    began = time.process_time()
    for _ in range(rounds):
        blobs: list[bytes] = client.mget(keys)  # type: ignore[assignment]
        for one, blob in zip(asked, blobs, strict=True):
            ImageCodec.decode(seals.opened(one, blob))
    read_ms = 1e3 * (time.process_time() - began) / (rounds * len(photos))
    size = statistics.mean(map(len, values))
    table = Table(
        "bytes", "made, ms of a core", "read, ms of a core", "ms of a gigabit", title=f"{len(photos)} images"
    )
    table.add_row(f"{size:,.0f}", f"{made_ms:.2f}", f"{read_ms:.2f}", f"{1e3 * size / GIGABIT:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--slow-rows", type=int, default=6_000, help="of the runs whose engine takes 20 ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    args = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as client:
        folder = Path(place)
        if "second" in args.only:
            console.print(second(client, folder, args.rows, args.rounds))
        if "overlap" in args.only:
            console.print(overlap(client, folder, args.slow_rows))
        if "unwell" in args.only:
            console.print(unwell(client, folder, args.slow_rows, args.rounds))
        if "images" in args.only:
            console.print(images(client, 10))


if __name__ == "__main__":
    main()
