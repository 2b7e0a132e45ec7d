"""Rotary positions: angles from the model's own frequencies, in fp32; Qwen3-VL's interleaved axes too."""

from __future__ import annotations

from typing import Any

import torch


class Rotary:
    """Tables of cosines and sines.

    In Qwen3-VL a position has three coordinates (time, row, column) and each frequency follows one of them,
    in turn; a text's token has the same number in all three.
    """

    def __init__(self, module: Any, sections: list[int] | None) -> None:
        self._frequencies = module.inv_freq.float()
        self._scaling = float(module.attention_scaling)
        axes = torch.zeros(len(self._frequencies), dtype=torch.long)
        for axis in (1, 2) if sections else ():
            axes[axis : sections[axis] * 3 : 3] = axis  # type: ignore[index]  # empty without sections
        self._axes = axes.to(self._frequencies.device)

    def tables(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, fp32, shape [tokens, head_dim / 2].

        Args:
            positions: shape [tokens], or [3, tokens] where images are among them.
        """
        # Kernels read row by row, so what comes of the transposed places must not keep their layout.
        places = positions[:, None] if positions.ndim == 1 else positions[self._axes].T.contiguous()
        angles = places.float() * self._frequencies
        return angles.cos() * self._scaling, angles.sin() * self._scaling
