"""fastqwen: semantic summaries with Qwen3-VL and rankings read from Qwen3's next-token distribution."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tgi_stack.api import (
        PartialFailure,
        Reranker,
        Summarizer,
        predict_probs,
        predict_probs_batch,
        record_schema,
    )

__version__ = "0.1.0"
__all__ = [
    "PartialFailure",
    "Reranker",
    "Summarizer",
    "predict_probs",
    "predict_probs_batch",
    "record_schema",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until somebody listens


def __getattr__(name: str) -> Any:
    """The public names, loaded at first use: the command line needs none of them."""
    if name in __all__:
        return getattr(importlib.import_module("tgi_stack.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
