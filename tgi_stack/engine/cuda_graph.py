"""Work recorded once as a CUDA graph and asked for with one call: launching it piece by piece takes the host
longer than the chip needs for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from tgi_stack.engine.kernels import hopper_launch
from tgi_stack.engine.layers import attention
from tgi_stack.engine.layers.linear import BlockScaledFp8
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.packing import Ints, Pack

# A pack is filled up to the recorded number of rows, which is a loss: a tenth at most.
FULL = 0.9
MEMBERS = 512
# torch records one graph at a time in a process.
_RECORDING = threading.Lock()


def record(run: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """A graph of what a function launches, and where that leaves its result; the function is called twice.

    Raises:
        RuntimeError: the function can't be recorded, or there is no room; all is then as it was before.
    """
    with _RECORDING:
        stream = torch.cuda.current_stream()
        pool = torch.cuda.graph_pool_handle()
        try:
            side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(stream)
            with torch.cuda.stream(side):  # kernels are compiled and libraries set up before recording
                run()
            stream.wait_stream(side)
            torch.cuda.empty_cache()  # the graph's memory is its own
            graph = torch.cuda.CUDAGraph()
            # A stream that is given: torch's own is of the GPU that this process first recorded on.
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                result = run()
        except RuntimeError:
            _forget(stream.device_index, pool)
            raise
        finally:
            torch.cuda.set_stream(stream)  # a recording that fails leaves its own behind
        return graph, result


def _forget(device: int, pool: Any) -> None:
    """Tells torch that a recording is over: after one that failed, its generator of random numbers refuses to
    be used outside of it, and its allocator gives no memory back (torch 2.11).
    """
    generator = torch.cuda.default_generators[device]
    generator.graphsafe_set_state(generator.clone_state())
    with suppress(RuntimeError):  # the allocator knows already
        torch._C._cuda_endAllocateToPool(device, pool)


def sizes_of(rows: int, tile: int) -> list[int]:
    """How many numbers `laid` gives: token ids, positions, tiles, last rows."""
    tiles = 1 + rows // tile + 2 * MEMBERS + 1
    return [rows, rows, 5 * tiles, MEMBERS]


def laid(one: Pack, rows: int, tile: int) -> Ints:
    """All that a pass reads of a pack, one behind the other, each part filled up to its size.

    Args:
        rows: which the pack is filled up to, with a segment that nobody reads.
        tile: positions in a tile of attention.
    """
    spare = rows - one.tokens
    tiles = attention.tiles_of(
        np.append(one.starts, one.tokens),
        np.append(one.lengths, spare),
        np.append(one.prefix_starts, 0),
        np.append(one.prefix_lengths, 0),
        tile,
    )
    parts = (one.token_ids, one.positions, tiles.ravel(), one.last)
    filled = [np.pad(p, (0, size - len(p))) for p, size in zip(parts, sizes_of(rows, tile), strict=True)]
    return np.concatenate(filled).astype(np.int32)


class CapturedForward:
    """The network's pass over a full pack; its layout is read from memory, so that one graph does for all.

    Attention is that of `hopper`: its programs find out on the device how many tiles there are.

    Args:
        rows: of every pack.
    """

    def __init__(self, network: Network, rows: int) -> None:
        self._network = network
        self._rows = rows
        self._tile = hopper_launch.positions(network.heads // network.kv_heads)
        self._recorded: tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor] | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether a pack has come."""
        return self._recorded is not None

    def fits(self, one: Pack) -> bool:
        """Whether a pack is full enough, and of few enough prompts."""
        return FULL * self._rows <= one.tokens <= self._rows and len(one.members) <= MEMBERS

    def __call__(self, one: Pack) -> torch.Tensor:
        """The normed outputs at the last positions, shape [members, hidden]; the next call overwrites them.

        Raises:
            RuntimeError: there is no room for a graph, or the network can't be recorded.
        """
        numbers = laid(one, self._rows, self._tile)
        if self._recorded is None:
            layout = attention.upload(numbers, self._network.device)
            self._recorded = (*record(lambda: self._pass(layout)), layout)
        graph, result, layout = self._recorded
        layout.copy_(torch.from_numpy(numbers).pin_memory(), non_blocking=True)
        graph.replay()
        return result[: len(one.members)]

    def _pass(self, layout: torch.Tensor) -> torch.Tensor:
        network = self._network
        ids, positions, tiles, last = torch.split(layout, sizes_of(self._rows, self._tile))

        def attend(
            layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
        ) -> torch.Tensor | BlockScaledFp8:
            scale = attention.LOG2_E * network.head_dim**-0.5
            return hopper_launch.attend(
                q, k, v, tiles, self._rows, scale, causal=True, fp8=network.takes_blocks8
            )

        x = network.embedding[ids]
        return network.forward(x, network.rotary.tables(positions), attend, last=last)
