"""What a config.json says of a Qwen3 network, read strictly: what is not understood would change its numbers.

Names are those of config.json. Shapes need no trust here: the weights prove them (see `weights`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Never

from tgi_stack.engine.models.rope import LARGEST_FLOAT, Rope, rope_of
from tgi_stack.errors import CheckpointError

TEXT, VISION = "qwen3", "qwen3_vl"
OWN_TYPES = frozenset({TEXT, VISION})
# A network with another head (a classifier's, a reward's) is another one, though its layers are the same.
_CLASSES = {
    TEXT: ("Qwen3ForCausalLM", "Qwen3Model"),
    VISION: ("Qwen3VLForConditionalGeneration", "Qwen3VLModel"),
}

# More of anything is a slip: networks of such sizes are never made, not even to find out what they lack.
LARGEST, MOST_LAYERS = 2**31, 4096

# The only values with which the network is the one that is computed here; absent or null means the same.
_FIXED: Mapping[str, object] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "use_qk_norm": True,
    "qk_norm": True,
    "is_causal": True,
    "causal": True,
    "use_rope": True,
}
_FIXED_TOWER: Mapping[str, object] = {
    "hidden_act": "gelu_pytorch_tanh",
    "in_channels": 3,
    "spatial_merge_size": 2,
}
# Read elsewhere, or without effect on a forward pass.
_HARMLESS = frozenset(
    {
        "add_cross_attention", "architectures", "attention_dropout", "attn_implementation", "auto_map",
        "bos_token_id", "chunk_size_feed_forward", "classifier_dropout", "cross_attention_hidden_size",
        "dtype", "eos_token_id", "id2label", "image_token_id", "initializer_range", "is_decoder",
        "is_encoder_decoder", "label2id", "layer_types", "max_position_embeddings", "max_window_layers",
        "model_type", "output_attentions", "output_hidden_states", "output_scores", "pad_token_id",
        "problem_type", "pruned_heads", "quantization_config", "return_dict", "rope_parameters",
        "rope_scaling", "rope_theta", "sep_token_id", "sliding_window", "task_specific_params",
        "tie_encoder_decoder", "tie_word_embeddings", "torch_dtype", "torchscript",
        "transformers_version", "use_cache", "video_token_id", "vision_end_token_id",
        "vision_start_token_id",
    }
)  # fmt: skip
_NAMES_OF_NETWORKS = re.compile(
    "act|alibi|attn|attention|bias|block|cap|channel|conv|depth|dim|embed|expert|factor|gate|gating|head|hidden|kv|layer|"
    "logit|lora|mask|mlp|moe|mtp|multipl|norm|partial|position|qk|quant|residual|rope|rotary|router|scal|"
    "shared|size|softcap|sparse|theta|tie|window",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TextConfig:
    """A stack of Qwen3 layers."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: Rope


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The tower of a Qwen3-VL; `num_position_embeddings` is a square."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int
    out_hidden_size: int
    num_position_embeddings: int
    deepstack_visual_indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VisionLanguageConfig:
    """A Qwen3-VL."""

    model_type: str
    image_token_id: int
    text_config: TextConfig
    vision_config: VisionConfig


QwenConfig = TextConfig | VisionLanguageConfig

# Where a configuration is silent, what transformers' classes of these families stand for.
_DEFAULTS: Mapping[str, object] = {"head_dim": 128, "rms_norm_eps": 1e-6}
_TOWER_DEFAULTS: Mapping[str, object] = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "in_channels": 3,
    "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 3584,
    "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
)  # fmt: skip
_OF_TEXT = frozenset(
    {*_SIZES, *_FIXED, "rms_norm_eps", "tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters"}
)


def read(config: Mapping[str, Any]) -> QwenConfig:
    """The network that a config.json of one of `OWN_TYPES` describes.

    Raises:
        CheckpointError: a field that is missing, wrong, contradicted, or not understood, by its name.
    """
    refuse_other_class(config, _CLASSES[config["model_type"]])
    if config.get("model_type") == TEXT:
        return _text(config, {"": config}, vision=False)
    inner, tower = (_part(config, name) for name in ("text_config", "vision_config"))
    _refuse_unknown(config, (*_OF_TEXT, "text_config", "vision_config"), "")
    _refuse_differences(config, inner)
    # What stands at the top alone is said of the text too: older files have it there.
    outer = {name: value for name, value in config.items() if name in _OF_TEXT and value is not None}
    merged = {**outer, **{name: value for name, value in inner.items() if value is not None}}
    text = _text(merged, {"text_config.": inner, "": outer}, vision=True)
    visual = _tower(tower)
    if visual.out_hidden_size != text.hidden_size:
        _refuse("vision_config.out_hidden_size", visual.out_hidden_size, f"the text has {text.hidden_size}")
    image = config.get("image_token_id")
    if not _whole(image):
        _refuse("image_token_id", image, "give the token's id")
    return VisionLanguageConfig(VISION, int(image or 0), text, visual)


def architectures(config: Mapping[str, Any]) -> Any:
    """The classes that a config.json names; transformers 4 writes those of Qwen2-VL into its text_config."""
    text = config.get("text_config")
    found = config.get("architectures")
    return text.get("architectures") if found is None and isinstance(text, Mapping) else found


def refuse_other_class(config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises CheckpointError where the class that a config.json names is none of those that are computed."""
    named = architectures(config)
    if named is None or (isinstance(named, list) and len(named) == 1 and named[0] in known):
        return
    brings = config.get("auto_map")
    code = "; it needs code that comes with it (auto_map), which is never run" if brings else ""
    _refuse(
        "architectures", named, f"only {known[0]} is computed from a {config.get('model_type')} model{code}"
    )


def _text(config: Mapping[str, Any], places: Mapping[str, Mapping[str, Any]], *, vision: bool) -> TextConfig:
    """A stack of layers; `places` are the objects in which its rotary settings may stand."""
    at = next(iter(places))
    _refuse_unknown(config, tuple(_OF_TEXT), at)
    _refuse_other(config, _FIXED, at)
    fields = {**_DEFAULTS, **{name: value for name, value in config.items() if value is not None}}
    fields.setdefault("num_key_value_heads", fields.get("num_attention_heads"))
    for name in _SIZES:
        if not _whole(fields.get(name)) or fields[name] == 0:
            _refuse(f"{at}{name}", fields.get(name), "a whole number over 0 is needed")
    if fields["num_hidden_layers"] > MOST_LAYERS:
        _refuse(
            f"{at}num_hidden_layers", fields["num_hidden_layers"], f"at most {MOST_LAYERS} are computed here"
        )
    layers = fields.get("layer_types")
    if layers is not None and layers != ["full_attention"] * fields["num_hidden_layers"]:
        _refuse(f"{at}layer_types", layers, "only full attention, in every layer, is computed here")
    if fields["num_attention_heads"] % fields["num_key_value_heads"]:
        _refuse(f"{at}num_key_value_heads", fields["num_key_value_heads"], "it does not divide the heads")
    tied = fields.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        _refuse(f"{at}tie_word_embeddings", tied, "true or false is needed")
    eps = fields["rms_norm_eps"]
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps <= LARGEST_FLOAT:
        _refuse(f"{at}rms_norm_eps", eps, "a number is needed")
    sizes = {name: int(fields[name]) for name in _SIZES}
    return TextConfig(
        model_type=VISION + "_text" if vision else TEXT,
        rms_norm_eps=float(eps),
        tie_word_embeddings=tied,
        rope=rope_of(
            places, head_dim=sizes["head_dim"], longest=sizes["max_position_embeddings"], vision=vision
        ),
        **sizes,
    )


def _tower(config: Mapping[str, Any]) -> VisionConfig:
    at = "vision_config."
    _refuse_unknown(config, (*_TOWER_DEFAULTS, *_FIXED_TOWER), at)
    _refuse_other(config, _FIXED_TOWER, at)
    fields = {**_TOWER_DEFAULTS, **{name: value for name, value in config.items() if value is not None}}
    deep = fields.pop("deepstack_visual_indexes")
    sizes = {name: fields[name] for name in _TOWER_DEFAULTS if name in fields}
    for name, value in sizes.items():
        if not _whole(value) or value == 0:
            _refuse(f"{at}{name}", value, "a whole number over 0 is needed")
    if sizes["depth"] > MOST_LAYERS:
        _refuse(f"{at}depth", sizes["depth"], f"at most {MOST_LAYERS} layers are computed here")
    if not isinstance(deep, list) or not all(_whole(n) and n < sizes["depth"] for n in deep):
        _refuse(f"{at}deepstack_visual_indexes", deep, "a list of the tower's layers is needed")
    if len(set(deep)) != len(deep):
        _refuse(f"{at}deepstack_visual_indexes", deep, "a layer stands twice")
    if math.isqrt(sizes["num_position_embeddings"]) ** 2 != sizes["num_position_embeddings"]:
        _refuse(f"{at}num_position_embeddings", sizes["num_position_embeddings"], "a square is needed")
    if sizes["hidden_size"] % (4 * sizes["num_heads"]):
        _refuse(f"{at}num_heads", sizes["num_heads"], "it does not divide hidden_size into fours")
    return VisionConfig(deepstack_visual_indexes=tuple(deep), **sizes)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    if not isinstance(part, dict):
        _refuse(name, part, "an object is needed")
    return part


def _refuse_differences(config: Mapping[str, Any], inner: Mapping[str, Any]) -> None:
    """What stands both at the top and in text_config has to be the same."""
    for name in sorted(_OF_TEXT - {"rope_theta", "rope_scaling", "rope_parameters"}):
        if None not in (config.get(name), inner.get(name)) and config[name] != inner[name]:
            _refuse(name, config[name], f"text_config has {inner[name]!r}")


def _refuse_unknown(config: Mapping[str, Any], known: tuple[str, ...], at: str) -> None:
    for name, value in config.items():
        read = name in known or name in _HARMLESS or name.startswith(("_", "unsloth"))
        if not read and value not in (None, False, [], {}, "") and _NAMES_OF_NETWORKS.search(name):
            _refuse(f"{at}{name}", value, "no such field is known; it may change what the network computes")


def _refuse_other(config: Mapping[str, Any], fixed: Mapping[str, object], at: str) -> None:
    for name, value in fixed.items():
        if config.get(name) is not None and config[name] != value:
            _refuse(f"{at}{name}", config[name], f"only {value!r} is computed here")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _refuse(name: str, value: object, why: str) -> Never:
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
    raise CheckpointError(f"config.json: {name} is {shown}: {why}")
