"""Keys and values of a fixed number of slots, each a prompt and what was written behind it.

A slot has the same number of rows as any other, so that a step of decoding has one shape whatever is in the
slots, and can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tgi_stack.engine.kernels import triton_launch
from tgi_stack.engine.layers import attention
from tgi_stack.engine.models.network import Network

LEAST_ROWS = 16  # of a tensor core's tile, of which a group of heads fills a part
KEYS = 64  # at once


class SlotCache:
    """Keys and values, shape [layers, slots, rows, kv_heads * head_dim].

    Args:
        rows: tokens of a slot at most.
    """

    def __init__(self, network: Network, slots: int, rows: int) -> None:
        self.slots, self.rows = slots, rows
        self._network = network
        width = network.kv_heads * network.head_dim
        shape = (len(network.layers), slots, rows, width)
        self._keys, self._values = (
            torch.zeros(shape, dtype=network.dtype, device=network.device) for _ in range(2)
        )

    @staticmethod
    def row_bytes(network: Network) -> int:
        """Bytes of one row of one slot, over all layers."""
        size = torch.finfo(network.dtype).bits // 8
        return 2 * len(network.layers) * network.kv_heads * network.head_dim * size

    def write(self, layer: int, places: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Keeps keys and values, shape [tokens, kv_heads, head_dim], at `places` = slot * rows + row."""
        if k.is_cuda and triton_launch.AVAILABLE:
            triton_launch.keep_rows(k, v, self._keys[layer], self._values[layer], places)
            return
        for cache, new in ((self._keys, k), (self._values, v)):
            cache[layer].view(-1, cache.shape[-1]).index_copy_(0, places, new.flatten(1))

    def clear(self, slot: int) -> None:
        """Forgets a slot in which no numbers stand: what weighs nothing has to be finite all the same."""
        for cache in (self._keys, self._values):
            cache[:, slot] = 0

    def attend(
        self, layer: int, q: torch.Tensor, lengths: torch.Tensor, host: Sequence[tuple[int, int]] | None
    ) -> torch.Tensor:
        """One query of each slot to its rows; q [slots, heads, head_dim] -> [slots, heads * head_dim].

        Args:
            lengths: rows in use of each slot, int32, on the device.
            host: (slot, length) of each query, where the host knows them and only those are computed.
        """
        if host is None:
            return self._by_triton(layer, q, lengths)
        rows = []
        heads, size = self._network.kv_heads, self._network.head_dim
        for query, (slot, length) in zip(q, host, strict=True):
            keys, values = (
                cache[layer, slot, :length].view(1, length, heads, size).transpose(1, 2)
                for cache in (self._keys, self._values)
            )
            found = torch.nn.functional.scaled_dot_product_attention(
                query[None, :, None], keys, values, enable_gqa=len(query) != heads
            )
            rows.append(found.flatten())
        return torch.stack(rows)

    def _by_triton(self, layer: int, q: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        slots, heads, size = q.shape
        keys, values = self._keys[layer], self._values[layer]
        out = torch.empty(slots, heads * size, dtype=q.dtype, device=q.device)
        group = heads // self._network.kv_heads
        triton_launch.launch(
            "decode", (slots, self._network.kv_heads),
            q, keys, values, out, lengths, q.stride(0), keys.stride(1), keys.stride(0),
            attention.LOG2_E * size**-0.5, GROUP=group, HEADS=heads, SIZE=size,
            BLOCK_M=max(LEAST_ROWS, 1 << (group - 1).bit_length()), BLOCK_N=KEYS, num_warps=4, num_stages=3,
        )  # fmt: skip
        return out
