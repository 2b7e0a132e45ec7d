"""A model's image geometry: the sizes at which nobody resizes a second time.

The size is the one that the model's own image processor would choose (Qwen-VL's "smart resize": sides are
multiples of patch x merge, the area between the processor's min and max pixels), capped by `max_side_px`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from tgi_stack.errors import ImageError
from tgi_stack.images import processor

MAX_ASPECT = 200  # what Qwen's own processor refuses beyond


@dataclass(frozen=True, slots=True)
class Grid:
    """A model's image geometry: `factor` is patch x merge in pixels; `min_pixels`, `max_pixels` are areas.

    `mean` and `std` are what its processor normalises with, for pixel values from 0 to 1.
    """

    factor: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @classmethod
    def from_checkpoint(cls, folder: Path) -> Grid:
        """As a checkpoint's image processor has it; see `processor.read`."""
        found = processor.read(folder)
        return cls(
            factor=found["patch_size"] * found["merge_size"],
            min_pixels=found["min_pixels"],
            max_pixels=found["max_pixels"],
            mean=found["image_mean"],
            std=found["image_std"],
        )

    def within(self, least: int, most: int) -> Grid:
        """The grid of images of so many visual tokens, as far as the model's own processor allows it."""
        area = self.factor**2
        low, high = max(self.min_pixels, least * area), min(self.max_pixels, most * area)
        return replace(self, min_pixels=min(low, high), max_pixels=high)

    def tokens(self, width: int, height: int) -> int:
        """Visual tokens of an image already on the grid."""
        return (width // self.factor) * (height // self.factor)


def fit(width: int, height: int, grid: Grid, max_side_px: int | None = None) -> tuple[int, int]:
    """The (width, height) an image is sent with.

    The longer side is first brought to at most `max_side_px` (rounded down to the grid, never under one
    block), then the area into [min_pixels, max_pixels]. Where both can't hold, the floor wins and the sides
    may exceed the cap. The result is a fixed point: fitting it again changes nothing.

    Raises:
        ImageError: `image.aspect` beyond 200:1.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("image.aspect", f"{width} x {height} is more than {MAX_ASPECT}:1; crop it")
    w, h = float(width), float(height)
    if max_side_px is not None:
        cap = max(grid.factor, max_side_px // grid.factor * grid.factor)
        scale = min(1.0, cap / max(w, h))
        w, h = w * scale, h * scale
    sent = _smart_resize(w, h, grid)
    # At extreme aspects the processor's rule, asked again, gives another size: go on until it does not.
    while (again := _smart_resize(*sent, grid)) != sent and again[0] * again[1] < sent[0] * sent[1]:
        sent = again
    if max(sent) > MAX_ASPECT * min(sent):
        raise ImageError("image.aspect", f"{width} x {height} would be sent over {MAX_ASPECT}:1; crop it")
    return sent


def _smart_resize(w: float, h: float, grid: Grid) -> tuple[int, int]:
    """One application of Qwen-VL's rule."""
    columns, rows = round(w / grid.factor), round(h / grid.factor)
    area = columns * rows * grid.factor**2
    if area > grid.max_pixels:
        shrink = math.sqrt(w * h / grid.max_pixels)
        columns = max(1, math.floor(w / shrink / grid.factor))
        rows = max(1, math.floor(h / shrink / grid.factor))
    elif area < grid.min_pixels:
        grow = math.sqrt(grid.min_pixels / (w * h))
        columns, rows = math.ceil(w * grow / grid.factor), math.ceil(h * grow / grid.factor)
    return columns * grid.factor, rows * grid.factor
