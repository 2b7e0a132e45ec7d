"""GGUF files made of checkpoints with llama.cpp's own package: its names, its packings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file

ARCHITECTURES = {
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
}
Tensors = dict[str, tuple[Any, Kind]]


def written(
    path: Path,
    folder: Path,
    kind: Kind = Kind.F32,
    *,
    fields: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    changed: Callable[[Tensors], None] | None = None,
) -> Path:
    """A checkpoint's folder as a GGUF file.

    Args:
        kind: of its matrices.
        fields: written besides, or in place of what would be.
        without: fields that are left out.
        changed: is given the tensors by their names, packed, before they are written.
    """
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    given = (
        dict(_sizes(config, writer.arch)) | dict(_tokens(folder, config["vocab_size"])) | dict(fields or {})
    )
    for name, value in given.items():
        if name not in without:
            _add(writer, name, value)
    tensors = packed(folder, config, kind)
    if changed is not None:
        changed(tensors)
    for name, (data, packing) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=packing)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def packed(folder: Path, config: Mapping[str, Any], kind: Kind) -> Tensors:
    """The tensors by the names of a GGUF file; vectors stay in fp32."""
    names = gguf.get_tensor_name_map(ARCHITECTURES[config["model_type"]], config["num_hidden_layers"])
    found: Tensors = {}
    for name, weight in _with_experts_joined(load_file(folder / "model.safetensors")).items():
        called = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert called is not None, name
        data = weight.float().numpy()
        packing = kind if data.ndim > 1 else Kind.F32
        found[called] = (gguf.quants.quantize(data, packing), packing)
    return found


def _with_experts_joined(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What llama.cpp's converter does: the experts of a layer become one tensor for each matrix."""
    found: dict[str, torch.Tensor] = {}
    for name, weight in tensors.items():
        begin, is_expert, end = name.partition(".experts.")
        if not is_expert:
            found[name] = weight
            continue
        number, _, what = end.partition(".")
        if number == "0":
            experts = range(
                sum(key.startswith(f"{begin}.experts.") and key.endswith(what) for key in tensors)
            )
            found[f"{begin}.experts.{what}"] = torch.stack(
                [tensors[f"{begin}.experts.{n}.{what}"] for n in experts]
            )
    return found


def _sizes(config: Mapping[str, Any], family: str) -> Mapping[str, Any]:
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta")
    found = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(theta or 0),
    }
    if config.get("head_dim"):
        found |= {"attention.key_length": config["head_dim"], "attention.value_length": config["head_dim"]}
    experts = config.get("num_experts") or config.get("num_local_experts")
    if experts:
        found |= {
            "expert_count": experts,
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
        }
    return {f"{family}.{name}": value for name, value in found.items()} | {
        "general.name": "made for a test",
        "general.file_type": 7,
        "general.quantization_version": 2,
    }


def _tokens(folder: Path, rows: int) -> Mapping[str, Any]:
    """The tokenizer's part, filled up to the rows of the embedding as llama.cpp's converter does."""
    content = json.loads((folder / "tokenizer.json").read_text())
    tokens = {id: token for token, id in content["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        types[added["id"]] = kind
    merges = [one if isinstance(one, str) else " ".join(one) for one in content["model"]["merges"]]
    found = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [tokens.get(id, f"[PAD{id}]") for id in range(rows)],
        "tokenizer.ggml.token_type": [int(types.get(id, gguf.TokenType.UNUSED)) for id in range(rows)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": content["added_tokens"][2]["id"],
        "tokenizer.ggml.add_bos_token": False,
    }
    template = folder / "chat_template.jinja"
    return found | ({"tokenizer.chat_template": template.read_text()} if template.is_file() else {})


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def of_random_blocks(shape: tuple[int, ...], kind: Kind, seed: int = 5) -> Any:
    """Bytes of a packing that the package only unpacks: any are some numbers, unless they are none."""
    random = np.random.default_rng(seed)
    rows = gguf.quants.quant_shape_to_byte_shape(shape, kind)
    while True:
        drawn = random.integers(0, 60, rows, dtype=np.uint8)  # small exponents
        if np.isfinite(gguf.quants.dequantize(drawn, kind)).all():
            return drawn
