"""How large models are: weights, and the keys and values of a token.

Parameters are counted from the architecture (a test builds each network without weights and counts); what a
server needs beside weights and cache is an estimate, see `plan`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from tgi_stack.errors import UsageError


@dataclass(frozen=True, slots=True)
class Model:
    """A network's shape: `parameters` in all, `embedding` of them outside the layers (never quantised)."""

    name: str
    type: str
    parameters: int
    embedding: int
    layers: int
    kv_heads: int
    hidden: int
    intermediate: int
    head_dim: int = 128

    def weight_bytes(self, bits: float) -> int:
        """Of all weights, with `bits` for those inside the layers."""
        return int((self.parameters - self.embedding) * bits / 8) + 2 * self.embedding

    @property
    def kv_bytes(self) -> int:
        """Of the keys and values of one token, in 16 bits."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


def _rows() -> dict[str, Model]:
    return {model.name: model for model in (
        Model("Qwen/Qwen3-0.6B", "qwen3", 596_049_920, 155_582_464, 28, 8, 1024, 3072),
        Model("Qwen/Qwen3-1.7B", "qwen3", 1_720_574_976, 311_164_928, 28, 8, 2048, 6144),
        Model("Qwen/Qwen3-4B", "qwen3", 4_022_468_096, 388_956_160, 36, 8, 2560, 9728),
        Model("Qwen/Qwen3-8B", "qwen3", 8_190_735_360, 1_244_659_712, 36, 8, 4096, 12288),
        Model("Qwen/Qwen3-14B", "qwen3", 14_768_307_200, 1_555_824_640, 40, 8, 5120, 17408),
        Model("Qwen/Qwen3-32B", "qwen3", 32_762_123_264, 1_555_824_640, 64, 8, 5120, 25600),
        Model("Qwen/Qwen3-VL-2B-Instruct", "qwen3_vl", 2_127_532_032, 311_164_928, 28, 8, 2048, 6144),
        Model("Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl", 4_437_815_808, 388_956_160, 36, 8, 2560, 9728),
        Model("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", 8_767_123_696, 1_244_659_712, 36, 8, 4096, 12288),
        Model("Qwen/Qwen3-VL-32B-Instruct", "qwen3_vl", 33_357_390_064, 1_555_824_640, 64, 8, 5120, 25600),
        Model("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl", 3_754_622_976, 311_164_928, 36, 2, 2048, 11008),
        Model("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", 8_292_166_656, 1_089_994_752, 28, 4, 3584, 18944),
    )}  # fmt: skip


MODELS = _rows()
_CHECKPOINT = re.compile(r"^(?P<base>.+?)-(?P<kind>FP8|AWQ|GPTQ)(-Int4)?$")
_KINDS = {"FP8": "fp8-checkpoint", "AWQ": "awq", "GPTQ": "gptq"}


def identify(name: str) -> tuple[Model, str]:
    """A model's shape, and what its checkpoint is quantised with (`none` for plain weights).

    Raises:
        UsageError: not in the table, and not in this machine's hub cache.
    """
    if name in MODELS:
        return MODELS[name], "none"
    found = _CHECKPOINT.match(name)
    if found and found["base"] in MODELS:
        return MODELS[found["base"]], _KINDS[found["kind"]]
    if (cached := _from_hub_cache(name)) is not None:
        return cached, "none"
    raise UsageError(
        f"the size of {name} is not known; known are {', '.join(MODELS)} (with -FP8, -AWQ or -GPTQ-Int4 "
        "behind them), and what is in this machine's hub cache"
    )


def _from_hub_cache(name: str) -> Model | None:
    """From the configuration and the weights that are here already; nothing is downloaded."""
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        text = config.get("text_config", config)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        heads = text["num_attention_heads"]
        return Model(
            name=name,
            type=config["model_type"],
            parameters=size // 2,
            embedding=text["vocab_size"] * text["hidden_size"],
            layers=text["num_hidden_layers"],
            kv_heads=text["num_key_value_heads"],
            hidden=text["hidden_size"],
            intermediate=text["intermediate_size"],
            head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        )
    except (HFValidationError, LocalEntryNotFoundError, OSError, ValueError, KeyError):
        return None
