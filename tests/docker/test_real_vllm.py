"""A real vLLM, on the processor, in a container of the stack: `make test-docker VLLM=1`."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, read_records
from tests.docker.clone import MODELS
from tests.docker.conftest import Host

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(
        "FASTQWEN_VLLM" not in os.environ, reason="make test-docker VLLM=1 brings a real vLLM"
    ),
]
FRONT = "http://127.0.0.1:8081"
START_S = 900.0


def test_a_real_vllm_serves_behind_the_front(host: Host, tmp_path: Path) -> None:
    """By the compose file's own arguments; jobs find it, and the heads of its answers tell their tokens.

    `make up` asks for a letter that the tests' weights do not know: it is not waited for.
    """
    clone = host.clone
    coming = clone.started("stack", "up", "--max-total-tokens", "4096", "--timeout", str(START_S))
    try:
        clone.until(_is_healthy, START_S)
        clone.fastqwen("summarize", CATALOGUE / "images", "--limit", "3", "-o", tmp_path / "s.jsonl")
    finally:
        coming.kill()
        coming.communicate()
    found = read_records(tmp_path / "s.jsonl")
    assert {(row["status"], row["engine"], row["model"]) for row in found} == {
        ("ok", "vllm", MODELS["vision"])
    }
    assert all(row["usage"]["prompt_tokens"] > 0 for row in found)
    heads, told = _asked({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3})
    assert int(heads["x-prompt-tokens"]) == told["usage"]["prompt_tokens"] > 0
    assert int(heads["x-generated-tokens"]) == told["usage"]["completion_tokens"] > 0
    clone.make("down")


def _is_healthy() -> bool:
    try:
        with urllib.request.urlopen(f"{FRONT}/health", timeout=5) as reply:  # noqa: S310  # ours
            return bool(reply.status == 200)
    except OSError:
        return False


def _asked(question: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    body = json.dumps(question | {"model": MODELS["vision"]}).encode()
    heads = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{FRONT}/v1/chat/completions", body, heads)  # noqa: S310  # ours
    with urllib.request.urlopen(request, timeout=120) as reply:  # noqa: S310  # ours
        return reply.headers, json.load(reply)
