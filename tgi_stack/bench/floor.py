"""Requests a second that a device could answer at the rate at which it multiplies large matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from tgi_stack.bench import roofline
from tgi_stack.bench.tasks import Task
from tgi_stack.engine.layers.linear import FP8
from tgi_stack.engine.models import config
from tgi_stack.engine.placement import DTYPES
from tgi_stack.engine.runtime import gathered
from tgi_stack.engine.switches import Switches

FP8_CAPABILITY = (8, 9)


def floors(
    checkpoint: Mapping[str, Any], task: Task, device: torch.device, dtypes: Sequence[str]
) -> dict[str, float]:
    """By dtype, of those that the device multiplies and has the room to measure; none for networks that are
    not the project's own, whose operations are not counted.

    Args:
        checkpoint: the content of its config.json.
    """
    if checkpoint.get("model_type") not in config.OWN_TYPES:
        return {}
    network, found = config.read(checkpoint), {}
    for name in dtypes:
        if name != "fp8" or _multiplies_fp8(device):
            with suppress(RuntimeError):  # no memory for large matrices, or for the copy
                found[name] = _floor(network, task, device, FP8 if name == "fp8" else DTYPES[name])
    return found


def _multiplies_fp8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def _floor(network: Any, task: Task, device: torch.device, dtype: torch.dtype) -> float:
    rate = roofline.product_rate(device, dtype)
    if task.kind == "text":
        lengths = [len(request.token_ids) for request in task.requests]
        return len(lengths) * rate / roofline.text_operations(network, lengths)
    bandwidth = roofline.copy_rate(device)
    slots = min(len(task.requests), gathered(device, task.kind, Switches()))
    seconds = [
        roofline.writing_seconds(
            network,
            slots,
            len(request.token_ids),
            request.max_new_tokens,
            request.image.sent_width * request.image.sent_height // network.vision_config.patch_size**2,
            rate,
            bandwidth,
        )
        for request in task.requests
    ]
    return len(seconds) / sum(seconds)
