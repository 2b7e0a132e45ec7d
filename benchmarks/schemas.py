"""What a schema costs: processor time of answers as free text and of answers held to a schema, by turns.

    python benchmarks/schemas.py [--images 12] [--new-tokens 24] [--turns 4] [--schema catalogue]

Both are cut at --new-tokens, so that they hold about as many tokens; the checkpoint is `tiny`, on the CPU.
Processor time is that of all threads of the process, since others may use the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tgi_stack.backends.base import Backend
from tgi_stack.backends.open import open_backend
from tgi_stack.backends.servers.probes import picture_request
from tgi_stack.prompting.forms import read_form
from tgi_stack.settings import Settings
from tgi_stack.types import CaptionRequest

SIDES = (96, 448)  # pixels: from the least to the most


async def spent(backend: Backend, requests: Sequence[CaptionRequest]) -> tuple[float, int]:
    """Processor time in seconds, and the tokens that were written."""
    began = time.process_time()
    answers = await asyncio.gather(*(backend.caption(request) for request in requests))
    return time.process_time() - began, sum(answer.completion_tokens for answer in answers)


async def measured(images: int, new_tokens: int, turns: int, schema: str) -> Table:
    settings = Settings.model_validate({"engine": "torch", "model": "tiny", "device": "cpu"})
    backend = await open_backend(settings, "vision", None)
    step = (SIDES[1] - SIDES[0]) // max(1, images - 1)
    sides = [SIDES[0] + step * number for number in range(images)]
    free = [picture_request(backend.profile, side, side, SIDES[1], new_tokens)[0] for side in sides]
    form = read_form(schema)
    held = [replace(request, form=form) for request in free]
    ways: dict[str, list[tuple[float, int]]] = {"free text": [], f"--schema {Path(schema).name}": []}
    try:
        await spent(backend, held)  # the schema is compiled, the network warm
        for _ in range(turns):
            for name, requests in zip(ways, (free, held), strict=True):
                ways[name].append(await spent(backend, requests))
    finally:
        await backend.aclose()
    table = Table("answers", "tokens an image", "processor ms a token, median", "least", "most")
    for name, found in ways.items():
        each = [1e3 * seconds / tokens for seconds, tokens in found]
        tokens = statistics.mean(tokens for _, tokens in found) / images
        table.add_row(name, f"{tokens:.1f}", *(f"{f(each):.2f}" for f in (statistics.median, min, max)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--schema", default="catalogue")
    given = parser.parse_args()
    Console().print(asyncio.run(measured(given.images, given.new_tokens, given.turns, given.schema)))


if __name__ == "__main__":
    main()
