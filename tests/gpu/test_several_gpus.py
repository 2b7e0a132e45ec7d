"""What more than one GPU changes: nothing but the speed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.engine.test_engine import caption_requests, score_requests
from tests.gpu.test_engine_on_gpu import apart, of
from tgi_stack import settings
from tgi_stack.backends.open import open_backend
from tgi_stack.bench import workload
from tgi_stack.engine.models.shapes import random_model
from tgi_stack.engine.placement import choose
from tgi_stack.engine.runtime import Runtime
from tgi_stack.engine.switches import Switches
from tgi_stack.errors import MachineError
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.scoring import distributions
from tgi_stack.types import Caption, LabelScores

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs here"),
]
PICTURES = ["mug-02.jpg", "mug-04.png", "ball-02.jpg", "ball-03.jpg"]


def asked(device: str, kind: str, requests: Sequence[Any], **flags: Any) -> list[Any]:
    """The answers of the torch engine with `tiny` on some devices."""
    told = settings.load({"engine": "torch", "model": "tiny", "device": device} | flags, {})

    async def ask() -> list[Any]:
        backend = await open_backend(told, kind)
        question = backend.score if kind == "text" else backend.caption
        try:
            return list(await asyncio.gather(*map(question, requests)))
        finally:
            await backend.aclose()

    return asyncio.run(ask())


def gap(found: Sequence[LabelScores], other: Sequence[LabelScores]) -> float:
    first, second = ([distributions.softmax(one.logprobs) for one in some] for some in (found, other))
    return apart(first, second)[0]


@pytest.mark.parametrize("weights", ["none", "fp8"])
def test_the_second_gpu_computes_what_the_first_does(weights: str) -> None:
    """At a true shape, so that the kernels for this chip and recorded packs are in it."""
    requests = workload.prompts(192, 128, 1024, vocabulary=151_000, labels=20)
    found = []
    for device in ("cuda:0", "cuda:1"):
        runtime = Runtime(random_model("qwen3-0.6b", choose(device, "bf16")), Switches(weights=weights))
        found.append(of(runtime.score(requests)))
        if runtime.scorer.attention == "hopper":
            assert runtime.scorer.replay is not None
            assert runtime.scorer.replay.is_recorded
    assert apart(*found)[0] <= 1e-3


@pytest.mark.parametrize("device", ["cuda:1", "cuda:1,0", "all"])
def test_which_gpus_answer_changes_no_probability(device: str, tokenizer: Tokenizer) -> None:
    requests = score_requests(tokenizer, 300)
    # Who shares a pack may round a probability of bf16 otherwise.
    assert gap(asked(device, "text", requests), asked("cuda:0", "text", requests)) <= 3e-2
    exact = [asked(one, "text", requests, dtype="fp32") for one in (device, "cuda:0")]
    assert gap(*exact) <= 1e-5


@pytest.mark.parametrize("device", ["cuda:1", "all"])
def test_which_gpus_write_changes_no_text(device: str, tokenizer: Tokenizer) -> None:
    requests = caption_requests(tokenizer, PICTURES * 4)
    found: list[list[Caption]] = [asked(one, "vision", requests, dtype="fp32") for one in (device, "cuda:0")]
    assert [one.text for one in found[0]] == [one.text for one in found[1]]


def test_a_gpu_whose_process_ends_is_named(tokenizer: Tokenizer) -> None:
    told = settings.load({"engine": "torch", "model": "tiny", "device": "all"}, {})

    async def ask() -> None:
        backend: Any = await open_backend(told, "text")
        try:
            backend._workers[1].process.kill()
            await asyncio.gather(*map(backend.score, score_requests(tokenizer, 300)))
        finally:
            await backend.aclose()

    with pytest.raises(MachineError, match=r"cuda:1 \(worker 2 of .* ended .*run the same command again"):
        asyncio.run(ask())
