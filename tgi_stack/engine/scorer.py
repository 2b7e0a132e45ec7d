"""Scores at the device's speed: prompts packed without padding, the body alone, then the head.

The head meets only each prompt's last position: the rows of its labels, and the whole vocabulary in pieces
for the logarithm of its sum, in fp32. The host lays out the next pack while the device computes this one,
and fetches results when all are under way.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from tgi_stack.engine.cuda_graph import CapturedForward
from tgi_stack.engine.label_scores import Reading, reading, whole
from tgi_stack.engine.layers import attention
from tgi_stack.engine.layers.linear import BlockScaledFp8
from tgi_stack.engine.models import compat
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.sight import Prompt, Seen, Sight
from tgi_stack.engine.packing import Pack, Tokens, pack
from tgi_stack.engine.placement import current
from tgi_stack.errors import MachineError, ScoreError
from tgi_stack.types import LabelScores, ScoreRequest

PIECE = 2**24  # numbers in fp32 at once between last positions and the head: 64 MiB
# Eight tiles of 128 x 256 of a product with 1,024 columns for each of 132 processors.
GPU_TOKENS = 33_792
CPU_TOKENS = 2_048
LEAST_TOKENS = 64
TOGETHER = 512  # last positions that meet the head at once: fewer cost as much, as all of it is read for them
GROW_AFTER = 8  # calls without want of memory, until a budget that was halved is doubled
# Static shapes: compiled code is made once for each of these.
SIZES = (256, 1_024, CPU_TOKENS, 4_096, 8_192, 16_896, GPU_TOKENS)


@dataclass(frozen=True, slots=True)
class Options:
    """How prompts are packed.

    Attributes:
        budget: tokens of a pack.
        most: prompts of a pack at most; None for as many as fit.
        share: whether common beginnings are computed once.
        sizes: numbers of rows that packs are filled up to, for compiled code; none for any number.
        flash: `auto`, or `flash` for flash kernels and no other.
        replay: whether full packs go through a recorded CUDA graph, where attention is the Hopper kernel.
    """

    budget: int
    most: int | None = None
    share: bool = True
    sizes: tuple[int, ...] = ()
    flash: str = "auto"
    replay: bool = True


def options_for(network: Network, most: int | None, compiled: bool = False, flash: bool = False) -> Options:
    """The options that suit a device: on a GPU as many tokens as fill it."""
    on_gpu = network.device.type == "cuda"
    return Options(
        budget=GPU_TOKENS if on_gpu else CPU_TOKENS,
        most=most,
        sizes=SIZES if compiled else (),
        flash="flash" if flash else "auto",
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """Requests, what they are packed by, and their prompts where there are images in some."""

    requests: Sequence[ScoreRequest]
    tokens: Sequence[Tokens]
    prompts: Sequence[Prompt] | None = None

    def part(self, places: Sequence[int]) -> _Asked:
        """Some of them."""
        prompts = None if self.prompts is None else [self.prompts[place] for place in places]
        return _Asked([self.requests[p] for p in places], [self.tokens[p] for p in places], prompts)


class Scorer:
    """Answers score requests with a network; may be called from several threads.

    Args:
        sight: what sees the images of prompts; without it they have none.

    Attributes:
        options: as they are now; the budget is halved after running out of memory, and grows back.
        attention: the name of what computes attention.
        replay: full packs as a recorded graph, where they can be one.
    """

    def __init__(self, network: Network, options: Options, sight: Sight | None = None) -> None:
        self._network = network
        self._sight = sight
        self.options = options
        self._attends: Callable[..., torch.Tensor | BlockScaledFp8]
        self.attention, self._attends = attention.choose(
            network.device, network.dtype, network.head_dim, options.flash
        )
        if self.attention == "hopper" and network.takes_blocks8:
            self._attends = attention.by_hopper8
        self.replay: CapturedForward | None = None
        if self.attention == "hopper" and options.replay and not options.sizes and network.is_plain:
            self.replay = CapturedForward(network, options.budget)
        self._launching = threading.Lock()
        self._budget = options.budget
        self._calm, self._patience, self._grown = 0, GROW_AFTER, False

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
        asked = self._asked(requests)
        readings = dict(self._read(asked, range(len(requests)), self.options.most))
        failed = [index for index, one in readings.items() if isinstance(one, ScoreError)]
        if failed and len(requests) > 1 and self.attention in attention.READ_BEYOND:
            # Alone in a pass, what is no number in one prompt can't be read by another.
            readings |= dict(self._read(asked, failed, 1))
        return [readings[index] for index in range(len(requests))]

    def _asked(self, requests: Sequence[ScoreRequest]) -> _Asked:
        if self._sight is None or not any(request.images for request in requests):
            return _Asked(requests, [request.token_ids for request in requests])
        prompts = [self._sight.prompt(request.token_ids, request.images) for request in requests]
        return _Asked(requests, self._sight.codes(prompts), prompts)

    def _read(self, asked: _Asked, chosen: Sequence[int], most: int | None) -> Iterator[tuple[int, Reading]]:
        """The readings of some requests, with their places.

        Args:
            most: prompts in a pack at most.
        """
        with self._launching, current(self._network.device):
            under_way = list(self._launch(asked, chosen, most))
        for members, values in under_way:
            for member, row in zip(members, values.cpu(), strict=True):
                request = asked.requests[member]
                yield member, reading(request, tuple(row[: len(request.label_ids)].tolist()))

    def _launch(
        self, asked: _Asked, chosen: Sequence[int], most: int | None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Results that the device may still be computing; what did not fit is packed anew, smaller."""
        self._grow()
        left = list(chosen)
        while left:
            done: set[int] = set()
            options = self.options
            part = asked.part(left)
            packs = pack(part.tokens, options.budget, most=most, share=options.share)
            try:
                for places, last in _joined((one.members, self._outputs(one, part.prompts)) for one in packs):
                    yield (members := [left[place] for place in places]), self._logprobs(members, last, asked)
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
        if self._grown:
            self._patience *= 2
        self._calm, self._grown = 0, False
        self._resize(options.budget // 2)
        if self._sight is not None:
            self._sight.forget()
        release(self._network.device)

    def _grow(self) -> None:
        """Doubles a budget that was halved, as whoever else had the memory may have gone; where that proves
        wrong, it waits twice as long.
        """
        self._calm += 1
        if self.options.budget < self._budget and self._calm > self._patience:
            self._calm, self._grown = 0, True
            self._resize(min(self._budget, 2 * self.options.budget))

    def _resize(self, budget: int) -> None:
        self.options = replace(self.options, budget=budget)
        if self.replay is not None:  # no pack would fit the one there is, which keeps its memory
            self.replay = CapturedForward(self._network, budget)

    def _logprobs(self, members: Sequence[int], last: torch.Tensor, asked: _Asked) -> torch.Tensor:
        """Logarithms of the labels' probabilities, fp32, shape [members, most labels of any].

        Args:
            last: see `_outputs`.
        """
        label_ids = [asked.requests[member].label_ids for member in members]
        widest = max(map(len, label_ids))
        labels = np.array([[*ids, *[0] * (widest - len(ids))] for ids in label_ids], dtype=np.int64)
        return label_logprobs(last, self._network.head, attention.upload(labels, self._network.device))

    def _outputs(self, one: Pack, prompts: Sequence[Prompt] | None) -> torch.Tensor:
        """The normed outputs at the last positions of a pack, shape [members, hidden]."""
        last = self._recorded(one) if prompts is None else None
        return self._computed(one, prompts) if last is None else last

    def _recorded(self, one: Pack) -> torch.Tensor | None:
        """The outputs by a recorded pass, where there is one for such a pack."""
        if self.replay is None or not self.replay.fits(one):
            return None
        try:
            return self.replay(one).clone()  # which the next pack overwrites
        except RuntimeError:  # no room for a recording, or something in it that can't be recorded
            self.replay = None
            release(self._network.device)
            return None

    def _computed(self, one: Pack, prompts: Sequence[Prompt] | None) -> torch.Tensor:
        """The normed outputs at the last positions, shape [members, hidden]."""
        network, device = self._network, self._network.device
        parts = attention.segments(
            one.starts,
            one.lengths,
            (one.prefix_starts, one.prefix_lengths),
            device,
            tile=attention.tile_positions(self.attention, network.heads // network.kv_heads),
        )
        by_sdpa = self._attends is attention.by_sdpa
        x, tables, seen = self._embedded(one, prompts)
        return network.forward(
            x,
            tables,
            lambda layer, q, k, v: self._attends(q, k, v, parts),
            last=attention.upload(one.last, device),
            attend_last=partial(attention.last_by_sdpa, parts=parts, last=one.last) if by_sdpa else None,
            inject=() if seen is None else seen.layers[1:],
            inject_rows=None if seen is None else seen.rows,
        )

    def _embedded(
        self, one: Pack, prompts: Sequence[Prompt] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], Seen | None]:
        """What the first layer is given, and tables of rotary positions; with what is seen in the rows."""
        network = self._network
        put = partial(attention.upload, device=network.device)
        fill = (0, next((size for size in self.options.sizes if size >= one.tokens), one.tokens) - one.tokens)
        # What stands for a picture is no token's id; its row is overwritten.
        x = network.embedding[put(np.pad(one.token_ids.clip(0), fill))]
        if self._sight is None or prompts is None:
            return x, network.rotary.tables(put(np.pad(one.positions, fill))), None
        parts = list(one.parts)
        places = [prompts[owner].positions[:, first : first + length] for owner, first, length in parts]
        positions = np.pad(np.concatenate(places, axis=1), ((0, 0), fill))
        seen = self._sight.seen(prompts, parts)
        if seen is not None:
            x[seen.rows] = seen.layers[0]
        return x, network.rotary.tables(put(positions)), seen


def _joined(passes: Iterable[tuple[Sequence[int], torch.Tensor]]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """The members of passes with their outputs, `TOGETHER` or more at once, the rest at the end."""
    members: list[int] = []
    outputs: list[torch.Tensor] = []
    for some, last in passes:
        members += some
        outputs.append(last)
        if len(members) >= TOGETHER:
            yield members, torch.cat(outputs)
            members, outputs = [], []
    if members:
        yield members, torch.cat(outputs)


def label_logprobs(last: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logarithms over the full vocabulary, fp32, shape [prompts, labels].

    Args:
        last: the normed outputs at the last positions, shape [prompts, hidden].
        head: shape [vocabulary, hidden].
        labels: ids, shape [prompts, labels].
    """
    total = torch.full((len(last),), -torch.inf, device=last.device)
    for piece in torch.split(head, max(1, PIECE // max(len(last), _copied(last)))):
        total = torch.logaddexp(total, torch.logsumexp(_product(last, piece), dim=-1))
    members = max(1, PIECE // (labels.shape[1] * last.shape[1]))
    wanted = [
        torch.einsum("ph,plh->pl", part.float(), head[ids].float())
        for part, ids in zip(torch.split(last, members), torch.split(labels, members), strict=True)
    ]
    return torch.cat(wanted) - total[:, None]


def _copied(last: torch.Tensor) -> int:
    """Numbers of each row of the head that `_product` copies to fp32."""
    direct = last.dtype is torch.float32 or (last.device.type == "cuda" and compat.MM_OUT_DTYPE)
    return 0 if direct else last.shape[1]


def _product(last: torch.Tensor, piece: torch.Tensor) -> torch.Tensor:
    """The product in fp32, whatever the dtype of its factors."""
    if _copied(last):
        return last.float() @ piece.float().T
    if last.dtype is torch.float32:
        return last @ piece.T
    return torch.mm(last, piece.T, out_dtype=torch.float32)


def release(device: torch.device) -> None:
    """Gives memory that nobody uses back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
