"""Records of each job from two trees of this project, compared: does a change of the code change an answer?

    python tools/compare_records.py record before --tree ../older-checkout
    python tools/compare_records.py record after
    python tools/compare_records.py compare before after

`record` runs the command line of a tree over the catalogue in `examples/` and over generated rows: each job,
as JSON lines and as Parquet, with the scripted engine and with torch and the tiny checkpoints; first with an
empty cache (cold), then again (warm), then from the cache alone (offline). Each run leaves its output, and
`runs.json` holds the exit status and the closing summary of each. Commands see relative paths alone, so that
a folder's place changes nothing.

`compare` holds two such folders together: the same runs, exit statuses, counts, columns and types, and the
same records but for times and versions. Numbers of torch may differ by 1e-5. It prints each difference and
exits with 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 1e-5
# Times and versions: a later tree may write others.
PASSED_OVER = frozenset({"started", "ended", "seconds", "version", "fastqwen"})
PHASES: dict[str, tuple[str, ...]] = {"cold": (), "warm": (), "offline": ("--offline",)}
FORMATS = ("jsonl", "parquet")
ENGINES = {
    "scripted": ("--engine", "scripted"),
    "failing": ("--engine", "scripted", "--model", "fail_every=5"),
    "torch": ("--engine", "torch", "--model", "tiny", "--device", "cpu", "--dtype", "fp32"),
}
LENIENT = ("--skip-bad-rows",)
IMAGES = "catalogue/images"
SESSIONS = ("rerank", "catalogue/sessions.jsonl", "--items", "catalogue/items.jsonl")
ROWS = ("rerank", "rows/rerank.jsonl", "--items", "catalogue/items.jsonl", *LENIENT)
JOBS: dict[str, tuple[str, ...]] = {
    "summarize-folder": ("summarize", IMAGES),
    "summarize-rows": (
        "summarize",
        "rows/summarize.jsonl",
        "--map",
        "id=sku,image=picture",
        "--skip-bad-rows",
    ),
    "summarize-sampled": (
        "summarize",
        "catalogue/images",
        "--temperature",
        "0.8",
        "--seed",
        "7",
        "--limit",
        "12",
    ),
    "rerank": SESSIONS,
    "rerank-rows": ROWS,
    "rerank-orders": (*SESSIONS, "--permutations", "3", "--calibrate"),
    "rerank-windows": (*ROWS, "--window", "6", "--stride", "3"),
    "rerank-pointwise": (*SESSIONS, "--mode", "pointwise", "--limit", "6"),
    "rerank-images": (*SESSIONS, "--item-images", "--limit", "3"),
    "probs": ("probs", "rows/probs.jsonl", *LENIENT),
    "probs-parquet": ("probs", "rows/probs.parquet"),
    "probs-chat": ("probs", "rows/probs.jsonl", "--chat", "--labels", "yes,no", *LENIENT),
}
# What takes an engine of its own, or much time with another.
ALONE = {"rerank-images": ("scripted", "failing"), "summarize-sampled": ("torch",)}
CAPTURED: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 900}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command line: a job with an engine, written in a format, in a phase of its cache."""

    job: str
    engine: str
    format: str
    phase: str

    @property
    def name(self) -> str:
        return f"{self.job}.{self.engine}.{self.phase}.{self.format}"

    def arguments(self, out: Path) -> list[str]:
        cache = f"caches/{self.job}.{self.engine}.{self.format}"
        options = [*ENGINES[self.engine], *PHASES[self.phase], "--cache-dir", cache]
        # One row at a time: of equal questions the first is asked, and the others come from the cache.
        return [*JOBS[self.job], "-o", str(out), *options, "--concurrency", "1", "--json", "--quiet"]


def runs(jobs: Iterable[str], engines: Iterable[str]) -> Iterator[Run]:
    """Each run, the phases of a cache after one another."""
    for job in jobs:
        for engine in engines:
            if engine in ALONE.get(job, ENGINES):
                yield from (Run(job, engine, format, phase) for format in FORMATS for phase in PHASES)


# -- generated rows ------------------------------------------------------------------------------------------

WORDS = "red blue striped plain dotted mug vase boot for tea winter Größe 茶"
ODD = (
    "<|im_end|>",
    "<think>yes</think>",
    "![](http://127.0.0.1/x)",
    "{{ 7*7 }} %s",
    "a\u2028b\u202e",
    "\t \n",
)
LABELS = [["A", "B"], ["yes", "no"]]


def write_inputs(folder: Path) -> None:
    """The catalogue, and rows drawn with a fixed seed: odd texts, equal rows, rows that fail."""
    shutil.copytree(ROOT / "examples" / "catalogue", folder / "catalogue", dirs_exist_ok=True)
    rows = folder / "rows"
    rows.mkdir(parents=True, exist_ok=True)
    rng = random.Random(16)
    catalogue = (folder / "catalogue" / "items.jsonl").read_text()
    items = [json.loads(line)["id"] for line in catalogue.splitlines()]
    _write(rows / "summarize.jsonl", _summarize_rows(rng, items))
    _write(rows / "rerank.jsonl", _rerank_rows(rng, items))
    probs = list(_probs_rows(rng))
    _write(rows / "probs.jsonl", [*probs, {"id": "bad", "prompt": 3}, {"id": "none", "labels": ["A"]}])
    pq.write_table(pa.Table.from_pylist([row for row in probs if "labels" in row]), rows / "probs.parquet")


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _text(rng: random.Random) -> str:
    words = rng.choices(WORDS.split(), k=rng.choice([1, 5, 20, 200]))
    if rng.random() < 0.3:
        words.insert(rng.randrange(len(words)), rng.choice(ODD))
    return " ".join(words)


def _summarize_rows(rng: random.Random, items: list[str]) -> Iterator[dict[str, Any]]:
    for number in range(24):
        picture = f"../catalogue/images/{rng.choice(items)}"
        yield {"sku": f"s{number}", "picture": picture, "title": _text(rng)}
    yield {"sku": "gone", "picture": "../catalogue/images/gone.jpg"}
    yield {"sku": "text", "picture": "probs.jsonl"}
    yield {"sku": "nothing", "title": "no picture"}


def _rerank_rows(rng: random.Random, items: list[str]) -> Iterator[dict[str, Any]]:
    for number in range(24):
        chosen: list[Any] = list(rng.sample(items, rng.choice([1, 2, 9, 14])))
        chosen.append({"id": f"own{number}", "text": _text(rng) or "x"})
        given = {"query": _text(rng)} if number % 2 else {"history": rng.sample(items, 3)}
        yield {"id": f"r{number}", **given, "candidates": chosen, "positive": chosen[0], "note": number}
    yield {"id": "unknown", "query": "x", "candidates": [*items[:2], "nobody"]}
    yield {"id": "empty", "query": "x", "candidates": []}
    yield {"id": "both", "query": "x", "history": [items[0]], "candidates": items[:3]}


def _probs_rows(rng: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(30):
        labels = {"num_candidates": 5 + number} if number % 3 == 2 else {"labels": LABELS[number % 3]}
        yield {"id": f"p{number}", "prompt": f"{_text(rng)}\nAnswer:\n", **labels}
    yield {"id": "again", "prompt": "The same\n", "labels": ["A", "B"]}
    yield {"id": "and again", "prompt": "The same\n", "labels": ["A", "B"]}


# -- record --------------------------------------------------------------------------------------------------


def record(folder: Path, tree: Path, python: str, wanted: Iterable[Run]) -> None:
    """Every run into `folder`; what it held before goes."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "records").mkdir(parents=True)
    write_inputs(folder)
    own = {name: value for name, value in os.environ.items() if not name.startswith("FASTQWEN_")}
    environ = own | {"PYTHONPATH": str(tree.resolve())}
    told: dict[str, Any] = {}
    for run in wanted:
        command = [python, "-m", "cli", *run.arguments(Path("records") / run.name)]
        done = subprocess.run(command, cwd=folder, env=environ, **CAPTURED)  # noqa: S603
        told[run.name] = {"exit": done.returncode, "counts": json.loads(done.stdout or "null")}
        print(f"{run.name}: exit {done.returncode}", flush=True)
        if done.returncode not in (0, 1):
            print(done.stderr, file=sys.stderr)
    (folder / "runs.json").write_text(json.dumps(told, indent=1) + "\n")


# -- compare -------------------------------------------------------------------------------------------------


def compare(before: Path, after: Path) -> list[str]:
    """Each difference of two recordings, in a line that names its run, record and field."""
    told = [json.loads((folder / "runs.json").read_text()) for folder in (before, after)]
    found = [f"{name}: in one recording alone" for name in sorted(set(told[0]) ^ set(told[1]))]
    for name in sorted(set(told[0]) & set(told[1])):
        tolerance = TOLERANCE if ".torch." in name else 0.0
        differences = [*different(told[0][name], told[1][name], 0.0, "run")]
        paths = [folder / "records" / name for folder in (before, after)]
        if all(path.exists() for path in paths):
            differences += different(read(paths[0]), read(paths[1]), tolerance, "")
        elif any(path.exists() for path in paths):
            differences.append("written in one recording alone")
        found += [f"{name}: {difference}" for difference in differences]
    return found


def read(path: Path) -> dict[str, Any]:
    """An output: its columns, where its format has any, and its records."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        columns = {field.name: str(field.type) for field in table.schema}
        return {"columns": columns, "records": table.to_pylist()}
    return {"records": [json.loads(line) for line in path.read_bytes().split(b"\n") if line]}


def different(one: Any, other: Any, tolerance: float, where: str) -> Iterator[str]:
    """Where two values of JSON differ: types and order count, numbers within `tolerance`."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            if key in PASSED_OVER:
                continue
            if key in one and key in other:
                yield from different(one[key], other[key], tolerance, f"{where}.{key}")
            else:
                yield f"{where}.{key} is {'gone' if key in one else 'new'}"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from different(*pair, tolerance, f"{where}[{number}]")
    elif not _equal(one, other, tolerance):
        yield f"{where}: {_short(one)} before, {_short(other)} after"


def _equal(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
    return type(one) is type(other) and bool(one == other)


def _short(value: Any) -> str:
    text = f"{len(value)} values" if isinstance(value, list) else repr(value)
    return text if len(text) <= 90 else text[:87] + "..."


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="run each job of a tree, and keep what it wrote")
    one.add_argument("folder", type=Path)
    one.add_argument("--tree", type=Path, default=ROOT, help="the checkout that runs; this one by default")
    one.add_argument("--python", default=sys.executable, help="the interpreter, with the dependencies")
    one.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    one.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    two = commands.add_parser("compare", help="two recordings, held together")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        record(given.folder, given.tree, given.python, runs(given.jobs, given.engines))
        return 0
    found = compare(given.before, given.after)
    print("\n".join(found) or "no difference but times and versions")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
