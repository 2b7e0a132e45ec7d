"""The vision tower of a Qwen3-VL over many images at once, of any sizes, without padding.

The modules are the loaded model's; what is computed here is what stands between them: positions, which depend
on an image's grid alone and are remembered by it, and attention within each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch

from tgi_stack.engine.layers import attention
from tgi_stack.engine.layers.linear import Pending
from tgi_stack.engine.layers.ops import Ops
from tgi_stack.engine.models import compat
from tgi_stack.engine.models.patches import to_patches
from tgi_stack.images.grid import Grid

REMEMBERED_GRIDS = 64
THETA = 10_000.0
Size = tuple[int, int]  # rows and columns of patches
Positions = tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]


class Tower:
    """Pictures in, visual tokens out.

    Args:
        model: a loaded Qwen3-VL.
        grid: how its processor normalises pixels.
        ops: how queries and keys are turned.

    Attributes:
        device: where it computes.
    """

    def __init__(self, model: Any, grid: Grid, flash: str = "auto", ops: Ops | None = None) -> None:
        self._visual = model.model.visual
        self._config = self._visual.config
        self._grid = grid
        self._ops = ops or Ops()
        parameter = self._visual.pos_embed.weight
        self.device: torch.device = parameter.device
        self._dtype: torch.dtype = parameter.dtype
        self._heads = int(self._config.num_heads)
        self._size = int(self._config.hidden_size) // self._heads
        self.attention, self._attention = attention.choose(self.device, self._dtype, self._size, flash)
        self._positions = lru_cache(REMEMBERED_GRIDS)(self._positions_of)

    @property
    def merged(self) -> int:
        """Patches of a visual token."""
        return int(self._config.spatial_merge_size) ** 2

    def __call__(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Visual tokens of all images behind each other, [tokens, hidden]: the embeddings, then one for each
        of the first layers of the language model, which are added to what those put out.

        Args:
            images: uint8, shape [height, width, 3].
        """
        x = self._embedded(self._to_patches(images).to(self._dtype))
        side = int(self._config.patch_size)
        sizes = [(image.shape[0] // side, image.shape[1] // side) for image in images]
        learned, tables = zip(*(self._positions(size) for size in sizes), strict=True)
        x = x + torch.cat(learned)
        cos, sin = (torch.cat(parts) for parts in zip(*tables, strict=True))
        lengths = np.array([rows * columns for rows, columns in sizes], dtype=np.int32)
        starts = (np.cumsum(lengths) - lengths).astype(np.int32)
        tile = attention.tile_positions(self.attention, 1)
        parts = attention.segments(starts, lengths, None, self.device, tile=tile, causal=False)
        deep = []
        pending: Pending = None
        for index, block in enumerate(self._visual.blocks):
            x, normed = self._ops.add_layer_norm(x, pending, block.norm1)
            pending = self._attend(block.attn, normed, (cos, sin), parts)
            x, normed = self._ops.add_layer_norm(x, pending, block.norm2)
            pending = self._widened(block.mlp, normed)
            if index in self._config.deepstack_visual_indexes:
                x, pending = x + pending, None
                place = self._config.deepstack_visual_indexes.index(index)
                deep.append(self._visual.deepstack_merger_list[place](x))
        return [self._visual.merger(x if pending is None else x + pending), *deep]

    def _embedded(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches as vectors. A convolution whose windows do not overlap is one product; as a convolution it
        takes a GPU as long as a block does.
        """
        proj = self._visual.patch_embed.proj
        return torch.nn.functional.linear(patches, proj.weight.flatten(1), proj.bias)

    def _widened(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        """The perceptron of a block. On CUDA its GELU, the tanh form, is part of the first product."""
        first = module.linear_fc1
        plain = type(first) is torch.nn.Linear  # bitsandbytes' are subclasses
        if not (x.is_cuda and plain and compat.GELU_PRODUCT):
            return cast(torch.Tensor, module(x))
        x = torch._addmm_activation(first.bias, x, first.weight.T, use_gelu=True)
        return cast(torch.Tensor, module.linear_fc2(x))

    def _attend(
        self,
        module: Any,
        x: torch.Tensor,
        tables: tuple[torch.Tensor, torch.Tensor],
        parts: attention.Segments,
    ) -> torch.Tensor:
        q, k, v = self._ops.turned(module.qkv(x), tables, (self._heads, self._heads, self._size))
        rows: torch.Tensor = module.proj(self._attention(q, k, v, parts))
        return rows

    def _to_patches(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Patches of all images in their order; images of one size are cut together."""
        cut: dict[int, torch.Tensor] = {}
        for shape in dict.fromkeys(image.shape for image in images):
            places = [place for place, image in enumerate(images) if image.shape == shape]
            # Stacked there: here torch would take all cores for it, which prepare pictures.
            stack = torch.stack([images[place].to(self.device, non_blocking=True) for place in places])
            patches = to_patches(
                stack,
                patch_size=self._config.patch_size,
                merge_size=self._config.spatial_merge_size,
                temporal_patch_size=self._config.temporal_patch_size,
                mean=self._grid.mean,
                std=self._grid.std,
            )
            cut.update(zip(places, patches, strict=True))
        return torch.cat([cut[place] for place in range(len(images))])

    def _positions_of(self, size: Size) -> Positions:
        """The learned position of each patch, and the tables of its rotary one, by merge blocks."""
        rows, columns = (_blockwise(axis, size, int(self._config.spatial_merge_size)) for axis in (0, 1))
        weight = self._visual.pos_embed.weight
        side = round(len(weight) ** 0.5)
        learned = torch.zeros(len(rows), weight.shape[1], device=self.device, dtype=self._dtype)
        down, right = (_between(n, side) for n in size)
        for y, y_share in ((down[0], 1 - down[2]), (down[1], down[2])):
            for x, x_share in ((right[0], 1 - right[2]), (right[1], right[2])):
                share = (y_share[rows] * x_share[columns]).to(self.device, self._dtype)
                learned += weight[(y[rows] * side + x[columns]).to(self.device)] * share[:, None]
        half = self._size // 2
        frequencies = 1.0 / THETA ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
        angles = torch.cat((rows[:, None] * frequencies, columns[:, None] * frequencies), dim=1)
        return learned, (angles.cos().to(self.device), angles.sin().to(self.device))


def _blockwise(axis: int, size: Size, merge: int) -> torch.Tensor:
    """The row (axis 0) or column (axis 1) of each patch, merge block by merge block."""
    index = torch.arange(size[axis])
    plane = index[:, None].expand(size) if axis == 0 else index[None, :].expand(size)
    return plane.reshape(size[0] // merge, merge, size[1] // merge, merge).transpose(1, 2).reshape(-1)


def _between(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where `count` even steps fall among `side` learned ones: the one below, the one above, its share."""
    places = torch.linspace(0, side - 1, count)
    below = places.long()
    return below, (below + 1).clamp(max=side - 1), places - below
