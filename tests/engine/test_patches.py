"""Patches are those of transformers' own image processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor

from tgi_stack.engine.models.patches import to_patches


@pytest.mark.parametrize("size", [(96, 96), (160, 64)])
def test_the_same_numbers_as_the_processor(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(1)
    stack = generator.integers(0, 256, (2, size[1], size[0], 3), np.uint8)
    processor = Qwen2VLImageProcessor(
        patch_size=16, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_resize=False
    )
    theirs = processor([Image.fromarray(image) for image in stack], return_tensors="pt")
    ours = to_patches(torch.from_numpy(stack))
    assert ours.shape == (2, size[0] * size[1] // 256, 1536)
    torch.testing.assert_close(ours.flatten(0, 1), theirs["pixel_values"], atol=1e-6, rtol=0)
