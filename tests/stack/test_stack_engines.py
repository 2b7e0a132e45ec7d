"""Each cell of the table of engines, and the sizes of models."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

import stack_tables
from tests.conftest import ROOT
from tests.server_options import SGLANG_OPTIONS, TGI_OPTIONS, VLLM_OPTIONS
from tgi_stack.errors import UsageError
from tgi_stack.stack.planning import engines, sizes
from tgi_stack.stack.planning.engines import MODEL_TYPES, QUANTIZATIONS, TABLE, Launch

FP16, BF16 = ("--dtype", "float16"), ("--dtype", "bfloat16")
FP32_HEAD = (*BF16, "--enable-fp32-lm-head")
AUTO = ("--dtype", "auto")
UNTRIED_BITS = "nobody is known to have loaded a Qwen3 with bitsandbytes in SGLang"
UNSUPPORTED = "Unsupported model type qwen3_vl"
GONE = "Unknown quantization method: bitsandbytes"
UNTRIED = "nobody is known to have loaded a quantised Qwen2.5-VL"
# A tuple: the arguments; a text: part of the reason why not.
CELLS: dict[tuple[str, str, str], tuple[str, ...] | str] = {
    ("tgi", "qwen3", "none"): FP16,
    ("tgi", "qwen3", "8bit"): (*FP16, "--quantize", "bitsandbytes"),
    ("tgi", "qwen3", "4bit"): "4bit quantization is not supported for AutoModel",
    ("tgi", "qwen3", "fp8"): "accepts fp8 for Qwen3 and loads it unquantised",
    ("tgi", "qwen3", "fp8-checkpoint"): "nobody is known to have loaded a Qwen3 FP8 checkpoint",
    ("tgi", "qwen3", "awq"): "awq quantization is not supported for AutoModel",
    ("tgi", "qwen3", "gptq"): "gptq quantization is not supported for AutoModel",
    **{("tgi", "qwen3_vl", quantization): UNSUPPORTED for quantization in QUANTIZATIONS},
    **{("tgi", "qwen2_5_vl", quantization): UNTRIED for quantization in QUANTIZATIONS},
    ("tgi", "qwen2_5_vl", "none"): BF16,
    **{("vllm", t, "none"): BF16 for t in MODEL_TYPES},
    **{("vllm", t, "8bit"): GONE for t in MODEL_TYPES},
    **{("vllm", t, "4bit"): GONE for t in MODEL_TYPES},
    **{("vllm", t, "fp8"): (*BF16, "--quantization", "fp8") for t in MODEL_TYPES},
    **{("vllm", t, "fp8-checkpoint"): BF16 for t in MODEL_TYPES},
    **{("vllm", t, "awq"): AUTO for t in MODEL_TYPES},
    **{("vllm", t, "gptq"): AUTO for t in MODEL_TYPES},
    **{("sglang", t, "none"): FP32_HEAD for t in MODEL_TYPES},
    **{("sglang", t, "8bit"): UNTRIED_BITS for t in MODEL_TYPES},
    **{("sglang", t, "4bit"): UNTRIED_BITS for t in MODEL_TYPES},
    **{("sglang", t, "fp8"): (*FP32_HEAD, "--quantization", "fp8") for t in MODEL_TYPES},
    **{("sglang", t, "fp8-checkpoint"): FP32_HEAD for t in MODEL_TYPES},
    **{("sglang", t, "awq"): AUTO for t in MODEL_TYPES},
    **{("sglang", t, "gptq"): AUTO for t in MODEL_TYPES},
}


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(product(engines.ENGINES, MODEL_TYPES, QUANTIZATIONS)) == set(CELLS)


@pytest.mark.parametrize(("place", "expected"), CELLS.items(), ids=map("-".join, CELLS))
def test_a_cell(place: tuple[str, str, str], expected: tuple[str, ...] | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(UsageError) as caught:
            engines.launch(*place)
        assert expected in str(caught.value)
        assert str(caught.value).count("; ") >= 1  # what to do instead
        return
    launch = engines.launch(*place)
    assert launch.arguments == expected
    options = {"tgi": TGI_OPTIONS, "vllm": VLLM_OPTIONS, "sglang": SGLANG_OPTIONS}[place[0]]
    assert {word for word in expected if word.startswith("--")} <= options
    assert launch.weight_bits == {"none": 16, "8bit": 8, "fp8": 8, "fp8-checkpoint": 8}.get(place[2], 4.5)


def test_eight_bits_on_tgi_are_for_one_gpu() -> None:
    with pytest.raises(UsageError, match="NUM_SHARD=2 was asked; NUM_SHARD=1"):
        engines.launch("tgi", "qwen3", "8bit", shards=2)
    assert engines.launch("tgi", "qwen3", "none", shards=2).shards


def test_a_named_image_permits_plain_weights_alone() -> None:
    other = "registry.example/tgi:4.0.0"
    assert engines.launch("tgi", "qwen3_vl", "none", image=other).arguments == BF16
    for image, quantization in ((engines.TGI.image, "none"), ("", "none"), (other, "fp8")):
        with pytest.raises(UsageError, match=UNSUPPORTED):
            engines.launch("tgi", "qwen3_vl", quantization, image=image)


def test_dtypes_are_those_of_the_arguments() -> None:
    short = {"float16": "fp16", "bfloat16": "bf16", "auto": "auto"}
    for cell in TABLE.values():
        if isinstance(cell, Launch):
            assert short[cell.arguments[1]] == cell.dtype


@pytest.mark.parametrize(
    "table", [stack_tables.engines_table, stack_tables.sizes_table, stack_tables.pairs_table]
)
def test_the_docs_have_the_tables(table: Callable[[], str]) -> None:
    """Printed by tools/stack_tables.py."""
    assert table() in (ROOT / "docs" / "servers.md").read_text()


# -- sizes -----------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_networks() -> None:
    """Each network is built without weights, from its published shape, and counted."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    heads = {"0.6B": 16, "1.7B": 16, "4B": 32, "8B": 32, "14B": 40, "32B": 64}
    for size, count in heads.items():
        model = sizes.MODELS[f"Qwen/Qwen3-{size}"]
        tied = size in ("0.6B", "1.7B", "4B")
        config = Qwen3Config(
            vocab_size=151936,
            hidden_size=model.hidden,
            intermediate_size=model.intermediate,
            num_hidden_layers=model.layers,
            num_attention_heads=count,
            num_key_value_heads=model.kv_heads,
            head_dim=model.head_dim,
            tie_word_embeddings=tied,
        )
        with torch.device("meta"):
            network = Qwen3ForCausalLM(config)
        assert sum(p.numel() for p in network.parameters()) == model.parameters
        assert model.embedding == 151936 * model.hidden * (1 if tied else 2)


@pytest.mark.parametrize(
    ("name", "base", "kind"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "none"),
        ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B", "fp8-checkpoint"),
        ("Qwen/Qwen3-14B-AWQ", "Qwen/Qwen3-14B", "awq"),
        ("Qwen/Qwen2.5-VL-7B-Instruct-AWQ", "Qwen/Qwen2.5-VL-7B-Instruct", "awq"),
        ("Qwen/Qwen3-8B-GPTQ-Int4", "Qwen/Qwen3-8B", "gptq"),
    ],
)
def test_a_checkpoints_name_says_what_it_is(name: str, base: str, kind: str) -> None:
    model, found = sizes.identify(name)
    assert (model.name, found) == (base, kind)


def test_bytes_of_weights_and_of_the_kv_cache() -> None:
    model = sizes.MODELS["Qwen/Qwen3-8B"]
    assert model.weight_bytes(16) == 2 * 8_190_735_360
    assert model.weight_bytes(8) == (8_190_735_360 - 1_244_659_712) + 2 * 1_244_659_712
    assert model.kv_bytes == 2 * 36 * 8 * 128 * 2
