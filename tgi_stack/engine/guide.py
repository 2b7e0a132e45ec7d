"""Holds an answer to a JSON schema, token by token: which tokens may come next, by llguidance."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from tgi_stack.errors import AnswerError, MissingPackageError
from tgi_stack.prompting.tokenizer import Tokenizer

BITS = torch.arange(32, dtype=torch.int32)
# White space is what a model that can't write the schema's words fills its budget with.
COMPACT: Any = {"whitespace_flexible": False}


class Guides:
    """Makes guides for one vocabulary.

    Args:
        ends: token ids that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = sorted(ends)
        self._size = max(tokenizer.size, *(end + 1 for end in ends))
        self._lock = threading.Lock()
        self._vocabulary: Any = None
        self._matcher = lru_cache(maxsize=8)(self._compiled)

    def guide(self, form: str) -> Guide:
        """A guide at the beginning of an answer.

        Raises:
            MissingPackageError: llguidance is not installed.
            AnswerError: `schema.invalid`: a schema that it can't be held to.
        """
        with self._lock:
            return Guide(self._matcher(form).deep_copy(), self._ends, self._size)

    def _compiled(self, form: str) -> Any:
        try:
            import llguidance
        except ImportError as error:
            raise MissingPackageError("llguidance", "schema") from error
        if self._vocabulary is None:
            text = self._tokenizer.content.decode()
            self._vocabulary = llguidance.LLTokenizer(text, n_vocab=self._size, eos_token=self._ends[0])
        grammar = llguidance.LLMatcher.grammar_from_json_schema(form, overrides=COMPACT)
        matcher = llguidance.LLMatcher(self._vocabulary, grammar)
        if matcher.is_error():
            raise AnswerError("schema.invalid", f"no answer can be held to --schema: {matcher.get_error()}")
        return matcher


class Guide:
    """Which tokens may come next in one answer."""

    def __init__(self, matcher: Any, ends: Sequence[int], size: int) -> None:
        from llguidance import numpy as masks

        self._matcher = matcher
        self._ends = list(ends)
        self._mask = masks.allocate_token_bitmask(1, size)
        self._fill = masks.fill_next_token_bitmask
        self._size = size

    def hold(self, logits: torch.Tensor) -> None:
        """Leaves of a row of logits, shape [vocabulary], what may come next; all others become -inf."""
        allowed = torch.zeros(len(logits), dtype=torch.bool)  # a row may be longer than the vocabulary
        if not self._matcher.is_stopped():
            self._fill(self._matcher, self._mask, 0)
            bits = torch.from_numpy(self._mask[0])[:, None] >> BITS
            allowed[: self._size] = (bits & 1).bool().flatten()[: self._size]
        if self._matcher.is_accepting():
            allowed[self._ends] = True
        # Where an answer can't go on its row has no number left, and fails.
        logits.masked_fill_(~allowed.to(logits.device), -torch.inf)

    def take(self, token: int) -> None:
        """Goes on by the token that was chosen."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
