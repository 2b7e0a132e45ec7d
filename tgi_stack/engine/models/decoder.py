"""Prefills prompts into slots and decodes one token in each slot: the steps of the loop in `generator`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from tgi_stack.engine.cuda_graph import record
from tgi_stack.engine.kernels import triton_launch
from tgi_stack.engine.kv_cache import SlotCache
from tgi_stack.engine.layers import attention
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.sight import Prompt, Sight

LOG = logging.getLogger(__name__)


class Decoder:
    """A network with slots.

    On a GPU with Triton a step computes all slots and is captured in a CUDA graph, so that the host asks for
    it with one call, or launched anew each time where it can't be; elsewhere it computes the slots in use.

    Args:
        sight: for prompts with images.
        sizes: numbers of rows that prompts are filled up to, for compiled code.
        uncaptured: why a step must not be captured; empty where it may.
    """

    def __init__(
        self,
        network: Network,
        sight: Sight | None,
        slots: int,
        rows: int,
        sizes: tuple[int, ...] = (),
        flash: str = "auto",
        uncaptured: str = "",
    ) -> None:
        self._network = network
        self._sight = sight
        self._sizes = sizes
        self._uncaptured = uncaptured
        self.cache = SlotCache(network, slots, rows)
        device = network.device
        self.attention, self._attention = attention.choose(device, network.dtype, network.head_dim, flash)
        self._tokens = torch.zeros(slots, dtype=torch.long, device=device)
        self._positions = torch.zeros(slots, dtype=torch.long, device=device)
        self._lengths = torch.zeros(slots, dtype=torch.int32, device=device)
        self._first = torch.arange(slots, device=device) * rows
        self._advance_all: Callable[[], torch.Tensor] | None = None
        self.whole = device.type == "cuda" and triton_launch.AVAILABLE and network.dtype in attention.HALF
        if self.whole and network.is_compiled:
            network.compile([slots])

    def fill(self, slots: Sequence[int], prompts: Sequence[Prompt]) -> torch.Tensor:
        """Lays prompts into slots: the logits of the first token of each, shape [prompts, vocabulary].

        `take` has to be given the tokens that are chosen, as after `step`.
        """
        network, device = self._network, self._network.device
        lengths = np.array([len(prompt.token_ids) for prompt in prompts], dtype=np.int32)
        ends = np.cumsum(lengths).astype(np.int32)
        ids = np.concatenate([prompt.token_ids for prompt in prompts])
        within = np.arange(len(ids)) - np.repeat(ends - lengths, lengths)
        places = attention.upload(np.repeat(slots, lengths) * self.cache.rows + within, device)
        tile = attention.tile_positions(self.attention, network.heads // network.kv_heads)
        parts = attention.segments(ends - lengths, lengths, None, device, tile=tile)
        fill = (0, next((size for size in self._sizes if size >= len(ids)), len(ids)) - len(ids))
        positions = np.pad(np.concatenate([prompt.positions for prompt in prompts], axis=1), ((0, 0), fill))
        x = network.embedding[attention.upload(np.pad(ids, fill), device)]
        seen = None
        if self._sight is not None:
            seen = self._sight.seen(
                prompts, [(place, 0, length) for place, length in enumerate(lengths.tolist())]
            )
        if seen is not None:
            x[seen.rows] = seen.layers[0]

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.cache.write(layer, places, k[: len(ids)], v[: len(ids)])
            return self._attention(q, k, v, parts)

        tables = network.rotary.tables(attention.upload(positions, device))
        last = attention.upload(ends - 1, device)
        out = network.forward(
            x,
            tables,
            attend,
            last=last,
            inject=() if seen is None else seen.layers[1:],
            inject_rows=None if seen is None else seen.rows,
        )
        where = attention.upload(np.array(slots), device)
        self._lengths[where] = attention.upload(lengths, device)
        following = np.array([prompt.next_position for prompt in prompts])
        self._positions[where] = attention.upload(following, device)
        return out @ network.head.T

    def step(self, slots: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
        """One token further: logits, shape [all slots, vocabulary] where `whole`, else [slots, vocabulary];
        the next step may overwrite them.

        Args:
            slots: those in use.
            lengths: rows that each of them has; where `whole` nobody reads them.
        """
        if self.whole:
            self._advance_all = self._advance_all or self._quickest()
            return self._advance_all()
        where = torch.tensor(slots, device=self._network.device)
        host = [(slot, length + 1) for slot, length in zip(slots, lengths, strict=True)]
        return self._advance(where, host)

    def take(self, tokens: torch.Tensor, slots: Sequence[int] | None = None) -> None:
        """Takes the latest token of each of some slots; of all where none are named.

        A negative one is none: the slot's text is over, whatever follows in it.
        """
        if slots is None:
            self._tokens.copy_(tokens.clamp(min=0))
        else:
            where = attention.upload(np.array(slots), self._network.device)
            self._tokens[where] = tokens.clamp(min=0)

    def _advance(self, where: torch.Tensor | None, host: Sequence[tuple[int, int]] | None) -> torch.Tensor:
        """Logits after the slots' latest tokens, which join the cache; all slots where `where` is None."""
        every = slice(None) if where is None else where
        lengths, first = self._lengths[every], self._first[every]
        places, seen = first + lengths, lengths + 1

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            self.cache.write(layer, places, k, v)
            return self.cache.attend(layer, q, seen, host)

        network = self._network
        tables = network.rotary.tables(self._positions[every])
        out = network.forward(network.embedding[self._tokens[every]], tables, attend)
        self._positions[every] += 1
        # A slot that nobody reads any more stays on its last row.
        self._lengths[every] = seen.clamp(max=self.cache.rows - 1)
        return out @ network.head.T

    def _quickest(self) -> Callable[[], torch.Tensor]:
        """A step of all slots: as one CUDA graph, or plainly where something in it can't be captured."""
        reason = self._uncaptured
        if not reason:
            try:
                return self.capture()
            except torch.OutOfMemoryError:
                raise  # fewer slots may do
            except RuntimeError as error:
                reason = str(error).strip().partition("\n")[0]
        LOG.info(f"torch: summaries are written without a CUDA graph ({reason})")
        return partial(self._advance, None, None)

    def capture(self) -> Callable[[], torch.Tensor]:
        """A step as a graph, which gives the logits; the slots' state is as before.

        Raises:
            RuntimeError: the step waits for the device, or does what else no graph can hold.
        """
        state = (self._tokens, self._positions, self._lengths)
        kept = [tensor.clone() for tensor in state]
        try:
            graph, logits = record(lambda: self._advance(None, None))
        finally:
            for tensor, value in zip(state, kept, strict=True):
                tensor.copy_(value)

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return replay
