"""Networks of a known model's true shape with random weights: speed does not depend on what they know."""

from __future__ import annotations

from typing import Any

import torch

from tgi_stack.engine.models import compat
from tgi_stack.engine.placement import Placement
from tgi_stack.errors import UsageError

VOCABULARY = 151_936
# hidden, intermediate, layers, heads, key-value heads, tied embeddings
TEXT = {
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, True),
    "qwen3-1.7b": (2048, 6144, 28, 16, 8, True),
    "qwen3-4b": (2560, 9728, 36, 32, 8, True),
    "qwen3-8b": (4096, 12288, 36, 32, 8, False),
}
VISION = {"qwen3-vl-2b": (2048, 6144, 28, 16, 8, True), "qwen3-vl-4b": (2560, 9728, 36, 32, 8, True)}
TOWER = {"depth": 24, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096}
END, PAD, IMAGE = 151_645, 151_643, 151_655


def kind_of(name: str) -> str:
    """`text` or `vision`.

    Raises:
        UsageError: no shape of this name is known.
    """
    if name in TEXT:
        return "text"
    if name in VISION:
        return "vision"
    raise UsageError(f"--random-weights {name}: give one of {', '.join((*TEXT, *VISION))}")


def random_model(name: str, placement: Placement, seed: int = 0) -> Any:
    """A transformers model of that shape on its device, each weight drawn anew."""
    compat.quiet()
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(placement.dtype)
    try:
        with placement.device:
            if kind_of(name) == "text":
                model: Any = compat.transformers().Qwen3ForCausalLM(text_config(name))
            else:
                model = compat.transformers().Qwen3VLForConditionalGeneration(_vision_config(name))
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = END
    model.generation_config.pad_token_id = PAD
    return model.eval()


def _text(shape: tuple[int, int, int, int, int, bool]) -> dict[str, Any]:
    hidden, intermediate, layers, heads, kv_heads, _ = shape
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
        "rms_norm_eps": 1e-6,
    }


def text_config(name: str) -> Any:
    """Of a text model."""
    rotary = compat.rotary(1e6)
    return compat.transformers().Qwen3Config(
        **_text(TEXT[name]), **rotary, tie_word_embeddings=TEXT[name][-1]
    )


def _vision_config(name: str) -> Any:
    shape = VISION[name]
    sections = {"mrope_interleaved": True, "mrope_section": [24, 20, 20]}
    tower = {
        **TOWER,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "deepstack_visual_indexes": [5, 11, 17],
        "out_hidden_size": shape[0],
        "num_position_embeddings": 2304,
    }
    return compat.transformers().Qwen3VLConfig(
        text_config={**_text(shape), **compat.rotary(5e6, sections), "tie_word_embeddings": shape[-1]},
        vision_config=tower,
        image_token_id=IMAGE,
        tie_word_embeddings=shape[-1],
    )
