"""Summaries from a Qwen-VL network: true batches, prompts padded on the left, images of any size together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import simplejpeg
import torch

from tgi_stack.engine.label_scores import ROUTE, not_finite, whole
from tgi_stack.engine.models import compat
from tgi_stack.engine.models.patches import to_patches
from tgi_stack.errors import ScoreError
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import Caption, CaptionRequest, PreparedImage

COLDEST = 1e-30  # temperature that logits in fp32 may be divided by


def caption(
    model: Any, tokenizer: Tokenizer, grid: Grid | None, requests: Sequence[CaptionRequest]
) -> list[Caption]:
    """`texts` of which none failed.

    Raises:
        ScoreError: see there.
    """
    return whole(texts(model, tokenizer, grid, requests))


@torch.inference_mode()
def texts(
    model: Any, tokenizer: Tokenizer, grid: Grid | None, requests: Sequence[CaptionRequest]
) -> list[Caption | ScoreError]:
    """One text a request, in order. All requests must agree on how to sample (see `batch_key`).

    A ScoreError, `score.not_finite`, where the logits were no numbers at some token of the text.
    """
    first = requests[0]
    ids, mask = _left_padded([request.token_ids for request in requests], _pad_id(model), model.device)
    sampling: dict[str, Any] = {"do_sample": False}
    if first.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": max(first.temperature, COLDEST),
            "top_p": 1.0,
            "top_k": 0,
        }
        if first.seed is not None:
            torch.manual_seed(first.seed)
    images = [request.image for request in requests if request.image is not None]
    watch = _Finite(ids)
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=first.max_new_tokens,
        pad_token_id=_pad_id(model),
        logits_processor=[watch],
        **sampling,
        **image_arguments(model, grid, images, ids),
    )
    ends = end_ids(model)
    rows = zip(requests, output[:, ids.shape[1] :].tolist(), watch.numbers.tolist(), strict=True)
    return [_read(tokenizer, request, row, ends, numbers) for request, row, numbers in rows]


class _Finite:
    """Looks at logits before a token is chosen: of those that are no numbers one would be the largest, too.

    Attributes:
        numbers: for how many tokens those of each row were numbers.
    """

    def __init__(self, ids: torch.Tensor) -> None:
        self.numbers = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        self._steps = 0

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The logits, of a row without numbers any others, so that a draw among them goes on."""
        finite = logits.amax(dim=-1).isfinite()
        self.numbers += finite & (self.numbers == self._steps)
        self._steps += 1
        return logits.where(finite[:, None], 0.0)


def batch_key(request: CaptionRequest) -> tuple[object, ...]:
    """Requests with equal keys may share a batch; a seeded sample depends on its batch and has one alone."""
    alone = id(request) if request.temperature > 0 and request.seed is not None else None
    return request.max_new_tokens, request.temperature, request.image is None, alone


def _read(
    tokenizer: Tokenizer, request: CaptionRequest, row: list[int], ends: frozenset[int], numbers: int
) -> Caption | ScoreError:
    length = next((index for index, token in enumerate(row) if token in ends), None)
    answer = row[: request.max_new_tokens if length is None else length]
    if numbers < len(answer) + (length is not None):
        return not_finite()
    return Caption(
        text=tokenizer.decode(answer).strip(),
        finish_reason="length" if length is None else "stop",
        route=ROUTE,
        prompt_tokens=len(request.token_ids),
        completion_tokens=len(answer),
    )


def _left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*[pad_id] * (longest - len(row)), *row] for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def image_arguments(
    model: Any, grid: Grid | None, images: Sequence[PreparedImage], ids: torch.Tensor
) -> dict[str, Any]:
    """What a Qwen-VL network takes beside token ids that hold the visual tokens of these images, in order."""
    if not images or grid is None:
        return {}
    vision = model.config.vision_config
    stacks = [pixels(image)[None].to(model.device) for image in images]
    patches = [
        to_patches(
            stack,
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            mean=grid.mean,
            std=grid.std,
        )[0]
        for stack in stacks
    ]
    sizes = [
        [1, stack.shape[1] // vision.patch_size, stack.shape[2] // vision.patch_size] for stack in stacks
    ]
    return {
        "pixel_values": torch.cat(patches).to(model.dtype),
        "image_grid_thw": torch.tensor(sizes, device=model.device),
        **compat.image_inputs(ids, model.config.image_token_id),
    }


def pixels(image: PreparedImage, *, pinned: bool = False) -> torch.Tensor:
    """The pixels of a prepared image on the host, uint8, shape [height, width, 3].

    Decoded in place and without Python's lock, which whoever feeds a GPU needs for each step.

    Args:
        pinned: where a GPU can copy them from by itself.
    """
    found = torch.empty(image.sent_height, image.sent_width, 3, dtype=torch.uint8, pin_memory=pinned)
    simplejpeg.decode_jpeg(image.jpeg, "RGB", buffer=found.numpy())
    return found


def _pad_id(model: Any) -> int:
    pad = model.generation_config.pad_token_id
    return int(pad) if pad is not None else min(end_ids(model))


def end_ids(model: Any) -> frozenset[int]:
    """The tokens that end an answer."""
    end = model.generation_config.eos_token_id
    return frozenset(end if isinstance(end, list) else [end])
