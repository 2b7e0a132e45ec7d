"""What the engine does on a GPU and nowhere else: its kernels, fp8, CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import CATALOGUE
from tests.engine.test_engine import GRID, caption_requests, score_requests
from tgi_stack.bench import workload
from tgi_stack.engine import caption, score
from tgi_stack.engine.kernels import triton_launch
from tgi_stack.engine.kernels.kernel_check import trial
from tgi_stack.engine.kv_cache import SlotCache
from tgi_stack.engine.label_scores import Reading, whole
from tgi_stack.engine.layers.linear import FP8, FP8_MAX
from tgi_stack.engine.loader import load
from tgi_stack.engine.models import by_transformers
from tgi_stack.engine.models.shapes import random_model
from tgi_stack.engine.placement import choose, hold_to
from tgi_stack.engine.runtime import Runtime
from tgi_stack.engine.scorer import Options, Scorer
from tgi_stack.engine.switches import CONTEXT, GIB, Switches
from tgi_stack.hub import locate
from tgi_stack.prompting.forms import data_of, read_form
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.scoring import distributions
from tgi_stack.types import ScoreRequest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
]
SHAPES = [(16, 8, 128), (4, 2, 64), (32, 8, 128), (14, 2, 64)]


def runtime(kind: str, tokenizer: Tokenizer, dtype: str = "bf16", **switches: Any) -> Runtime:
    chosen = Switches(**switches)
    model = load(locate("tiny", kind, None), kind, choose("cuda:0", dtype), chosen)
    return Runtime(model, chosen, tokenizer=tokenizer, grid=GRID if kind == "vision" else None, kind=kind)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernels_compute_what_torch_computes(shape: tuple[int, int, int]) -> None:
    assert triton_launch.AVAILABLE
    assert trial(torch.device("cuda:0"), torch.bfloat16, shape, 1024) is None


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_gpu_memory_is_respected(kind: str, tokenizer: Tokenizer) -> None:
    """In bytes that torch has reserved: what CUDA takes besides is `CONTEXT`, looked at by hand."""
    device, memory = torch.device("cuda:0"), 2 * GIB
    torch.cuda.empty_cache()
    chosen = Switches(memory=memory)
    try:
        hold_to(chosen.allocated, device)
        torch.cuda.reset_peak_memory_stats(device)
        found = runtime(kind, tokenizer, memory=memory)
        if kind == "text":
            ids = tuple(range(32, 432))
            found.score([ScoreRequest("", ids, ("A",), (40,))] * 512)
        assert torch.cuda.max_memory_reserved(device) <= memory - CONTEXT
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


Distributions = list[tuple[float, ...]]


def alone(model: Any, requests: Sequence[ScoreRequest]) -> Distributions:
    """By transformers' own forward, one prompt at a time."""
    return [of(score.score(model, [request]))[0] for request in requests]


def of(readings: Sequence[Reading]) -> Distributions:
    return [distributions.softmax(one.logprobs) for one in whole(readings)]


def apart(found: Distributions, exact: Distributions) -> tuple[float, float]:
    """The largest difference of a probability, and the mean of the prompts' largest."""
    worst = [max(abs(a - b) for a, b in zip(x, y, strict=True)) for x, y in zip(found, exact, strict=True)]
    return max(worst), sum(worst) / len(worst)


def in_fp8(x: torch.Tensor) -> torch.Tensor:
    """Rounded to fp8 with a scale for each row: a yardstick, where the engine has some for blocks."""
    scales = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return ((x.float() / scales).to(FP8).float() * scales).to(x.dtype)


def rounding(model: Any, weights: str) -> Any:
    """Transformers' network with what rounding these weights and their inputs loses, and no more."""
    if weights != "fp8":
        return model
    rounded = copy.deepcopy(model)
    for module in rounded.model.layers.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = in_fp8(module.weight.data)
            module.register_forward_pre_hook(lambda _, inputs: (in_fp8(inputs[0]), *inputs[1:]))
    return rounded


@pytest.fixture(scope="module")
def tiny_bf16() -> Any:
    found = locate("tiny", "text", None)
    return by_transformers.load(found, sees=False, placement=choose("cuda:0", "bf16"))


@pytest.fixture(scope="module")
def true_shape() -> Iterator[tuple[Any, list[ScoreRequest], Distributions]]:
    """Qwen3-0.6B's shape in bf16, prompts for it, and what the same weights say in fp32."""
    model = random_model("qwen3-0.6b", choose("cuda:0", "bf16"))
    # Fewer of them leave the largest difference of a probability to chance.
    requests = workload.prompts(96, 128, 1024, vocabulary=151_000, labels=20)
    exact = alone(copy.deepcopy(model).float(), requests)
    yield model, requests, exact
    del model
    torch.cuda.empty_cache()


SWITCHES = [{}, {"flash": True}, {"compiled": True}, {"weights": "fp8"}]


# `tiny` was trained to be sure: its logits are large, and where two labels are close the rounding of bf16
# alone moves a probability by more than 5e-3, whoever computes. So transformers' own forward in the same
# dtype is the measure there; 5e-3 is held at the true shape, below.
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_as_near_to_fp32_as_transformers_is(
    text_model: Any, tiny_bf16: Any, tokenizer: Tokenizer, switches: dict[str, Any]
) -> None:
    requests = score_requests(tokenizer, 40)
    exact = alone(text_model, requests)
    ours = apart(of(runtime("text", tokenizer, **switches).score(requests)), exact)
    theirs = apart(alone(rounding(tiny_bf16, switches.get("weights", "none")), requests), exact)
    print(f"apart from fp32: ours {ours}, transformers' {theirs}")
    assert ours[0] <= 1.5 * theirs[0] + 1e-3
    assert ours[1] <= 1.5 * theirs[1] + 1e-3


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_probabilities_at_the_true_shape(
    true_shape: tuple[Any, list[ScoreRequest], Distributions], switches: dict[str, Any]
) -> None:
    model, requests, exact = true_shape
    ours = apart(of(Runtime(copy.deepcopy(model), Switches(**switches)).score(requests)), exact)
    weights = switches.get("weights", "none")
    theirs = apart(alone(rounding(model, weights), requests), exact)
    print(f"apart from fp32: ours {ours}, transformers' {theirs}")
    assert ours[0] <= (1.5 * theirs[0] + 1e-3 if weights == "fp8" else 5e-3)
    assert ours[1] <= 1.25 * theirs[1]


@pytest.mark.parametrize("share", [True, False])
def test_shared_prefixes_change_no_answer(
    text_model: Any, tiny_bf16: Any, tokenizer: Tokenizer, share: bool
) -> None:
    made = score_requests(tokenizer, 40)
    begin = [*made[0].token_ids] * 4
    requests = [ScoreRequest("", (*begin, *r.token_ids), (), r.label_ids) for r in made]
    exact = alone(text_model, requests)
    one = runtime("text", tokenizer)
    assert one.network is not None
    ours = apart(of(Scorer(one.network, Options(4096, share=share)).score(requests)), exact)
    theirs = apart(alone(tiny_bf16, requests), exact)
    print(f"apart from fp32: ours {ours}, transformers' {theirs}")
    assert ours[0] <= 1.5 * theirs[0] + 1e-3


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_summaries_beside_generate(vision_model: Any, tokenizer: Tokenizer, dtype: str) -> None:
    names = sorted(path.name for path in (CATALOGUE / "images").iterdir())[:24]
    requests = caption_requests(tokenizer, names)
    one = runtime("vision", tokenizer, dtype, batch_size=5)
    futures = [one.write(request) for request in requests]
    same = 0
    for future, request in zip(futures, requests, strict=True):
        same += future.result(120).text == caption.caption(vision_model, tokenizer, GRID, [request])[0].text
    one.close()
    assert same >= (len(requests) if dtype == "fp32" else 0.8 * len(requests))


@pytest.mark.parametrize("graph", ["captured", "refused", "8bit"])
def test_summaries_without_a_graph_are_those_with_one(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, graph: str, said: list[str]
) -> None:
    names = sorted(path.name for path in (CATALOGUE / "images").iterdir())[:8]
    requests = caption_requests(tokenizer, names)
    found = locate("tiny", "vision", None)
    theirs = by_transformers.load(found, sees=True, placement=choose("cuda:0", "bf16"))
    expected = [one.text for one in caption.caption(theirs, tokenizer, GRID, requests)]
    model = load(found, "vision", choose("cuda:0", "bf16"))
    if graph == "8bit":
        pytest.importorskip("bitsandbytes")
        placement, switches = choose("cuda:0", "bf16"), Switches(weights="8bit")
        model = load(found, "vision", placement, switches)
    if graph == "refused":
        attend = SlotCache.attend
        # A look at the device's memory is what no graph can hold.
        monkeypatch.setattr(SlotCache, "attend", lambda *args: (args[3].sum().item(), attend(*args))[1])
    one = Runtime(model, Switches(), tokenizer=tokenizer, grid=GRID, kind="vision")
    futures = [one.write(request) for request in requests]
    texts = [future.result(120).text for future in futures]
    one.close()
    assert sum("without a CUDA graph" in line for line in said) == (graph != "captured"), said
    assert sum(a == b for a, b in zip(texts, expected, strict=True)) >= 0.75 * len(texts)


def test_answers_on_a_graph_are_of_the_schema(tokenizer: Tokenizer) -> None:
    """Some held to it and some not, in one decoder; the held ones as where each step waits for the host."""
    pytest.importorskip("llguidance")
    form = read_form("catalogue")
    names = sorted(path.name for path in (CATALOGUE / "images").iterdir())[:12]
    requests = [
        replace(request, form=form if place % 3 else None, max_new_tokens=600)
        for place, request in enumerate(caption_requests(tokenizer, names))
    ]
    texts = []
    for weights in ("none", "8bit"):
        if weights == "8bit" and find_spec("bitsandbytes") is None:
            continue  # its steps are no graph
        one = runtime("vision", tokenizer, batch_size=8, weights=weights)
        found = [future.result(120) for future in [one.write(request) for request in requests]]
        one.close()
        for request, answer in zip(requests, found, strict=True):
            if request.form is not None:
                assert answer.finish_reason == "stop"
                assert data_of(answer.text, form, cut=False)["category"]
        texts.append([answer.text for answer in found])
    free = [request for request in requests if request.form is None]
    alone = runtime("vision", tokenizer, batch_size=8)
    again = [future.result(120).text for future in [alone.write(request) for request in free]]
    alone.close()
    assert again == [text for text, request in zip(texts[0], requests, strict=True) if request.form is None]


def test_a_pack_that_does_not_fit_is_halved(tokenizer: Tokenizer) -> None:
    one = runtime("text", tokenizer)
    assert one.network is not None
    requests = [r for r in score_requests(tokenizer, 400) if r.token_ids] * 40
    torch.cuda.set_per_process_memory_fraction(0.002)
    try:
        scorer = Scorer(one.network, Options(2**20, share=False))
        assert len(scorer.score(requests)) == len(requests)
        assert scorer.options.budget < 2**20
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
