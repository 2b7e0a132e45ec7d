"""Scores at the device's speed: prompts packed without padding, the body alone, then the head.

The head meets only each prompt's last position: the rows of its labels, and the whole vocabulary in pieces
for the logarithm of its sum, in fp32. The host lays out the next pack while the device computes this one,
and fetches results when all are under way.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from tgi_stack.engine import attention, compat
from tgi_stack.engine.network import Network
from tgi_stack.engine.packing import Ints, Pack, pack
from tgi_stack.engine.placement import current
from tgi_stack.engine.reading import Reading, reading, whole
from tgi_stack.errors import MachineError
from tgi_stack.types import LabelScores, ScoreRequest

PIECE = 16_384  # rows of the head at once
# Four rows of 128 x 256 tiles of a product with 1,024 columns for each of 132 processors.
GPU_TOKENS = 16_896
CPU_TOKENS = 2_048
LEAST_TOKENS = 64
# Static shapes: compiled code is made once for each of these.
SIZES = (256, 1_024, CPU_TOKENS, 4_096, 8_192, GPU_TOKENS)


@dataclass(frozen=True, slots=True)
class Options:
    """How prompts are packed.

    Attributes:
        budget: tokens of a pack.
        most: prompts of a pack at most; None for as many as fit.
        share: whether common beginnings are computed once.
        sizes: numbers of rows that packs are filled up to, for compiled code; none for any number.
        flash: `auto`, or `flash` for flash kernels and no other.
    """

    budget: int
    most: int | None = None
    share: bool = True
    sizes: tuple[int, ...] = ()
    flash: str = "auto"


def options_for(network: Network, most: int | None, compiled: bool = False, flash: bool = False) -> Options:
    """The options that suit a device: on a GPU as many tokens as fill it."""
    on_gpu = network.device.type == "cuda"
    return Options(
        budget=GPU_TOKENS if on_gpu else CPU_TOKENS,
        most=most,
        sizes=SIZES if compiled else (),
        flash="flash" if flash else "auto",
    )


class Scorer:
    """Answers score requests with a network; may be called from several threads.

    Attributes:
        options: as they are now; the budget is halved after running out of memory.
        attention: the name of what computes attention.
    """

    def __init__(self, network: Network, options: Options) -> None:
        self._network = network
        self.options = options
        self.attention, self._attention = attention.choose(
            network.device, network.dtype, network.head_dim, options.flash
        )
        self._launching = threading.Lock()

    def score(self, requests: Sequence[ScoreRequest]) -> list[LabelScores]:
        """`readings` of which none failed.

        Raises:
            ScoreError: see `reading.reading`.
            MachineError: see `readings`.
        """
        return whole(self.readings(requests))

    @torch.inference_mode()
    def readings(self, requests: Sequence[ScoreRequest]) -> list[Reading]:
        """One reading a request, in order; see `score.readings`.

        Raises:
            MachineError: the memory does not suffice for one prompt alone.
        """
        prompts = [np.array(request.token_ids, dtype=np.int32) for request in requests]
        with self._launching, current(self._network.device):
            under_way = list(self._launch(requests, prompts))
        readings: dict[int, Reading] = {}
        for members, values in under_way:
            for member, row in zip(members, values.cpu(), strict=True):
                request = requests[member]
                readings[member] = reading(request, tuple(row[: len(request.label_ids)].tolist()))
        return [readings[index] for index in range(len(requests))]

    def _launch(
        self, requests: Sequence[ScoreRequest], prompts: Sequence[Ints]
    ) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """Results that the device may still be computing; what did not fit is packed anew, smaller."""
        left = list(range(len(prompts)))
        while left:
            done: set[int] = set()
            options = self.options
            try:
                chosen = [prompts[index] for index in left]
                for one in pack(chosen, options.budget, most=options.most, share=options.share):
                    members = tuple(left[place] for place in one.members)
                    yield members, self._forward(one, [requests[index].label_ids for index in members])
                    done.update(members)
            except torch.OutOfMemoryError as error:
                self._shrink(options, error)
            left = [index for index in left if index not in done]

    def _shrink(self, options: Options, error: torch.OutOfMemoryError) -> None:
        if options.budget <= LEAST_TOKENS:
            raise MachineError(
                f"{self._network.device} has too little memory for {options.budget} tokens at once; "
                "use a smaller model, --quantization 4bit or shorter prompts"
            ) from error
        self.options = replace(options, budget=options.budget // 2)
        release(self._network.device)

    def _forward(self, one: Pack, label_ids: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Logarithms of the labels' probabilities, fp32, shape [members, most labels of any]."""
        network, device = self._network, self._network.device
        rows = next((size for size in self.options.sizes if size >= one.tokens), one.tokens)
        fill = (0, rows - one.tokens)
        put = partial(attention.upload, device=device)
        parts = attention.segments(
            one.starts,
            one.lengths,
            (one.prefix_starts, one.prefix_lengths),
            device,
            group=network.heads // network.kv_heads if self.attention == "triton" else None,
        )
        widest = max(map(len, label_ids))
        labels = np.array([[*ids, *[0] * (widest - len(ids))] for ids in label_ids], dtype=np.int64)
        last = network.forward(
            network.embedding[put(np.pad(one.token_ids, fill))],
            network.rotary.tables(put(np.pad(one.positions, fill))),
            lambda layer, q, k, v: self._attention(q, k, v, parts),
            last=put(one.last),
        )
        return label_logprobs(last, network.head, put(labels))


def label_logprobs(last: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logarithms over the full vocabulary, fp32, shape [prompts, labels].

    Args:
        last: the normed outputs at the last positions, shape [prompts, hidden].
        head: shape [vocabulary, hidden].
        labels: ids, shape [prompts, labels].
    """
    total = torch.full((len(last),), -torch.inf, device=last.device)
    for piece in torch.split(head, PIECE):
        total = torch.logaddexp(total, torch.logsumexp(_product(last, piece), dim=-1))
    wanted = torch.einsum("ph,plh->pl", last.float(), head[labels].float())
    return wanted - total[:, None]


def _product(last: torch.Tensor, piece: torch.Tensor) -> torch.Tensor:
    """The product in fp32, whatever the dtype of its factors."""
    if last.dtype is torch.float32:
        return last @ piece.T
    if last.device.type == "cuda" and compat.MM_OUT_DTYPE:
        return torch.mm(last, piece.T, out_dtype=torch.float32)
    return last.float() @ piece.float().T


def release(device: torch.device) -> None:
    """Gives memory that nobody uses back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
