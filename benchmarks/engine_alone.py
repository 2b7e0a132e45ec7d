"""The torch engine alone over the same data, in one call, after warming up.

    python benchmarks/engine_alone.py MODEL PROMPTS.jsonl DEVICE none|8bit|4bit|fp8
    python benchmarks/engine_alone.py MODEL FOLDER DEVICE none|8bit|4bit|fp8 NEW_TOKENS

Prompts are given as token ids; of a folder of pictures each is prepared before the clock starts, and a
summary of so many tokens is written for it. Prints the rate of prompts or pictures a second as JSON. Started
by `end_to_end.py`.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tgi_stack.answers.questions import SummaryWriter
from tgi_stack.backends.torch.backend import LocalBackend, open_local, plan
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting import prompts
from tgi_stack.settings import Settings, load
from tgi_stack.types import PreparedImage, ScoreRequest


def scored(backend: LocalBackend, source: Path) -> float:
    """Prompts a second."""
    encode = backend.profile.tokenizer.encode
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    asked = [ScoreRequest("", tuple(encode(row["prompt"])), (), tuple(row["label_ids"])) for row in rows]
    backend._runtime.score(asked[: max(1, len(asked) // 4)])
    began = time.perf_counter()
    backend._runtime.score(asked)
    return len(asked) / (time.perf_counter() - began)


def written(backend: LocalBackend, settings: Settings, folder: Path) -> float:
    """Pictures a second."""
    if (grid := backend.profile.grid) is None:
        raise SystemExit("the model reads no pictures")
    with ProcessPoolExecutor() as pool:
        pictures = list(pool.map(partial(_prepared, grid), sorted(folder.iterdir()), chunksize=16))
    writer, body = SummaryWriter(backend.profile, settings, None), prompts.summary_body(None, None)
    asked = [writer.request(body, picture) for picture in pictures]
    for part in (asked[: max(1, len(asked) // 4)], asked):
        began = time.perf_counter()
        for answer in [backend._runtime.write(request) for request in part]:
            answer.result()
    return len(asked) / (time.perf_counter() - began)


def _prepared(grid: Grid, path: Path) -> PreparedImage:
    return prepare(path.read_bytes(), path.name, grid)


def main() -> None:
    model, source, device, quantization, *new_tokens = sys.argv[1:]
    told = {"engine": "torch", "device": device, "quantization": quantization}
    if new_tokens:
        settings = load(told | {"model": model, "max_new_tokens": int(new_tokens[0])}, {})
        rate = written(open_local(plan(settings, "vision")), settings, Path(source))
    else:
        rate = scored(open_local(plan(load(told | {"model": model}, {}), "text")), Path(source))
    print(json.dumps({"rate": rate}))


if __name__ == "__main__":
    main()
