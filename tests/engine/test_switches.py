"""The optimisation guide's switches: each works here or is refused before weights load, with the reason."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Fastqwen
from tests.engine.test_engine import caption_requests, score_requests
from tgi_stack import settings
from tgi_stack.backends.open import open_backend
from tgi_stack.engine import placement
from tgi_stack.engine.switches import Switches, switches_of
from tgi_stack.errors import MachineError, MissingPackageError, RowError, SettingsError
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.settings.written import memory_of
from tgi_stack.types import Caption, LabelScores

Make = Callable[..., Settings]
PICTURES = ["mug-02.jpg", "mug-04.png", "ball-02.jpg", "ball-03.jpg"]
CPU_32 = placement.choose("cpu", "fp32")
HAS_BITSANDBYTES = all(map(importlib.util.find_spec, ("bitsandbytes", "accelerate")))


def scores_with(made: Settings, tokenizer: Tokenizer, count: int = 12) -> list[LabelScores]:
    async def ask() -> list[LabelScores]:
        backend = await open_backend(made, "text")
        try:
            return await asyncio.gather(*map(backend.score, score_requests(tokenizer, count)))
        finally:
            await backend.aclose()

    return asyncio.run(ask())


def summaries_with(made: Settings, tokenizer: Tokenizer) -> list[Caption]:
    async def ask() -> list[Caption]:
        backend = await open_backend(made, "vision")
        requests = caption_requests(tokenizer, PICTURES)
        try:
            return await asyncio.gather(*map(backend.caption, requests))
        finally:
            await backend.aclose()

    return asyncio.run(ask())


def apart(a: list[LabelScores], b: list[LabelScores]) -> float:
    pairs = [
        (distributions.softmax(x.logprobs), distributions.softmax(y.logprobs))
        for x, y in zip(a, b, strict=True)
    ]
    return max(abs(p - q) for x, y in pairs for p, q in zip(x, y, strict=True))


@pytest.fixture(scope="module")
def plain(tokenizer: Tokenizer) -> list[LabelScores]:
    return scores_with(settings.load({"engine": "torch", "model": "tiny", "device": "cpu"}, {}), tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "tolerance"),
    [
        ({"llm_batch_size": 3}, 1e-5),
        ({"use_flash_attention": True}, 1e-5),
        ({"dtype": "bf16"}, 0.05),
        ({"device": "cpu:2", "use_flash_attention": True, "llm_batch_size": 4}, 1e-5),
    ],
    ids=str,
)
def test_a_switch_changes_no_answer(
    tiny_settings: Make,
    tokenizer: Tokenizer,
    plain: list[LabelScores],
    flags: dict[str, Any],
    tolerance: float,
) -> None:
    assert apart(scores_with(tiny_settings(**flags), tokenizer), plain) <= tolerance


@pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes and accelerate (fastqwen[quant]) are not here")
@pytest.mark.parametrize("flags", [{"quantization": "8bit"}, {"use_quantization": True}], ids=str)
def test_quantised_weights_answer_much_the_same(
    tiny_settings: Make, tokenizer: Tokenizer, plain: list[LabelScores], flags: dict[str, Any]
) -> None:
    found = scores_with(tiny_settings(**flags), tokenizer)
    assert 1e-6 < apart(found, plain) < 0.6
    assert all(one.finish_reason == "stop" for one in summaries_with(tiny_settings(**flags), tokenizer))


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tiny_settings: Make, tokenizer: Tokenizer) -> None:
    async def ask() -> list[Any]:
        backend = await open_backend(tiny_settings(device="cpu:2"), "vision")
        requests = [*caption_requests(tokenizer, PICTURES), *caption_requests(tokenizer, ["lamp-02.webp"])]
        object.__setattr__(requests[-1].image, "jpeg", b"no picture")
        try:
            return await asyncio.gather(*map(backend.caption, requests), return_exceptions=True)
        finally:
            await backend.aclose()

    *written, failed = asyncio.run(ask())
    assert written == summaries_with(tiny_settings(), tokenizer)
    assert isinstance(failed, Exception)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to ask")
def test_a_process_that_stands_still_is_said(
    tiny_settings: Make, tokenizer: Tokenizer, said: list[str]
) -> None:
    async def ask() -> list[Any]:
        backend: Any = await open_backend(tiny_settings(device="cpu:2"), "text")
        pid = backend._workers[0].process.pid
        try:
            os.kill(pid, signal.SIGSTOP)
            answers = asyncio.gather(*map(backend.score, score_requests(tokenizer, 30)))
            while not any(f"stands still; let it go on (kill -CONT {pid})" in line for line in said):
                await asyncio.sleep(0.1)
            os.kill(pid, signal.SIGCONT)
            return await answers
        finally:
            os.kill(pid, signal.SIGCONT)
            await backend.aclose()

    assert len(asyncio.run(asyncio.wait_for(ask(), 120))) == 30


@pytest.mark.slow
def test_a_process_that_ends_is_named(tiny_settings: Make, tokenizer: Tokenizer) -> None:
    async def ask() -> None:
        backend: Any = await open_backend(tiny_settings(device="cpu:2"), "text")
        try:
            backend._workers[0].process.kill()
            await asyncio.gather(*map(backend.score, score_requests(tokenizer, 30)))
        finally:
            await backend.aclose()

    with pytest.raises(MachineError, match=r"cpu \(worker 1 of 2\) ended .*run the same command again"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"quantization": "fp8"},
            r"fp8 needs a GPU of compute capability 9.0 .* not cpu; leave it out, or use",
        ),
        ({"loader": "unsloth"}, "--loader unsloth needs a CUDA GPU, not cpu"),
        ({"device": "gpu"}, "give auto, cpu, mps"),
        ({"device": "cuda:0,0"}, "names a GPU twice"),
    ],
)
def test_unsupported_switches_are_refused_before_loading(
    tiny_settings: Make, tokenizer: Tokenizer, flags: dict[str, Any], message: str
) -> None:
    made = tiny_settings(**flags, text_model=None).model_copy(update={"model": "/no/such/folder"})
    with pytest.raises(SettingsError, match=message):
        scores_with(made, tokenizer)


def test_a_package_that_is_missing_is_named(tiny_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgi_stack.engine.switches.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"bitsandbytes is not installed.*fastqwen\[quant\]"):
        switches_of(tiny_settings(quantization="8bit"), "text", CPU_32)


def test_compiling_needs_a_compiler(tiny_settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SettingsError, match=r"needs a C\+\+ compiler"):
        switches_of(tiny_settings(use_torch_compile=True), "text", CPU_32)


@pytest.mark.skipif(not HAS_BITSANDBYTES, reason="bitsandbytes and accelerate (fastqwen[quant]) are not here")
def test_compiling_and_bitsandbytes_do_not_go_together(tiny_settings: Make) -> None:
    with pytest.raises(SettingsError, match="does not go with --quantization 8bit"):
        switches_of(tiny_settings(use_torch_compile=True, quantization="8bit"), "text", CPU_32)


def test_the_settings_become_switches(tiny_settings: Make) -> None:
    made = tiny_settings(llm_batch_size=5, semantic_summary_batch_size=7, use_flash_attention=True)
    assert switches_of(made, "text", CPU_32) == Switches(batch_size=5, flash=True)
    assert switches_of(made, "vision", CPU_32).batch_size == 7


def test_gpu_memory_is_share_or_size(tiny_settings: Make) -> None:
    total = 80 * 2**30
    for given, found in (
        ("0.5", total // 2),
        (".25", total // 4),
        ("1", total),
        ("8GiB", 2**33),
        (0.5, total // 2),
    ):
        assert memory_of(tiny_settings(gpu_memory=given).gpu_memory or "", total) == found
    for wrong in ("0", "-1", "half", "nan", "1e9", "0GiB"):
        with pytest.raises(ValueError, match="such as"):
            memory_of(wrong, total)
        with pytest.raises(SettingsError, match="such as"):
            tiny_settings(gpu_memory=wrong)
    with pytest.raises(ValueError, match="share"):
        memory_of("81GiB", total)


def test_gpu_memory_is_of_a_gpu(tiny_settings: Make) -> None:
    with pytest.raises(SettingsError, match="is of a CUDA GPU, not of cpu"):
        switches_of(tiny_settings(gpu_memory="0.5"), "text", CPU_32)


def test_devices() -> None:
    assert placement.devices("cuda:0,2") == ["cuda:0", "cuda:2"]
    assert placement.devices("cpu:3") == ["cpu"] * 3
    assert placement.devices("auto") == ["auto"]


def test_errors_of_rows_survive_a_pipe() -> None:
    error = RowError("image.truncated", "ends early", ("a",), 2)
    again = copy.copy(error)  # as pickle does it
    assert (again.type, str(again), again.flags, again.attempts) == (
        "image.truncated",
        "ends early",
        ("a",),
        2,
    )
    missing = copy.copy(MissingPackageError("bitsandbytes", "quant"))
    assert (missing.package, missing.extra) == ("bitsandbytes", "quant")


def test_the_seeds_spellings(fastqwen: Fastqwen) -> None:
    shown = fastqwen("rerank", "--help").stdout
    for option in ("--llm_batch_size", "--use_quantization", "--use_torch_compile", "--use_flash_attention"):
        assert option in shown
    refused = fastqwen("probs", "x.jsonl", "--use_quantization", "--quantization", "8bit", check=2)
    assert "--use-quantization means 4bit" in refused.stderr
