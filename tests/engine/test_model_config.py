"""What a config.json says is understood or refused by name, whichever version wrote it."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tgi_stack.backends.torch.backend import plan
from tgi_stack.engine.models import compat
from tgi_stack.engine.models.config import TextConfig, VisionLanguageConfig, read
from tgi_stack.engine.models.rope import KINDS
from tgi_stack.errors import CheckpointError, FastqwenError
from tgi_stack.settings import Settings
from tgi_stack.tiny import TINY


def config(kind: str) -> dict[str, Any]:
    return dict(json.loads((TINY / kind / "config.json").read_text()))


def text(**changes: Any) -> TextConfig:
    found = read(config("text") | changes)
    assert isinstance(found, TextConfig)
    return found


def vision(top: dict[str, Any] | None = None, tower: dict[str, Any] | None = None, **changes: Any) -> Any:
    fields = config("vision")
    fields["text_config"] |= changes
    fields["vision_config"] |= tower or {}
    found = read(fields | (top or {}))
    assert isinstance(found, VisionLanguageConfig)
    return found


GONE: dict[str, Any] = {"rope_theta": None, "rope_scaling": None}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 1e6}, {"rope_type": "default", "rope_theta": 1e6}),
        ({"rope_theta": 1e6}, {"rope_theta": 1e6}),
        ({"rope_theta": 5e5, "rope_scaling": YARN}, YARN | {"rope_theta": 5e5}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_type": "linear", "factor": 2, "rope_theta": 5e5, "partial_rotary_factor": 1.0},
        ),
    ],
)
def test_both_spellings_give_the_same_network(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert text(**GONE | old) == text(**GONE, rope_parameters=new)
    assert text(**GONE | old) == text(**GONE | old, rope_parameters=new)  # both, and they agree
    sections = {"mrope_section": [12, 10, 10], "mrope_interleaved": True}
    inner = {"rope_theta": old["rope_theta"], "rope_scaling": sections | old.get("rope_scaling", {})}
    outer = {"rope_parameters": sections | new}
    assert vision(**GONE | inner) == vision(**GONE, **outer) == vision(outer, **GONE)
    assert vision(**GONE | inner).text_config.rope != vision().text_config.rope


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
def test_null_is_nothing_said(place: str) -> None:
    linear = text(**{place: {"type": "linear", "factor": 2.0}})
    silent = {"rope_type": None, "beta_fast": None, "rope_theta": None, "mrope_interleaved": None}
    assert text(**{place: {"type": "linear", "factor": 2.0} | silent}) == linear
    assert text(**{place: dict.fromkeys(silent)}) == text()


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
@pytest.mark.parametrize("kind", ["dynamic", "longrope", "su", "ntk", "proportional", 7])
def test_other_kinds_of_rope_are_refused(place: str, key: str, kind: object) -> None:
    settings = {place: {key: kind, "factor": 2.0}}
    for make in (text, vision, lambda **fields: vision(fields)):
        with pytest.raises(CheckpointError, match=f"{kind}"):
            make(**settings)
    with pytest.raises(CheckpointError, match=f"{kind}"):
        compat.respelled({"model_type": "qwen2", "rope_theta": 1e4, **settings})


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},  # rope_theta is 1e4
        {"rope_theta": None},
        {"rope_theta": 0},
        {"rope_theta": "10000"},
        {"rope_scaling": {"rope_type": "yarn"}},
        {"rope_scaling": {"rope_type": "yarn", "factor": "4"}},
        {"rope_scaling": {"rope_type": "yarn", "type": "linear", "factor": 4}},
        {"rope_scaling": {"rope_type": "linear", "factor": 4, "beta_fast": 3}},
        {"rope_scaling": {"rope_type": "default", "factor": 4}},
        {"rope_scaling": YARN, "rope_parameters": YARN | {"factor": 8.0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}},
        {"rope_scaling": {"mrope_section": [12, 10, 10]}},
        {"rope_scaling": [1]},
        {"rope_scaling": {"rope_type": None, "factor": 2.0}},
        {"rope_theta": float("nan")},
        {"rope_theta": 10**400},
        {"rope_scaling": {"rope_type": "linear", "factor": 10**400}},
        {"rope_scaling": YARN | {"truncate": "no"}},
        {"rope_scaling": YARN | {"original_max_position_embeddings": 1024.7}},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"rope_interleaved": True},
    ],
)
def test_rotary_settings_not_understood_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"rope|rotary"):
        text(**changes)


@pytest.mark.parametrize(
    "sections",
    [
        {"mrope_section": [12, 10, 10], "mrope_interleaved": False},
        {"mrope_section": [12, 10]},
        {"mrope_section": [12, 10, 11]},
        {"mrope_section": [8, 12, 12]},
        {"mrope_section": "12"},
        {"mrope_section": [12.5, 10, 9.5]},
        {},  # Qwen3-VL's own do not fit heads of 64
    ],
)
def test_axes_that_do_not_fit_are_refused(sections: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="mrope"):
        vision(rope_scaling={"rope_type": "default"} | sections)


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.0},
        YARN,
        YARN | {"beta_fast": 24, "beta_slow": 2, "truncate": False},
        YARN | {"attention_factor": 1.3},
        YARN | {"mscale": 0.7, "mscale_all_dim": 1.2},
        {"rope_type": "yarn", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
    ],
    ids=str,
)
def test_frequencies_are_those_of_transformers(settings: dict[str, Any]) -> None:
    ours, scaling = text(rope_theta=1e4, rope_scaling=settings).rope.frequencies()
    if settings["rope_type"] == "default":
        wanted, factor = 1 / 1e4 ** (torch.arange(0, 64, 2).float() / 64), 1.0
    else:
        theirs = Qwen3Config(head_dim=64, max_position_embeddings=4096, **compat.rotary(1e4, settings))
        wanted, factor = ROPE_INIT_FUNCTIONS[settings["rope_type"]](theirs, torch.device("cpu"))
    # Frequencies are few operations in fp32: some roundings of 6e-8.
    torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=0)
    assert scaling == pytest.approx(factor, rel=1e-6)
    assert settings["rope_type"] in KINDS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("use_sliding_window", True),
        ("use_qk_norm", False),
        ("is_causal", False),
        ("use_rope", False),
        ("layer_types", ["full_attention"] * 5 + ["sliding_attention"]),
        ("layer_types", ["full_attention"] * 5),
        ("tie_word_embeddings", "yes"),
        ("head_dim", 0),
        ("head_dim", 64.5),
        ("hidden_size", "192"),
        ("num_key_value_heads", 3),
        ("num_hidden_layers", True),
        ("rms_norm_eps", "1e-6"),
        ("rms_norm_eps", 10**400),
        ("vocab_size", -1),
        # Other networks' fields
        ("logit_scale", 0.5),
        ("final_logit_softcapping", 30.0),
        ("embedding_multiplier", 12),
        ("num_experts", 8),
        ("attn_output_gate", True),
        ("residual_multiplier", 0.2),
        ("query_pre_attn_scalar", 256),
    ],
)
def test_fields_that_change_the_network_are_refused(name: str, value: object) -> None:
    for make in (text, vision, lambda **fields: vision(fields)):
        fields: dict[str, Any] = {name: value[:4] if isinstance(value, list) and make is not text else value}
        if name == "layer_types" and make is not text:
            fields = {name: ["sliding_attention"] * 4}
            if make is not vision:
                continue  # of the text alone
        with pytest.raises(CheckpointError, match=name):
            make(**fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "silu"),
        ("patch_size", 0),
        ("spatial_merge_size", 3),
        ("in_channels", 1),
        ("num_position_embeddings", 255),
        ("deepstack_visual_indexes", [1, 9]),
        ("deepstack_visual_indexes", [1, 1]),
        ("out_hidden_size", 64),
        ("num_heads", 3),
        ("fullatt_block_indexes", [1]),
        ("window_size", 112),
    ],
)
def test_fields_of_a_tower_are_refused(name: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=name):
        vision(tower={name: value})


def test_fields_outside_the_network_are_ignored() -> None:
    assert text(note="mine", transformers_version="9", sliding_window=4096, torch_dtype="float16") == text()
    assert text(mlp_only_layers=[], num_experts=None, _attn_implementation_autoset=True) == text()


def test_top_and_text_have_to_agree() -> None:
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        vision({"tie_word_embeddings": False})
    assert vision({"tie_word_embeddings": None}) == vision(tie_word_embeddings=None) == vision()


@pytest.mark.parametrize("missing", ["text_config", "vision_config", "image_token_id"])
def test_a_part_that_is_missing_is_named(missing: str) -> None:
    with pytest.raises(CheckpointError, match=missing):
        vision({missing: None})


def test_other_families_are_respelled_for_transformers() -> None:
    new = {
        "model_type": "qwen2",
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6},
    }
    old = {"model_type": "qwen2", "rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert compat.respelled(new) == compat.respelled(old)
    nested = {"model_type": "qwen2_5_vl", "text_config": new}
    assert compat.respelled(nested)["text_config"] == compat.respelled(new)


# Values that a file can hold in place of any other.
ODD: list[Any] = [
    None, True, -1, 0, 2**63, 10**400, 1.5, math.inf, "", "x", [], [[]], ["x"], {}, {"a": 1}, "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "vision"])
@pytest.mark.parametrize("family", [None, "qwen2", "llama", ["x"], {}])
def test_odd_values_are_refused_or_read(tmp_path: Path, kind: Literal["text", "vision"], family: Any) -> None:
    """Each field of a config.json in turn, in each part of it: one of our errors, or a plan."""
    folder = shutil.copytree(TINY / kind, tmp_path / "m")
    whole = config(kind) | ({"model_type": family} if family is not None else {})
    chosen = Settings.model_validate({"engine": "torch", "model": str(folder)})
    for part in (None, "text_config", "vision_config", "rope_scaling"):
        if part is not None and not isinstance(whole.get(part), dict):
            continue
        for name in [*(whole if part is None else whole[part]), "text_config", "rope_parameters"]:
            value = ODD[len(name) % len(ODD)]
            fields = {name: value} if part is None else {part: whole[part] | {name: value}}
            (folder / "config.json").write_text(json.dumps(whole | fields))
            with contextlib.suppress(FastqwenError):
                plan(chosen, kind)
