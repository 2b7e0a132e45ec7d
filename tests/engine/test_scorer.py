"""The packed engine gives what transformers' forward gives, however prompts are laid out."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import network_that
from tests.engine.test_engine import score_requests
from tests.tolerances import FP32
from tgi_stack.engine import score
from tgi_stack.engine.cuda_graph import CapturedForward
from tgi_stack.engine.label_scores import whole
from tgi_stack.engine.layers import attention, cpu_ops
from tgi_stack.engine.layers.linear import FP8, RowScaledFp8
from tgi_stack.engine.layers.ops import Ops
from tgi_stack.engine.models.network import Network, supports
from tgi_stack.engine.packing import pack
from tgi_stack.engine.runtime import ops_for, prepare_compiler
from tgi_stack.engine.scorer import GROW_AFTER, TOGETHER, Options, Scorer, _joined
from tgi_stack.engine.switches import COMPILERS
from tgi_stack.errors import MachineError, ScoreError
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import LabelScores, ScoreRequest

pytestmark = pytest.mark.numbers


@pytest.fixture(scope="module")
def requests(tokenizer: Tokenizer) -> list[ScoreRequest]:
    """Prompts of which a part begins alike."""
    made = score_requests(tokenizer, 30)
    begin = [*made[0].token_ids] * 3
    sharing = [ScoreRequest("", (*begin, *r.token_ids), (), r.label_ids) for r in made[:10]]
    return made + sharing


@pytest.fixture(scope="module")
def alone(text_model: Any, requests: list[ScoreRequest]) -> list[LabelScores]:
    return [score.score(text_model, [request])[0] for request in requests]


def apart(found: Sequence[LabelScores], truth: Sequence[LabelScores]) -> float:
    """The largest difference of a probability."""
    pairs = [
        pair for x, y in zip(found, truth, strict=True) for pair in zip(x.logprobs, y.logprobs, strict=True)
    ]
    return max(abs(math.exp(a) - math.exp(b)) for a, b in pairs)


@pytest.mark.parametrize(
    "options",
    [
        Options(4096),
        Options(4096, share=False),
        Options(300),
        Options(1),
        Options(4096, most=3),
        Options(700, sizes=(64, 256, 700)),
    ],
    ids=str,
)
def test_scores_are_those_of_transformers(
    text_model: Any, requests: list[ScoreRequest], alone: list[LabelScores], options: Options
) -> None:
    found = Scorer(Network(text_model, Ops()), options).score(requests)
    assert apart(found, alone) <= FP32
    assert [one.prompt_tokens for one in found] == [len(r.token_ids) for r in requests]
    masses = [(a.label_mass or 0.0, b.label_mass or 0.0) for a, b in zip(found, alone, strict=True)]
    assert all(a == pytest.approx(b, abs=FP32) for a, b in masses)


@pytest.mark.parametrize(("shared", "own"), [(0, 1900), (0, 450), (40, 900), (40, 300), (600, 90)])
def test_long_prompts_on_a_cpu(text_model: Any, shared: int, own: int) -> None:
    drawn = torch.Generator().manual_seed(shared + own)
    ids = torch.randint(0, 900, (2, shared + own), generator=drawn)
    ids[1, :shared] = ids[0, :shared]
    asked = [ScoreRequest("", tuple(row.tolist()), (), tuple(range(32, 52))) for row in (ids[0], ids[1, :-7])]
    found = Scorer(Network(text_model, ops_for(torch.device("cpu"))), Options(4096)).score(asked)
    truth = [score.score(text_model, [one])[0] for one in asked]
    assert apart(found, truth) <= FP32
    for one, other in zip(
        found, truth, strict=True
    ):  # labels that random prompts give hardly any probability
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


@pytest.mark.slow
def test_rows_by_chunks_equal_rows_together(
    text_model: Any, requests: list[ScoreRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(text_model, ops_for(torch.device("cpu")))
    whole_pack = Scorer(network, Options(4096)).score(requests)
    monkeypatch.setattr(cpu_ops, "ROWS", 7)
    assert apart(Scorer(network, Options(4096)).score(requests), whole_pack) <= FP32


@pytest.mark.parametrize("causal", [True, False])
def test_attention_by_segments_equals_a_masked_product(causal: bool) -> None:
    starts, lengths = (np.array(numbers, dtype=np.int32) for numbers in ([0, 9, 14, 54], [9, 5, 40, 6]))
    prefixes = np.array([0, 0, 0, 0], dtype=np.int32), np.array([0, 9, 9, 0], dtype=np.int32)
    q, k, v = (torch.randn(62, heads, 16, generator=torch.Generator().manual_seed(1)) for heads in (4, 2, 2))
    parts = attention.segments(starts, lengths, prefixes, q.device, tile=None, causal=causal)
    seen = torch.zeros(62, 62, dtype=torch.bool)
    for start, length, before, shared in zip(starts, lengths, *prefixes, strict=True):
        own = torch.ones(length, length, dtype=torch.bool)
        seen[start : start + length, start : start + length] = own.tril() if causal else own
        seen[start : start + length, before : before + shared] = True
    weights = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) / 4
    weights = weights.masked_fill(~seen, -torch.inf).softmax(-1)[:, :60]
    truth = torch.einsum(
        "hqk,khd->qhd", torch.cat((weights, weights.new_zeros(4, 2, 62)), 1), v.repeat_interleave(2, 1)
    )
    assert attention.by_sdpa(q, k, v, parts) == pytest.approx(truth.flatten(1), abs=FP32)
    last = np.array([13, 53, 59], dtype=np.int32)
    if causal:
        assert attention.last_by_sdpa(q, k, v, parts, last) == pytest.approx(truth.flatten(1)[last], abs=FP32)


def test_a_text_alone_on_the_vision_checkpoint(vision_model: Any, requests: list[ScoreRequest]) -> None:
    assert supports(vision_model) is None
    found = Scorer(Network(vision_model, Ops()), Options(2048)).score(requests)
    assert apart(found, [score.score(vision_model, [r])[0] for r in requests]) <= FP32


def test_weights_are_fused_without_being_kept_twice(text_model: Any) -> None:
    network = Network(text_model, Ops())
    attention = text_model.model.layers[0].self_attn
    fused = network.layers[0].qkv.weight  # type: ignore[attr-defined]
    assert attention.k_proj.weight.untyped_storage().data_ptr() == fused.untyped_storage().data_ptr()


def test_the_head_meets_last_positions_alone(text_model: Any, requests: list[ScoreRequest]) -> None:
    network = Network(text_model, Ops())
    seen = []
    inner = network.forward

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        out = inner(x, *args, **kwargs)
        seen.append((len(x), len(out)))
        return out

    network.forward = forward  # type: ignore[method-assign]
    Scorer(network, Options(10_000, share=False)).score(requests)
    assert seen == [(sum(len(r.token_ids) for r in requests), len(requests))]


def test_many_packs_meet_the_head_together() -> None:
    """Each prompt with its own outputs, however packs fall together."""
    sizes = [TOGETHER - 1, 5, 1, TOGETHER, 7, 2]
    ends = np.cumsum(sizes).tolist()
    packs = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    found = list(_joined((members, torch.tensor(members)[:, None]) for members in packs))
    assert [len(members) for members, _ in found] == [TOGETHER + 4, TOGETHER + 1, 9]
    assert all(outputs[:, 0].tolist() == members for members, outputs in found)
    assert [one for members, _ in found for one in members] == list(range(ends[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("failures", [1, 3])
def test_out_of_memory_halves_packs_loses_nobody(
    text_model: Any, requests: list[ScoreRequest], alone: list[LabelScores], failures: int
) -> None:
    network, calls = network_that(text_model, fails={1: failures})
    scorer = Scorer(network, Options(1024))
    assert apart(scorer.score(requests), alone) <= FP32
    assert scorer.options.budget == 1024 >> failures
    assert len(calls) > failures


@pytest.mark.slow
def test_a_halved_budget_grows_back_with_backoff(text_model: Any, requests: list[ScoreRequest]) -> None:
    network, _ = network_that(text_model, fails={0: 2})
    scorer = Scorer(network, Options(1024))

    def asked(times: int) -> list[int]:
        budgets = []
        for _ in range(times):
            scorer.score(requests[:1])
            budgets.append(scorer.options.budget)
        return budgets

    assert asked(1 + GROW_AFTER) == [256] * (1 + GROW_AFTER)
    assert asked(1) == [512]
    inner = network.forward

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        network.forward = inner
        raise torch.OutOfMemoryError("injected")

    network.forward = fails_once
    assert asked(1 + 2 * GROW_AFTER) == [256] * (1 + 2 * GROW_AFTER)
    assert asked(2 + 2 * GROW_AFTER) == [512] * (1 + 2 * GROW_AFTER) + [1024]
    assert asked(3 * GROW_AFTER) == [1024] * 3 * GROW_AFTER


def test_graphs_of_larger_packs_are_freed(
    text_model: Any, requests: list[ScoreRequest], alone: list[LabelScores]
) -> None:
    network, _ = network_that(text_model, fails={1: 1})
    scorer = Scorer(network, Options(1024, most=1))
    recorded = scorer.replay = CapturedForward(network, 1024)  # which no prompt here fills alone
    assert apart(scorer.score(requests), alone) <= FP32
    assert scorer.replay is not recorded
    one = next(iter(pack([[1] * 500], 512)))
    assert scorer.replay.fits(one)


def test_memory_that_never_suffices_is_an_error(text_model: Any, requests: list[ScoreRequest]) -> None:
    network, _ = network_that(text_model, fails={0: 1000})
    with pytest.raises(MachineError, match="too little memory"):
        Scorer(network, Options(1024)).score(requests)


def test_logits_that_are_no_numbers_never_become_scores(
    text_model: Any, requests: list[ScoreRequest]
) -> None:
    network = Network(text_model, Ops())
    network.norm = network.norm * float("nan")
    with pytest.raises(ScoreError, match="not finite"):
        Scorer(network, Options(1024)).score(requests[:1])


def spoilt_at_an_unused_token(model: Any, requests: list[ScoreRequest]) -> tuple[Any, int]:
    """The checkpoint with an embedding that is no number, and the token that it is of."""
    used = {id for request in requests for id in request.token_ids}
    odd = next(id for id in range(1, len(model.lm_head.weight)) if id not in used)
    broken = copy.deepcopy(model)
    embedding = broken.model.embed_tokens.weight
    broken.lm_head.weight = torch.nn.Parameter(embedding.detach().clone())  # tied, else
    embedding.data[odd] = float("nan")
    return broken, odd


@pytest.mark.parametrize("packed", [True, False])
def test_nan_logits_fail_their_row_alone(
    text_model: Any, requests: list[ScoreRequest], alone: list[LabelScores], packed: bool
) -> None:
    broken, odd = spoilt_at_an_unused_token(text_model, requests)
    asked = [*requests[:5], replace(requests[5], token_ids=(odd, *requests[5].token_ids)), *requests[6:]]
    found = (
        Scorer(Network(broken, Ops()), Options(4096)).readings(asked)
        if packed
        else score.readings(broken, asked)
    )
    failed = found.pop(5)
    assert isinstance(failed, ScoreError)
    assert failed.type == "score.not_finite"
    assert apart(whole(found), [*alone[:5], *alone[6:]]) <= FP32


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="torch.compile needs a C++ compiler")
def test_compiled_layers_are_compiled_once_for_a_size(
    text_model: Any, requests: list[ScoreRequest], alone: list[LabelScores]
) -> None:
    prepare_compiler()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    network = Network(text_model, Ops())
    network.compile([512])
    scorer = Scorer(network, Options(512, sizes=(512,)))
    assert apart(scorer.score(requests), alone) <= FP32
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    scorer.score(requests[::-1])
    assert graphs == torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_rows_in_fp8_keep_their_own_scale() -> None:
    x = torch.randn(5, 64) * torch.tensor([[1e-3], [1.0], [50.0], [1e4], [0.0]])
    rows = Ops().rows8(x)
    assert isinstance(rows, RowScaledFp8)
    assert rows.values.dtype is FP8
    back = rows.values.float() * rows.scales
    assert (back - x).abs().amax(1).le(x.abs().amax(1) / 16).all()


def test_what_attention_reads_beyond_fails_no_neighbour(
    text_model: Any, requests: list[ScoreRequest], alone: list[LabelScores]
) -> None:
    """As the kernel for Hopper does: its blocks of keys reach into the next segment and weigh it nothing."""
    broken, odd = spoilt_at_an_unused_token(text_model, requests)
    scorer = Scorer(Network(broken, Ops()), Options(4096))
    passes = []

    def reads_beyond(q: Any, k: Any, v: Any, parts: attention.Segments) -> torch.Tensor:
        passes.append(len(parts.starts))
        found = attention.by_sdpa(q, k, v, parts)
        for start, length in zip(parts.starts, parts.lengths, strict=True):
            found[start : start + length] += 0 * v[start + length : start + length + 128].sum()
        return found

    scorer._attends, scorer.attention = reads_beyond, "hopper"
    asked = [*requests[:5], replace(requests[5], token_ids=(odd, *requests[5].token_ids)), *requests[6:]]
    found = scorer.readings(asked)
    assert isinstance(found.pop(5), ScoreError)
    assert apart(whole(found), [*alone[:5], *alone[6:]]) <= FP32
    assert 1 in passes
    passes.clear()
    scorer.readings(requests)
    assert 1 not in passes
