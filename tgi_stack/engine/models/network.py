"""The Qwen3 stack of layers over packed rows: one forward for scores, for prompts and for decoding.

It takes the weights of a loaded transformers model and leaves attention to its caller, who alone knows which
rows belong together. Equal to transformers' forward to rounding (tested in fp32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

import torch

from tgi_stack.engine.layers.linear import BLOCK, BlockScaledFp8, Pending, SeparateLinear, matrix
from tgi_stack.engine.layers.ops import HopperOps, Layer, Ops, Rows
from tgi_stack.engine.layers.rotary import Rotary

TYPES = frozenset({"qwen3", "qwen3_vl", "qwen3_vl_text"})
# Rotary positions whose frequencies do not depend on how long a prompt is.
STATIC_ROPE = frozenset({"default", "linear", "yarn", "llama3"})


class Attend(Protocol):
    """Attention of one layer."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Rows:
        """q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim] -> [tokens, heads * head_dim].

        It may be in fp8 where the network `takes_blocks8`.
        """


# Of q, k and v; the result has the rows that are wanted, and no other.
AttendLast = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Network:
    """A Qwen3 network, or the language model of a Qwen3-VL.

    Args:
        model: as transformers loaded it; plain weights are fused in place, so memory does not double.
        ops: what computes norms, rotations and activations.
        fp8: keep a copy of the layers' matrices in fp8 and multiply by that.
    """

    def __init__(self, model: Any, ops: Ops, *, fp8: bool = False) -> None:
        body = model.model.language_model if hasattr(model.model, "language_model") else model.model
        config = body.config
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads)
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        self.eps = float(config.rms_norm_eps)
        self.embedding: torch.Tensor = body.embed_tokens.weight
        self.head: torch.Tensor = model.lm_head.weight
        self.norm: torch.Tensor = body.norm.weight
        self.rotary = Rotary(body.rotary_emb, getattr(body.rotary_emb, "mrope_section", None))
        self.layers = [_layer(module, fp8) for module in body.layers]
        self.ops = ops
        self._compiled: set[int] = set()
        self._fast = (ops.before_attention, ops.after_attention)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, key-value heads, head_dim."""
        return self.heads, self.kv_heads, self.head_dim

    def compile(self, sizes: Iterable[int]) -> None:
        """Has what stands before and after attention compiled, once for all layers and each of these numbers
        of rows, when it first comes; other numbers are computed as they are. May be called again for more.
        """
        if not self._compiled:
            options: dict[str, Any] = {"dynamic": False, "fullgraph": True}
            before, after = self._fast
            self._fast = (torch.compile(before, **options), torch.compile(after, **options))
        self._compiled.update(sizes)

    @property
    def is_compiled(self) -> bool:
        """Whether `compile` was called."""
        return bool(self._compiled)

    @property
    def is_plain(self) -> bool:
        """Whether all products are computed here, and none by the modules of a quantised model."""
        return not any(isinstance(layer.qkv, SeparateLinear) for layer in self.layers)

    @property
    def takes_blocks8(self) -> bool:
        """Whether attention may give what it has in fp8."""
        return isinstance(self.ops, HopperOps) and self.layers[0].out.wants_fp8 and self.head_dim == BLOCK

    def forward(
        self,
        x: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor],
        attend: Attend,
        *,
        last: torch.Tensor | None = None,
        attend_last: AttendLast | None = None,
        inject: Sequence[torch.Tensor] = (),
        inject_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The normed outputs of the last layer, shape [tokens or last, hidden].

        Args:
            x: embeddings, shape [tokens, hidden]; overwritten.
            tables: see `Rotary.tables`.
            last: the rows whose output is wanted; the last layer is spared for all others.
            attend_last: attention of the last layer for the rows `last` alone; without it `attend` computes
                all, of which those are taken.
            inject: added to `inject_rows` after the first layers, one each (Qwen3-VL's deepstack).
        """
        pending: Pending = None
        for index, layer in enumerate(self.layers):
            before = self._fast[0] if len(x) in self._compiled else self.ops.before_attention
            x, q, k, v = before(layer, x, pending, tables, self.shape, self.eps)
            if last is None or index < len(self.layers) - 1:
                rows = attend(index, q, k, v)
            else:
                x = x[last]
                rows = attend_last(q, k, v) if attend_last else _chosen(attend(index, q, k, v), last)
            after = self._fast[1] if len(x) in self._compiled else self.ops.after_attention
            x, pending = after(layer, x, rows, self.eps)
            if index < len(inject):
                x = x if pending is None else x + pending
                pending = None
                x[inject_rows] += inject[index]
        x, normed = self.ops.add_norm(x, pending, self.norm, self.eps)
        return cast(torch.Tensor, normed)


def _chosen(rows: Rows, last: torch.Tensor) -> Rows:
    if isinstance(rows, BlockScaledFp8):
        return BlockScaledFp8(rows.values[last], rows.scales[:, last].contiguous())
    return rows[last]


def supports(model: Any) -> str | None:
    """Why this model needs transformers' own forward, or None where `Network` computes the same."""
    config = getattr(model.config, "text_config", model.config)
    body = model.model.language_model if hasattr(model.model, "language_model") else model.model
    if config.model_type not in TYPES:
        return f"{config.model_type} is no Qwen3"
    if getattr(config, "attention_bias", False):
        return "its attention has biases"
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return "it has layers with a sliding window"
    kind = getattr(body.rotary_emb, "rope_type", "default")
    return None if kind in STATIC_ROPE else f"its rotary positions are {kind}"


def _layer(module: Any, fp8: bool) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    return Layer(
        attention_norm=module.input_layernorm.weight,
        qkv=matrix([attention.q_proj, attention.k_proj, attention.v_proj], fp8=fp8),
        q_norm=attention.q_norm.weight,
        k_norm=attention.k_norm.weight,
        out=matrix([attention.o_proj], fp8=fp8),
        mlp_norm=module.post_attention_layernorm.weight,
        gate_up=matrix([mlp.gate_proj, mlp.up_proj], fp8=fp8),
        down=matrix([mlp.down_proj], fp8=fp8),
    )
