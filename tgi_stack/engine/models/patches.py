"""From pixels to the flattened patches a Qwen-VL vision tower reads, as a tensor program.

The order of axes is that of transformers' Qwen2VLImageProcessor: merge blocks row by row, the patches of a
block inside it, and in each patch channel, time, row, column. A still image fills both frames of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch


def to_patches(
    images: torch.Tensor,
    *,
    patch_size: int = 16,
    merge_size: int = 2,
    temporal_patch_size: int = 2,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
) -> torch.Tensor:
    """Patches of a stack of images of one size.

    Args:
        images: uint8, shape [n, height, width, 3]; both sides multiples of patch_size * merge_size.

    Returns:
        float32, shape [n, (height / patch) * (width / patch), 3 * temporal * patch * patch].
    """
    n, height, width, _ = images.shape
    grid = (height // (patch_size * merge_size), width // (patch_size * merge_size))
    shift, scale = (_by_channel(tuple(values), images.device) for values in (mean, std))
    pixels = (images.float() - shift) / scale
    blocks = pixels.reshape(n, grid[0], merge_size, patch_size, grid[1], merge_size, patch_size, 3)
    # -> image, block row, block column, row in block, column in block, channel, row, column
    blocks = blocks.permute(0, 1, 4, 2, 5, 7, 3, 6)
    frames = blocks.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, temporal_patch_size, -1, -1)
    return frames.reshape(n, grid[0] * grid[1] * merge_size**2, -1)


@cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """A number for each channel, of pixels from 0 to 255. Kept: to copy it anew waits for a GPU."""
    with torch.inference_mode(mode=False):
        return torch.tensor(values, device=device) * 255.0
