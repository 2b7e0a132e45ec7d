"""What a GGUF file says of its network, as a config.json: read strictly, each field accounted for.

Source: llama.cpp's converters and graphs of these families. Rows of the projections stand there as in a
checkpoint of transformers (only those of Llama are permuted), and norms hold what they multiply by.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Never

from tgi_stack.checkpoints.gguf.header import Header
from tgi_stack.errors import CheckpointError

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
# The families, as they and transformers call them.
FAMILIES = {"qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe"}
_CLASSES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}

_SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_HEAD_DIM = frozenset({"attention.key_length", "attention.value_length", "rope.dimension_count"})
_EPS, _BASE = "attention.layer_norm_rms_epsilon", "rope.freq_base"
_SCALING = "rope.scaling."
_TRAINED = "rope.scaling.original_context_length"  # in tokens
_YARN = {
    _TRAINED: "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
_SCALINGS = {"linear": ("rope.scaling.factor",), "yarn": ("rope.scaling.factor", *_YARN)}
# The only values with which the network is the one that is computed here.
_FIXED: Mapping[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.scale": (0, 0.0),
    "attention.sliding_window": (0,),
    "expert_gating_func": (1,),
    "expert_shared_count": (0,),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0.0, 1.0),
    "leading_dense_block_count": (0,),
    "pooling_type": (0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
}
_HARMLESS = frozenset({"vocab_size", "rope.scaling.finetuned"})  # the first is proven by the embedding
_DEFAULT_BASE = 10_000.0  # llama.cpp's, where a file names none

_TOP = {
    EMBEDDING: "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    HEAD: "lm_head.weight",
}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
_OF_EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def names(tensor: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """What a tensor is called in a checkpoint: one name, or one for each of its experts.

    A tensor of another network keeps its name, by which it is refused.
    """
    found = _LAYER.fullmatch(tensor)
    if found is None:
        return (_TOP.get(tensor, tensor),)
    layer, part, what = found.groups()
    if part in _OF_EXPERTS and len(shape) == 3:
        return tuple(
            f"model.layers.{layer}.mlp.experts.{n}.{_OF_EXPERTS[part]}.{what}" for n in range(shape[0])
        )
    return (f"model.layers.{layer}.{_PARTS[part]}.{what}" if part in _PARTS else tensor,)


def config_of(header: Header) -> dict[str, Any]:
    """The config.json of a file's network.

    Raises:
        CheckpointError: another family; a field that is missing, wrong or not understood.
    """
    family = FAMILIES.get(header.architecture)
    if family is None:
        _refuse(header, "general.architecture", header.architecture, f"only {', '.join(FAMILIES)} are read")
    _refuse_other_files(header)
    said = _of_family(header)
    experts = family == "qwen3_moe"
    _refuse_unknown(header, said, experts=experts)
    fields: dict[str, Any] = {name: _size(header, said, key) for key, name in _SIZES.items()}
    head_dim = _head_dim(header, said, fields["hidden_size"], fields["num_attention_heads"])
    eps = said.get(_EPS)
    if not isinstance(eps, float) or not 0 <= eps < math.inf:
        _refuse(header, _EPS, eps, "a number is needed")
    if experts:
        fields |= {name: _size(header, said, key) for key, name in _EXPERTS.items()}
        # llama.cpp divides the weights of the chosen experts by their sum, and has experts in every layer.
        fields |= {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    if family == "qwen2":
        if head_dim * fields["num_attention_heads"] != fields["hidden_size"]:
            _refuse(header, "attention.key_length", head_dim, "heads of Qwen2 share the hidden size out")
    else:
        fields |= {"head_dim": head_dim, "attention_bias": False}
    return fields | {
        "architectures": [_CLASSES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "rms_norm_eps": eps,
        "rope_theta": _positive(header, said, _BASE, _DEFAULT_BASE),
        "rope_scaling": _scaling(header, said),
        "tie_word_embeddings": HEAD not in header.tensors,
        "use_sliding_window": False,
        "vocab_size": _vocabulary(header),
        "bos_token_id": header.fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.fields.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": header.fields.get("tokenizer.ggml.padding_token_id"),
    }


def _refuse_other_files(header: Header) -> None:
    """Refuses what is a part of a model, and weights that other software takes for another job."""
    said = header.fields
    if said.get("general.type", "model") != "model":
        _refuse(header, "general.type", said["general.type"], "only whole models are read")
    if said.get("split.count", 1) not in (0, 1):
        why = "put the parts together first (llama-gguf-split --merge FIRST OUT) and name that file"
        _refuse(header, "split.count", said["split.count"], why)
    if said.get("general.quantization_version", 2) != 2:
        _refuse(
            header, "general.quantization_version", said["general.quantization_version"], "only 2 is read"
        )
    if "cls.output.weight" in header.tensors:
        raise CheckpointError(
            f"{header.path} was made for llama.cpp's own reranking: in place of its head it may hold "
            "two rows (cls.output.weight); name the checkpoint that it was made of, as safetensors"
        )


def _of_family(header: Header) -> dict[str, Any]:
    """The fields of the family, without its name."""
    begin = f"{header.architecture}."
    return {
        name.removeprefix(begin): value for name, value in header.fields.items() if name.startswith(begin)
    }


def _refuse_unknown(header: Header, said: Mapping[str, Any], *, experts: bool) -> None:
    known = {*_SIZES, *_HEAD_DIM, _EPS, _BASE, *_HARMLESS, *(_EXPERTS if experts else ())}
    for name, value in said.items():
        if name in known or (name.startswith(_SCALING) and name not in _FIXED):
            continue
        if name not in _FIXED:
            _refuse(header, name, value, "no such field is known; it may change what the network computes")
        if value not in _FIXED[name]:
            _refuse(header, name, value, f"only {_FIXED[name][0]!r} is computed here")


def _size(header: Header, said: Mapping[str, Any], name: str) -> int:
    value = said.get(name, said.get("attention.head_count") if name == "attention.head_count_kv" else None)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        _refuse(header, name, value, "a whole number over 0 is needed")
    return value


def _head_dim(header: Header, said: Mapping[str, Any], hidden: int, heads: int) -> int:
    given = {name: _size(header, said, name) for name in sorted(_HEAD_DIM & said.keys())}
    size = given.get("attention.key_length", hidden // heads)
    for name, value in given.items():
        if value != size:
            _refuse(header, name, value, f"heads are {size} wide")
    return size


def _positive(header: Header, said: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = said.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        _refuse(header, name, value, "a number over 0 is needed")
    return float(value)


def _scaling(header: Header, said: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rotary settings beyond their base."""
    kind = said.get("rope.scaling.type", "none")
    if not isinstance(kind, str) or (kind != "none" and kind not in _SCALINGS):
        _refuse(header, "rope.scaling.type", kind, f"kinds are none, {', '.join(_SCALINGS)}")
    known = _SCALINGS.get(kind, ())
    for name, value in said.items():
        read = name in known or name in _FIXED or name in _HARMLESS or name == "rope.scaling.type"
        if name.startswith(_SCALING) and not read:
            _refuse(header, name, value, f"kind {kind!r} has no such setting here")
    if kind == "none":
        return None
    settings: dict[str, Any] = {"rope_type": kind, "factor": _positive(header, said, "rope.scaling.factor")}
    for key, name in _YARN.items():
        if key in said:
            settings[name] = (_size if key == _TRAINED else _positive)(header, said, key)
    return settings


def _vocabulary(header: Header) -> int:
    """The rows of the embedding: as many as the file has tokens."""
    embedding = header.tensors.get(EMBEDDING)
    if embedding is None:
        raise CheckpointError(f"{header.path} lacks {EMBEDDING}")
    rows, tokens = embedding.shape[0], header.fields.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) != rows:
        _refuse(header, "tokenizer.ggml.tokens", f"{len(tokens)} tokens", f"{EMBEDDING} has {rows} rows")
    return rows


def _refuse(header: Header, name: str, value: object, why: str) -> Never:
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
    raise CheckpointError(f"{header.path}: {name} is {shown}: {why}")
