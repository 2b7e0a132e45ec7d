"""What the engine does on a GPU and nowhere else: its kernels, fp8, CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import CATALOGUE
from tests.unit.test_engine import GRID, caption_requests, score_requests
from tgi_stack import scoring
from tgi_stack.engine import caption, kernels, score
from tgi_stack.engine.checkpoint import locate
from tgi_stack.engine.load import load
from tgi_stack.engine.placement import choose
from tgi_stack.engine.reading import whole
from tgi_stack.engine.runtime import Runtime
from tgi_stack.engine.scorer import Options, Scorer
from tgi_stack.engine.switches import Switches
from tgi_stack.engine.trial import trial
from tgi_stack.tokens import Tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
]
SHAPES = [(16, 8, 128), (4, 2, 64), (32, 8, 128), (14, 2, 64)]


def runtime(kind: str, tokenizer: Tokenizer, dtype: str = "bf16", **switches: Any) -> Runtime:
    chosen = Switches(**switches)
    model = load(locate("tiny", kind, None, print), kind, choose("cuda:0", dtype), print, chosen)
    return Runtime(model, chosen, tokenizer=tokenizer, grid=GRID if kind == "vision" else None, kind=kind)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernels_compute_what_torch_computes(shape: tuple[int, int, int]) -> None:
    assert kernels.AVAILABLE
    assert trial(torch.device("cuda:0"), torch.bfloat16, shape, 1024) is None


@pytest.mark.parametrize(
    ("switches", "tolerance"),
    [({}, 5e-3), ({"flash": True}, 5e-3), ({"compiled": True}, 5e-3), ({"weights": "fp8"}, 0.1)],
    ids=str,
)
def test_probabilities_beside_fp32(
    text_model: Any, tokenizer: Tokenizer, switches: dict[str, Any], tolerance: float
) -> None:
    requests = score_requests(tokenizer, 40)
    found = whole(runtime("text", tokenizer, **switches).score(requests))
    for one, request in zip(found, requests, strict=True):
        exact = scoring.softmax(score.score(text_model, [request])[0].logprobs)
        assert max(abs(a - b) for a, b in zip(scoring.softmax(one.logprobs), exact, strict=True)) <= tolerance


def test_shared_prefixes_change_no_answer(tokenizer: Tokenizer) -> None:
    made = score_requests(tokenizer, 40)
    begin = made[0].token_ids * 4
    requests = [type(r)("", begin + r.token_ids, (), r.label_ids) for r in made]
    one = runtime("text", tokenizer)
    assert one.network is not None
    answers = [Scorer(one.network, Options(4096, share=share)).score(requests) for share in (True, False)]
    for a, b in zip(*answers, strict=True):
        assert scoring.softmax(a.logprobs) == pytest.approx(scoring.softmax(b.logprobs), abs=5e-3)


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
