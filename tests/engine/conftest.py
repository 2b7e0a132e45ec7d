"""What tests of the engine share: a network that fails where a token stands."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tgi_stack.prompting.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def spoilt(vision_model: Any, tokenizer: Tokenizer) -> tuple[Any, int]:
    """The vision checkpoint, and the id of a token whose embedding is no number in it."""
    (odd,) = tokenizer.encode("\x01")  # which no prompt holds
    broken = copy.deepcopy(vision_model)
    embedding = broken.get_input_embeddings().weight
    broken.lm_head.weight = torch.nn.Parameter(embedding.detach().clone())  # tied, else
    embedding.data[odd] = float("nan")
    return broken, odd
