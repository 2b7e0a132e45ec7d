"""Label logarithms after prompts in which images stand, from a Qwen-VL network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tgi_stack.engine.caption import image_arguments
from tgi_stack.engine.label_scores import Reading, reading
from tgi_stack.engine.layers import attention
from tgi_stack.engine.models.decoder import Prompt, prompt_of
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.vision import Tower
from tgi_stack.engine.placement import current
from tgi_stack.engine.score import read
from tgi_stack.engine.scorer import label_logprobs
from tgi_stack.images.grid import Grid
from tgi_stack.types import ScoreRequest


class ImageScorer:
    """Answers score requests with images by a network and its tower: prompts packed behind each other.

    Args:
        image_token: stands for a visual token in prompts.
        patch_px: a side of a patch.
        flash: see `attention.choose`.
    """

    def __init__(
        self, network: Network, tower: Tower, image_token: int, patch_px: int, flash: str = "auto"
    ) -> None:
        self._network = network
        self._tower = tower
        self._image = (image_token, patch_px)
        self._name, self._attention = attention.choose(network.device, network.dtype, network.head_dim, flash)

    @torch.inference_mode()
    def readings(self, requests: Sequence[ScoreRequest]) -> list[Reading]:
        """One reading a request, in order; see `score.readings`."""
        prompts = [prompt_of(request.token_ids, request.images, *self._image) for request in requests]
        widest = max(len(request.label_ids) for request in requests)
        labels = np.array([[*r.label_ids, *[0] * (widest - len(r.label_ids))] for r in requests])
        with current(self._network.device):
            last = self._last(prompts)
            values = label_logprobs(last, self._network.head, attention.upload(labels, last.device)).cpu()
        return [
            reading(request, tuple(row[: len(request.label_ids)].tolist()))
            for request, row in zip(requests, values, strict=True)
        ]

    def _last(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """The normed outputs at the last positions, shape [prompts, hidden]."""
        network, device = self._network, self._network.device
        ids = np.concatenate([prompt.token_ids for prompt in prompts])
        lengths = np.array([len(prompt.token_ids) for prompt in prompts], dtype=np.int32)
        ends = np.cumsum(lengths).astype(np.int32)
        tile = attention.tile_positions(self._name, network.heads // network.kv_heads)
        parts = attention.segments(ends - lengths, lengths, None, device, tile=tile)
        x = network.embedding[attention.upload(ids, device)]
        rows = attention.upload(np.flatnonzero(ids == self._image[0]), device)
        visual = self._tower([image for prompt in prompts for image in prompt.images])
        x[rows] = visual[0]
        positions = np.concatenate([prompt.positions for prompt in prompts], axis=1)
        return network.forward(
            x,
            network.rotary.tables(attention.upload(positions, device)),
            lambda layer, q, k, v: self._attention(q, k, v, parts),
            last=attention.upload(ends - 1, device),
            inject=visual[1:],
            inject_rows=rows,
        )


@torch.inference_mode()
def score_images(
    model: Any, grid: Grid | None, requests: Sequence[ScoreRequest], pad_id: int = 0
) -> list[Reading]:
    """One reading a request, in order; see `score.readings`. Prompts are padded on the right and masked."""
    lengths = [len(request.token_ids) for request in requests]
    longest = max(lengths)
    rows = [[*r.token_ids, *[pad_id] * (longest - len(r.token_ids))] for r in requests]
    ids = torch.tensor(rows, device=model.device)
    ends = torch.tensor(lengths, device=model.device)
    images = [image for request in requests for image in request.images]
    output = model.model(
        input_ids=ids,
        attention_mask=(torch.arange(longest, device=model.device) < ends[:, None]).long(),
        use_cache=False,
        **image_arguments(model, grid, images, ids),
    )
    last = output.last_hidden_state[torch.arange(len(rows), device=model.device), ends - 1]
    logprobs = torch.log_softmax(model.lm_head(last).float(), dim=-1)
    return [read(request, row) for request, row in zip(requests, logprobs, strict=True)]
