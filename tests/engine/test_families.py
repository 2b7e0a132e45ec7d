"""Each family of models, made with random weights: what is computed is what transformers computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

import families
from tests.tolerances import FP32

pytestmark = pytest.mark.numbers

OWN = {"qwen3", "qwen3_vl"}


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_family_is_computed_as_transformers_does(name: str, tmp_path: Path) -> None:
    if name not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} does not know {name}")
    found = families.compared(name, tmp_path)
    assert not found.refused
    assert (found.by == "own network") == (name in OWN)
    assert found.alone <= FP32
    assert found.batched <= FP32
    assert found.texts
