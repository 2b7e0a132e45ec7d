"""An adapter as `--model`: merged exactly, known by itself, and refused where it can't be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import families
from tests.conftest import Fastqwen, read_records, write_rows
from tests.tolerances import FP32
from tgi_stack.engine.label_scores import whole
from tgi_stack.engine.loader import load, understand
from tgi_stack.engine.placement import choose
from tgi_stack.engine.runtime import Runtime
from tgi_stack.engine.switches import Switches
from tgi_stack.errors import CheckpointError, FastqwenError, NoEngineError, UsageError
from tgi_stack.hub import locate, locate_files
from tgi_stack.prompting.vocabulary import tokenizer_of
from tgi_stack.tiny import TINY

CPU = choose("cpu", "fp32")
LAYERS = {"text": "model.layers", "vision": "model.language_model.layers"}
TARGETS = {"q_proj": "self_attn", "v_proj": "self_attn", "down_proj": "mlp"}
FIELDS = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "tiny",
    "bias": "none",
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_alpha": 12,
    "lora_dropout": 0.05,
    "r": 3,
    "target_modules": sorted(TARGETS),
}
SCALE = 12 / 3


def adapter(folder: Path, kind: str = "text", **fields: Any) -> dict[str, torch.Tensor]:
    """Writes an adapter of tiny, and gives what has to be added to each of its weights."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(FIELDS | fields))
    random = torch.Generator().manual_seed(5)
    tensors: dict[str, torch.Tensor] = {}
    deltas: dict[str, torch.Tensor] = {}
    for name, weight in load_file(TINY / kind / "model.safetensors").items():
        if not (name.startswith(LAYERS[kind]) and name.split(".")[-2] in TARGETS):
            continue
        a = torch.randn(3, weight.shape[1], generator=random) / 10
        b = torch.randn(weight.shape[0], 3, generator=random) / 10
        path = f"base_model.model.{name.removesuffix('.weight')}"
        tensors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
        deltas[name] = SCALE * (b @ a)
    save_file(tensors, folder / "adapter_model.safetensors")
    return deltas


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_an_adapter_is_merged_exactly(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    deltas = adapter(tmp_path / "a", kind)
    theirs = request.getfixturevalue(f"{kind}_model")
    found = locate(str(tmp_path / "a"), kind, None)
    tokenizer = tokenizer_of(found)
    asked = [families._request(tokenizer, question) for question in families.QUESTIONS]
    plain = [families._forward(theirs, one) for one in asked]
    state = {name: one.clone() for name, one in theirs.state_dict().items()}
    try:
        with torch.no_grad():
            for name, delta in deltas.items():
                theirs.state_dict()[name] += delta
        wanted = [families._forward(theirs, one) for one in asked]
    finally:
        theirs.load_state_dict(state)
    runtime = Runtime(load(found, kind, CPU), Switches(), tokenizer=tokenizer, kind="text")
    try:
        assert runtime.network is not None
        together = [one.logprobs for one in whole(runtime.score(asked))]
    finally:
        runtime.close()
    assert families._apart(together, wanted) <= FP32
    assert (torch.tensor(together) - torch.tensor(plain)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("changes", "scale"), [({"use_rslora": True}, 12 / 3**0.5), ({"alpha_pattern": {"q_proj": 6}}, 6 / 3)]
)
def test_scales_are_those_of_its_configuration(changes: Any, scale: float, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    delta = adapter(tmp_path / "a", **changes)[name]
    merged = load(locate(str(tmp_path / "a"), "text", None), "text", CPU).state_dict()[name]
    base = load_file(TINY / "text" / "model.safetensors")[name].float()
    torch.testing.assert_close(merged, base + delta * (scale / SCALE))


def test_directions_and_lengths_are_merged_apart(tmp_path: Path) -> None:
    deltas = adapter(tmp_path / "a", use_dora=True)
    base = load_file(TINY / "text" / "model.safetensors")
    path = tmp_path / "a" / "adapter_model.safetensors"
    lengths = {name: torch.rand(len(base[name])) for name in deltas}
    vectors = {
        f"base_model.model.{name.removesuffix('.weight')}.lora_magnitude_vector": length
        for name, length in lengths.items()
    }
    save_file(load_file(path) | vectors, path)
    merged = load(locate(str(tmp_path / "a"), "text", None), "text", CPU).state_dict()
    for name, delta in deltas.items():
        whole = base[name].float() + delta
        torch.testing.assert_close(merged[name], lengths[name][:, None] * whole / whole.norm(dim=1)[:, None])


def test_another_adapter_is_another_identity(tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    first = locate(str(tmp_path / "a"), "text", None).revision
    assert first.startswith(locate("tiny", "text", None).revision + "+lora-")
    adapter(tmp_path / "a", lora_alpha=13)
    second = locate(str(tmp_path / "a"), "text", None).revision
    path = tmp_path / "a" / "adapter_model.safetensors"
    save_file({name: one + 1 for name, one in load_file(path).items()}, path)
    third = locate(str(tmp_path / "a"), "text", None).revision
    assert len({first, second, third}) == 3


def test_answers_of_base_and_adapter_stay_apart(cached: Fastqwen, tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    rows = write_rows(tmp_path / "in.jsonl", {"prompt": "A or B? ", "labels": ["A", "B"]})
    found = []
    for number, model in enumerate(("tiny", tmp_path / "a", tmp_path / "a")):
        out = tmp_path / f"{number}.jsonl"
        cached(
            "probs", rows, "--out", out, "--engine", "torch", "--model", model, "--cache-dir", tmp_path / "c"
        )
        found += read_records(out)
    assert [one["from_cache"] for one in found] == [False, False, True]
    assert found[0]["probabilities"] != found[1]["probabilities"] == found[2]["probabilities"]
    assert "+lora-" in found[1]["revision"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save.*whole modules.*merge_and_unload"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "only LORA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights.*base"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"something_new": 3}, "something_new"),
        ({"base_model_name_or_path": None}, "write the base model's folder or id"),
        ({"base_model_name_or_path": "/no/such"}, "adapter of /no/such.*no such folder"),
    ],
)
def test_what_is_not_merged_is_refused(changes: Any, match: str, tmp_path: Path) -> None:
    adapter(tmp_path / "a", **changes)
    with pytest.raises(FastqwenError, match=match):
        locate(str(tmp_path / "a"), "text", None)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("r", [0, -1, "3", 3.0, None, True, 10**30]),
        ("lora_alpha", ["12", None, True, float("nan"), float("inf"), 10**400, [1]]),
        ("rank_pattern", ["x", [1], {"q_proj": 0}, {"q_proj": "2"}, {"(": 2}]),
        ("alpha_pattern", [5, {"q_proj": "x"}, {"q_proj": float("nan")}, {"(": 2}]),
        ("target_modules", ["(", 5, [5], [None], {"a": 1}]),
        ("exclude_modules", ["(", 5]),
        ("layers_pattern", ["(", 5]),
        ("layers_to_transform", ["x", ["x"], -1, [True]]),
        ("use_dora", ["yes", 1]),
        ("use_rslora", ["yes", 1]),
    ],
)
def test_fields_have_their_kinds(name: str, values: list[Any], tmp_path: Path) -> None:
    for value in values:
        adapter(tmp_path / "a", **{name: value})
        with pytest.raises(CheckpointError, match=f"{name} is .*it has to be .*merge_and_unload"):
            locate(str(tmp_path / "a"), "text", None)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"r": 4}, "other shapes"),
        ({"target_modules": ["q_proj"]}, "does not have.*the model it was trained on"),
        ({"target_modules": [*TARGETS, "k_proj"]}, "lacks .*k_proj"),
        ({"target_modules": ["wi"]}, "wi"),
        ({"target_modules": [*TARGETS, "lm_head"]}, "tie_word_embeddings"),
    ],
)
def test_an_adapter_has_to_fit(changes: Any, match: str, tmp_path: Path) -> None:
    adapter(tmp_path / "a", **changes)
    with pytest.raises(CheckpointError, match=match):
        load(locate(str(tmp_path / "a"), "text", None), "text", CPU)


def test_an_adapter_of_another_kind_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path / "a", "vision")
    with pytest.raises(CheckpointError, match="the model it was trained on"):
        load(locate(str(tmp_path / "a"), "text", None), "text", CPU)


def test_a_pickled_adapter_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"pickle, which could run code.*save it"):
        locate(str(tmp_path / "a"), "text", None)


def test_an_adapter_needs_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter(tmp_path / "a")
    monkeypatch.setattr("tgi_stack.checkpoints.adapter.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'fastqwen\[torch,lora\]'"):
        locate(str(tmp_path / "a"), "text", None)


def test_a_base_that_is_not_here(tmp_path: Path) -> None:
    adapter(tmp_path / "a", base_model_name_or_path="some/base")
    with pytest.raises(NoEngineError, match=r"adapter of some/base.*not on this machine"):
        locate(str(tmp_path / "a"), "text", None, may_download=False)


def test_an_adapter_of_an_adapter_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    adapter(tmp_path / "b", base_model_name_or_path=str(tmp_path / "a"))
    with pytest.raises(CheckpointError, match="merge that first"):
        locate(str(tmp_path / "b"), "text", None)


@pytest.mark.parametrize("switches", [Switches(weights="4bit"), Switches(loader="unsloth")])
def test_packed_weights_take_no_adapter(switches: Switches, tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    with pytest.raises(UsageError, match="merged into plain weights"):
        understand(locate(str(tmp_path / "a"), "text", None), switches)


def test_small_files_are_those_of_its_base(tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    assert locate_files(str(tmp_path / "a"), "text", None).folder == TINY / "text"
    (tmp_path / "a" / "chat_template.jinja").write_text("its own")
    assert locate(str(tmp_path / "a"), "text", None).chat_template == "its own"


def test_transformers_forward_takes_one_too(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    theirs = families.made("qwen2", base)
    name = "model.layers.1.self_attn.q_proj"
    a, b = torch.ones(3, 32) / 8, torch.ones(32, 3) / 8
    adapter(tmp_path / "a", base_model_name_or_path=str(base), target_modules=r"model\.layers\.1\..*q_proj")
    pair = {f"base_model.model.{name}.lora_{side}.weight": one for side, one in (("A", a), ("B", b))}
    save_file(pair, tmp_path / "a" / "adapter_model.safetensors")
    merged = load(locate(str(tmp_path / "a"), "text", None), "text", CPU)
    wanted = theirs.state_dict()[f"{name}.weight"] + SCALE * (b @ a)
    torch.testing.assert_close(merged.state_dict()[f"{name}.weight"], wanted)
