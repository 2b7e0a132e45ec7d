"""Weights that are quantised already: read as what they are, or refused by the name of what they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tgi_stack.backends.torch.backend import plan
from tgi_stack.engine.formats import packed
from tgi_stack.engine.loader import load
from tgi_stack.engine.placement import choose
from tgi_stack.engine.switches import Switches
from tgi_stack.errors import CheckpointError, UsageError
from tgi_stack.hub import Checkpoint
from tgi_stack.settings import Settings
from tgi_stack.tiny import TINY

METHODS = [
    "gptq", "awq", "compressed-tensors", "fp8", "fbgemm_fp8", "modelopt", "mxfp4", "hqq", "quanto", "aqlm",
    "torchao", "gguf", "no such method", 3, None, "", ["awq"],
]  # fmt: skip
FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True}


def changed(folder: Path, **changes: Any) -> Path:
    shutil.copytree(TINY / "text", folder)
    fields = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(fields))
    return Path(folder)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("field", packed.FIELDS)
def test_other_methods_are_refused_by_name(tmp_path: Path, method: object, field: str) -> None:
    folder = changed(tmp_path / "m", **{field: {"quant_method": method, "bits": 4}})
    with pytest.raises(CheckpointError, match="give the checkpoint that it was made from") as caught:
        plan(Settings.model_validate({"engine": "torch", "model": str(folder)}), "text")
    assert repr(method) in str(caught.value)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"quantization_config": value}
        for value in (
            {},
            [],
            [4],
            "awq",
            0,
            False,
            4.5,
            {"load_in_8bit": True},
            FOUR | {"load_in_8bit": True},
        )
    ]
    + [
        {"quantization_config": FOUR, "compression_config": FOUR},
        {"text_config": {"quantization_config": FOUR}},
        {"vision_config": {"quantization_config": FOUR}},
    ],
)
def test_what_is_no_method_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="_config"):
        packed.understand(said, Switches())
    assert packed.is_packed(said)


@pytest.mark.parametrize("said", [{}, {"quantization_config": None, "text_config": {"quantization": None}}])
def test_null_says_nothing(said: dict[str, Any]) -> None:
    packed.understand(said, Switches(weights="4bit"))
    assert not packed.is_packed(said)


@pytest.mark.parametrize("switches", [Switches(weights="4bit"), Switches(compiled=True)])
def test_switches_for_plain_weights_are_refused(switches: Switches) -> None:
    with pytest.raises(UsageError, match="leave it out"):
        packed.understand({"quantization_config": FOUR}, switches)


@pytest.fixture(scope="module", params=["4bit", "8bit"])
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as bitsandbytes and transformers save it."""
    four: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    how = BitsAndBytesConfig(**(four if request.param == "4bit" else {"load_in_8bit": True}))
    folder = tmp_path_factory.mktemp("quantised") / request.param
    shutil.copytree(TINY / "text", folder)
    network = AutoModelForCausalLM.from_pretrained(
        TINY / "text", quantization_config=how, dtype=torch.float32
    )
    network.save_pretrained(folder)
    return Path(folder)


def opened(folder: Path, weights: str = "none") -> Any:
    return load(Checkpoint("m", "r", folder), "text", choose("cpu", "fp32"), Switches(weights=weights))


def test_saved_weights_are_those_quantised_here(quantised: Path) -> None:
    ids = torch.arange(5)[None]
    with torch.inference_mode():
        saved, made = (opened(*one)(ids).logits for one in ((quantised,), (TINY / "text", quantised.name)))
    assert torch.allclose(saved, made, atol=1e-3)


NAME = "model.layers.1.mlp.up_proj."
SPOILS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "shape": lambda one: one.reshape(-1)[: max(one.numel() // 2, 1)].clone(),
    "dtype": lambda one: one.to(torch.int32),
}


@pytest.mark.parametrize("how", ["dropped", "renamed", "shape", "dtype"])
def test_a_spoiled_part_is_never_read(quantised: Path, tmp_path: Path, how: str) -> None:
    whole = load_file(quantised / "model.safetensors")
    # One row format is left, which the tensor of that name says.
    parts = [name for name in whole if name.startswith(NAME) and not name.endswith("weight_format")]
    assert len(parts) >= 2
    shutil.copytree(quantised, tmp_path / "m")
    for part in [*parts, "model.norm.weight"]:
        spoiled = {name: one for name, one in whole.items() if name != part}
        if how != "dropped":
            spoiled[part + "x" * (how == "renamed")] = SPOILS.get(how, torch.clone)(whole[part])
        save_file(spoiled, tmp_path / "m" / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=r"model\.(layers\.1\.mlp\.up_proj|norm)|CONVERSION"):
            opened(tmp_path / "m")


def test_plain_weights_are_not_called_quantised(quantised: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(quantised, tmp_path / "m")
    shutil.copy(TINY / "text" / "model.safetensors", folder)
    with pytest.raises(CheckpointError, match=r"plain weights where config\.json says bitsandbytes"):
        opened(folder)
