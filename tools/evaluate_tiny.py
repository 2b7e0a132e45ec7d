"""Accuracy of the `tiny` checkpoints on pictures and sessions never seen in training.

    python tools/evaluate_tiny.py [--images 600] [--sessions 400] [--model tiny] [--json FILE]

Both go through the project's own way: pictures as JPEG files' bytes through `images` and the torch engine,
sessions through the listwise prompt. Streams of random numbers are named apart from the training's.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import time
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drawing import camera, draw
from session_data import Session, draw_session
from tgi_stack import settings
from tgi_stack.backends.base import Backend
from tgi_stack.backends.open import open_backend
from tgi_stack.images.prepare import prepare
from tgi_stack.jobs.rerank.job import Rerank
from tgi_stack.jobs.summarize import Summarize
from tgi_stack.types import RerankRow
from tiny_world import Look, parse, random_look

STREAM = "evaluate"
ATTRIBUTES = ("category", "colour", "pattern", "count")
SESSION_SIZES = (2, 5, 10, 20, 35, 52)
REQUIRED = {"all four": 0.90, 5: 0.95, 20: 0.90, 52: 0.80}


def pictures(count: int) -> Iterator[tuple[Look, bytes]]:
    """Held-out pictures of 160 to 900 pixels as JPEG files, with their truth."""
    for index in range(count):
        rng = random.Random(f"{STREAM}:picture:{index}")
        look = random_look(rng)
        width = rng.randint(160, 900)
        size = (width, max(120, min(900, round(width * rng.uniform(0.5, 2.0)))))
        buffer = io.BytesIO()
        camera(draw(look, rng, size), rng).save(buffer, "JPEG", quality=85)
        yield look, buffer.getvalue()


def sessions(count: int, candidates: int) -> Iterator[Session]:
    """Held-out sessions with that many candidates."""
    for index in range(count):
        rng = random.Random(f"{STREAM}:session:{candidates}:{index}")
        yield draw_session(rng, candidates, None if rng.random() < 0.15 else rng.randint(3, 20))


async def judge_pictures(backend: Backend, count: int) -> dict[str, float]:
    """The share of pictures with each attribute right, and with all four."""
    job = Summarize(backend, settings.load({}, {}), Path())
    grid = backend.profile.grid
    if grid is None:
        raise SystemExit("the vision model reads no images")

    async def one(look: Look, content: bytes) -> list[bool]:
        image = await asyncio.to_thread(prepare, content, "picture", grid)
        answer = parse((await job.ask(None, None, image))["summary"])
        said = astuple(answer) if answer else (None,) * 4
        return [a == b for a, b in zip(said, astuple(look), strict=True)]

    right = await _bounded(
        [(look, content) for look, content in pictures(count)], one, backend.max_concurrency
    )
    shares = {name: sum(row[i] for row in right) / count for i, name in enumerate(ATTRIBUTES)}
    await job.aclose()
    return shares | {"all four": sum(map(all, right)) / count}


async def judge_sessions(backend: Backend, count: int, candidates: int) -> float:
    """The share of sessions whose first-ranked candidate is the one that fits."""
    job = Rerank(backend, settings.load({"max_history": 20}, {}), {})

    async def one(session: Session) -> bool:
        row = RerankRow(1, "s", session.candidates, session.history, session.query)
        ranking = (await job.answer(row))["ranking"]
        return bool(ranking[0]["id"] == session.candidates[session.answer].id)

    right = await _bounded(
        [(session,) for session in sessions(count, candidates)], one, backend.max_concurrency
    )
    return float(sum(right)) / count


async def _bounded(work: list[Any], one: Any, most: int) -> list[Any]:
    limit = asyncio.Semaphore(most)

    async def guarded(arguments: Any) -> Any:
        async with limit:
            return await one(*arguments)

    return await asyncio.gather(*(guarded(arguments) for arguments in work))


async def evaluate(args: argparse.Namespace) -> dict[str, float]:
    """All shares by name: attributes, `all four`, and the numbers of candidates as strings."""
    results: dict[str, float] = {}
    for kind in ("vision", "text"):
        flags = {"engine": "torch", "model": args.model, "device": args.device, "dtype": args.dtype}
        backend = await open_backend(
            settings.load(flags | {"llm_batch_size": 16, "semantic_summary_batch_size": 16}, {}), kind
        )
        try:
            if kind == "vision":
                results |= await judge_pictures(backend, args.images)
            else:
                for candidates in SESSION_SIZES:
                    results[str(candidates)] = await judge_sessions(backend, args.sessions, candidates)
        finally:
            await backend.aclose()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--sessions", type=int, default=400, help="for each number of candidates")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    results = asyncio.run(evaluate(args))
    table = Table(
        "held out",
        "right",
        "required",
        "chance",
        title=f"{args.images} pictures, {args.sessions} sessions of each size",
    )
    chances = {"category": 1 / 14, "colour": 1 / 8, "pattern": 1 / 3, "count": 1 / 3, "all four": 1 / 1008}
    for name, share in results.items():
        required = REQUIRED.get(int(name) if name.isdigit() else name)
        chance = chances.get(name) or 1 / int(name)
        label = f"top-1 of {name} candidates" if name.isdigit() else name
        table.add_row(label, f"{share:.1%}", f"{required:.0%}" if required else "", f"{chance:.1%}")
    Console().print(table)
    print(f"{time.monotonic() - began:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    if any(results[str(name)] < least for name, least in REQUIRED.items()):
        raise SystemExit("below what is required")


if __name__ == "__main__":
    main()
