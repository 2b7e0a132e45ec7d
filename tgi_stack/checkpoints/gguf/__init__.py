"""GGUF files as models: what they say, read strictly, without the package that reads their numbers."""

from __future__ import annotations

from importlib.util import find_spec

from tgi_stack.checkpoints.gguf.header import SUFFIX, Header, read
from tgi_stack.checkpoints.gguf.model import config_of
from tgi_stack.errors import UsageError

__all__ = ["SUFFIX", "TEMPLATE", "config_of", "needs_its_package", "read"]

TEMPLATE = "tokenizer.chat_template"


def needs_its_package(header: Header) -> None:
    """Raises UsageError where the package that reads a file's numbers is not installed."""
    if find_spec("gguf") is None:
        raise UsageError(
            f"{header.path} is a GGUF file, and gguf is not installed: pip install 'fastqwen[torch,gguf]'"
        )
