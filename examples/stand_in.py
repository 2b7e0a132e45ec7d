"""A server on this machine that stands in for vLLM, where there is none: it runs a command against it.

    python examples/stand_in.py .venv/bin/fastqwen rerank SESSIONS --items ITEMS -o OUT

The command gets `--endpoint URL --model tiny` behind it. The server listens on loopback until the command
ends. Requests, replies and numbers are as vLLM gives them; what computes is the small text checkpoint that
ships, one prompt after the other. It is there to be looked at, not to be used.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.loopback import serve
from tgi_stack.engine.models import by_transformers
from tgi_stack.engine.placement import choose
from tgi_stack.hub import locate


@contextmanager
def stand_in() -> Iterator[str]:
    """The URL of a text server, until the block ends."""
    import torch

    model = by_transformers.load(locate("tiny", "text", None), sees=False, placement=choose("cpu", "fp32"))

    def logits(ids: Sequence[int]) -> Any:
        with torch.inference_mode():
            return model(torch.tensor([list(ids)])).logits[0, -1].double().numpy()

    with serve("vllm", logits=logits) as server:
        yield server.url


if __name__ == "__main__":
    with stand_in() as url:
        command = [*sys.argv[1:], "--endpoint", url, "--model", "tiny"]
        sys.exit(subprocess.run(command).returncode)  # noqa: S603  # the user's own command
