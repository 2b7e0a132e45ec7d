"""The optimisation guide's table: each optimisation, what it promises, and the switches that turn it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ONE_BY_ONE, PADDED, ENGINE, DEVICES, SERVER = "one by one", "padded", "engine", "devices", "server"


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        how: `seed` (one at a time, full logits), `padded` (transformers in batches), `engine` (this
            project's), `devices` (that, on all GPUs), `server`.
        flags: settings beside those of the run.
        summaries, prompts, memory: what the guide expects, in its words; empty where it says nothing.
    """

    name: str
    how: str
    flags: dict[str, Any] = field(default_factory=dict)
    summaries: str = ""
    prompts: str = ""
    memory: str = ""


BASELINE = Variant("one at a time (the optimisation guide today)", ONE_BY_ONE)
PLAIN = Variant("packed, continuous batches", ENGINE, {}, "", "3-5x", "+30 %")
VARIANTS = (
    BASELINE,
    Variant("bigger padded batches", PADDED, {}, "2-4x", "3-5x", "+50-100 %"),
    PLAIN,
    Variant("8-bit", ENGINE, {"quantization": "8bit"}, "1.5-2x", "1.5-2x", "-50 %"),
    Variant("4-bit", ENGINE, {"quantization": "4bit"}, "2-3x", "2-3x", "-75 %"),
    Variant("torch.compile", ENGINE, {"use_torch_compile": True}, "1.2-1.5x", "1.2-1.5x", "0 %"),
    Variant("Flash Attention", ENGINE, {"use_flash_attention": True}, "1.5-2x", "N/A", "-20 %"),
    Variant("fp8", ENGINE, {"quantization": "fp8"}),
    Variant("4-bit + Flash Attention", ENGINE, {"quantization": "4bit", "use_flash_attention": True}),
    Variant("4-bit + torch.compile", ENGINE, {"quantization": "4bit", "use_torch_compile": True}),
    Variant("fp8 + torch.compile", ENGINE, {"quantization": "fp8", "use_torch_compile": True}),
    Variant(
        "torch.compile + Flash Attention", ENGINE, {"use_torch_compile": True, "use_flash_attention": True}
    ),
    Variant("Unsloth", ENGINE, {"loader": "unsloth", "quantization": "4bit"}, "", "2-3x", "-75 %"),
    Variant("all GPUs", DEVICES, {"device": "all"}),
)


def server(url: str) -> Variant:
    """The row of a server that the user named."""
    return Variant(f"server {url}", SERVER, {"endpoint": (url,), "engine": "auto"}, "N/A", "5-10x", "+20 %")
