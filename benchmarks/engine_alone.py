"""The torch engine alone: prompts of a file as token ids, in one call, after warming up.

    python benchmarks/engine_alone.py MODEL PROMPTS.jsonl DEVICE none|8bit|4bit|fp8

Prints the rate in prompts a second as JSON. Started by `end_to_end.py`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tgi_stack.backends.torch.backend import open_local, plan
from tgi_stack.settings import load
from tgi_stack.types import ScoreRequest


def main() -> None:
    model, source, device, quantization = sys.argv[1:5]
    settings = load({"engine": "torch", "model": model, "device": device, "quantization": quantization}, {})
    found = plan(settings, "text")
    backend = open_local(found)
    encode = found.profile.tokenizer.encode
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    asked = [ScoreRequest("", tuple(encode(row["prompt"])), (), tuple(row["label_ids"])) for row in rows]
    backend._runtime.score(asked[: max(1, len(asked) // 4)])
    began = time.perf_counter()
    backend._runtime.score(asked)
    print(json.dumps({"rate": len(asked) / (time.perf_counter() - began)}))


if __name__ == "__main__":
    main()
