"""Qwen3 and Qwen3-VL as trees of weights under the names that checkpoints give them.

The stack of layers is computed by `network`, attention by its callers; modules with a `forward` are those of
the vision tower that stand between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tgi_stack.engine.models import weights
from tgi_stack.engine.models.config import QwenConfig, TextConfig, VisionConfig, VisionLanguageConfig
from tgi_stack.engine.models.rope import Rope
from tgi_stack.engine.placement import Placement

EPS = 1e-6  # of the tower's norms, which no configuration names


@dataclass(slots=True)
class GenerationConfig:
    """The tokens that end a text, and the one that fills it up."""

    eos_token_id: list[int]
    pad_token_id: int | None


class Frequencies:
    """Rotary positions on a device; see `Rope.frequencies`."""

    def __init__(self, rope: Rope, device: torch.device) -> None:
        frequencies, self.attention_scaling = rope.frequencies()
        self.inv_freq = frequencies.to(device)
        self.rope_type = rope.kind
        self.mrope_section = None if rope.sections is None else list(rope.sections)


def linear(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    """A linear map without numbers: to draw some for a tree that only has names takes a second."""
    made = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(made)
    made.in_features, made.out_features = inputs, outputs
    made.weight = nn.Parameter(torch.empty(outputs, inputs))
    made.register_parameter("bias", nn.Parameter(torch.empty(outputs)) if bias else None)
    return made


class Affine(nn.Module):
    """A weight of any shape, with a bias for each of its rows."""

    def __init__(self, rows: int, *others: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, *others))
        self.bias = nn.Parameter(torch.empty(rows))


class Table(nn.Module):
    """Rows to look up."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class Norm(nn.Module):
    """The weight of an RMS norm."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))


class Attention(nn.Module):
    """Projections of a layer's attention, and the norms of its heads."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = linear(config.hidden_size, queries)
        self.k_proj = linear(config.hidden_size, keys)
        self.v_proj = linear(config.hidden_size, keys)
        self.o_proj = linear(queries, config.hidden_size)
        self.q_norm = Norm(config.head_dim)
        self.k_norm = Norm(config.head_dim)


class Mlp(nn.Module):
    """The gated perceptron of a layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = linear(config.hidden_size, config.intermediate_size)
        self.up_proj = linear(config.hidden_size, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, config.hidden_size)


class Layer(nn.Module):
    """One layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size)
        self.mlp = Mlp(config)


class Body(nn.Module):
    """The embedding, the layers and the last norm."""

    rotary_emb: Frequencies

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Table(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size)


class PatchEmbed(nn.Module):
    """Patches to vectors, by `vision.Tower`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        window = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = Affine(config.hidden_size, config.in_channels, *window)


class TowerAttention(nn.Module):
    """Projections of a block's attention."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.qkv = linear(config.hidden_size, 3 * config.hidden_size, bias=True)
        self.proj = linear(config.hidden_size, config.hidden_size, bias=True)


class TowerMlp(nn.Module):
    """The perceptron of a block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.linear_fc1 = linear(config.hidden_size, config.intermediate_size, bias=True)
        self.linear_fc2 = linear(config.intermediate_size, config.hidden_size, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape [patches, hidden]."""
        rows: torch.Tensor = self.linear_fc2(torch.nn.functional.gelu(self.linear_fc1(x), approximate="tanh"))
        return rows


class Block(nn.Module):
    """One block of the tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=EPS)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=EPS)
        self.attn = TowerAttention(config)
        self.mlp = TowerMlp(config)


class Merger(nn.Module):
    """Neighbouring patches to one visual token; `late` norms what was merged, else each patch."""

    def __init__(self, config: VisionConfig, *, late: bool) -> None:
        super().__init__()
        self._merged = config.hidden_size * config.spatial_merge_size**2
        self._late = late
        self.norm = nn.LayerNorm(self._merged if late else config.hidden_size, eps=EPS)
        self.linear_fc1 = linear(self._merged, self._merged, bias=True)
        self.linear_fc2 = linear(self._merged, config.out_hidden_size, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape [patches, hidden] -> [tokens, out_hidden]."""
        x = self.norm(x.view(-1, self._merged)) if self._late else self.norm(x).view(-1, self._merged)
        rows: torch.Tensor = self.linear_fc2(torch.nn.functional.gelu(self.linear_fc1(x)))
        return rows


class Visual(nn.Module):
    """The weights of the vision tower; see `vision.Tower`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = Table(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.merger = Merger(config, late=False)
        deep = config.deepstack_visual_indexes
        self.deepstack_merger_list = nn.ModuleList(Merger(config, late=True) for _ in deep)


class SeeingBody(nn.Module):
    """A tower and the layers that read what it sees."""

    def __init__(self, config: VisionLanguageConfig) -> None:
        super().__init__()
        self.visual = Visual(config.vision_config)
        self.language_model = Body(config.text_config)


class Qwen3(nn.Module):
    """A network's weights."""

    generation_config: GenerationConfig

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.config = config
        text = self._text = config if isinstance(config, TextConfig) else config.text_config
        self.model = Body(config) if isinstance(config, TextConfig) else SeeingBody(config)
        self.lm_head = linear(text.hidden_size, text.vocab_size)
        if text.tie_word_embeddings:
            self.lm_head.weight = self.body.embed_tokens.weight

    @property
    def body(self) -> Body:
        """The stack of layers."""
        return self.model if isinstance(self.model, Body) else self.model.language_model

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    @property
    def tied(self) -> str | None:
        """The tensor that the head is another name of."""
        if not self._text.tie_word_embeddings:
            return None
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return names[id(self.body.embed_tokens.weight)]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that a checkpoint has to hold."""
        return {name: tuple(parameter.shape) for name, parameter in self.named_parameters()}


def skeleton(config: QwenConfig) -> Qwen3:
    """The tree without numbers: names and shapes."""
    with torch.device("meta"):
        return Qwen3(config)


def load(folder: Path, config: QwenConfig, generation: GenerationConfig, placement: Placement) -> Qwen3:
    """The network with a checkpoint's weights, for inference.

    Raises:
        CheckpointError: see `weights.proven`.
    """
    model = skeleton(config)
    tied = model.tied
    stored = weights.proven(folder, model.shapes(), tied=tied)
    if tied is not None:
        weights.refuse_another_head(folder, tied)
    return filled(model, weights.tensors(stored, placement.device, placement.dtype), generation, placement)


def filled(
    model: Qwen3,
    tensors: Iterable[tuple[str, torch.Tensor]],
    generation: GenerationConfig,
    placement: Placement,
) -> Qwen3:
    """A skeleton with its tensors, which were proven, for inference."""
    tied = model.tied
    state = dict(tensors)
    if tied is not None:
        state[weights.HEAD] = state[tied]
    model.load_state_dict(state, strict=True, assign=True)
    if tied is not None:
        model.lm_head.weight = model.body.embed_tokens.weight
    model.body.rotary_emb = Frequencies(model._text.rope, placement.device)
    model.generation_config = generation
    return model.requires_grad_(False).eval()
