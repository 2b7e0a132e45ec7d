"""Holds answers to a JSON schema, token by token: which tokens may come next, by llguidance.

What may come next is known once the token before it is. On a GPU the network's next step needs no mask before
its logits, so the host reads tokens and makes masks while that step runs: `chose` sends tokens on their way
without waiting, and `hold` waits for them after the step was asked for.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from tgi_stack.engine.kernels import triton_launch
from tgi_stack.engine.layers.attention import upload
from tgi_stack.errors import AnswerError, MissingPackageError
from tgi_stack.prompting.outline import Key, Outline, plain_characters
from tgi_stack.prompting.tokenizer import Tokenizer

# By a byte of a mask: which of its eight tokens may not come next.
FORBIDDEN = (torch.arange(256)[:, None] >> torch.arange(8)) & 1 == 0
COPIED = 4  # matchers a core
KEPT = 2_048  # masks of a schema, of some 20 kB each
# Of a string of which so many characters are left, all tokens of at most as many are allowed without a look;
# longer ones are walked through. With llguidance's own numbers, 10 and 30, masks take twice the time.
LEFT = (4, 8, 12, 16, 30)
PLAIN = r'[^"\\\x00-\x1F\x7F]'
SLICES = [r"[\x20\x0A\x0D\x09]+", *(f"{PLAIN}{{1,{most}}}" for most in LEFT), f"{PLAIN}+"]
# White space is what a model that can't write the schema's words fills its budget with.
COMPACT: Any = {"whitespace_flexible": False}


class Chosen(NamedTuple):
    """Tokens on their way to the host, and whose they are."""

    guides: Mapping[int, Guide]  # by row
    tokens: torch.Tensor
    arrived: torch.cuda.Event | None


class Guides:
    """Makes guides for one vocabulary, and holds many rows of logits to theirs at once.

    `guide` may be called by any thread, the rest by one.

    Args:
        ends: token ids that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = sorted(ends)
        self._size = max((tokenizer.size, *(end + 1 for end in ends)))
        self._lock = threading.Lock()
        self._vocabulary: Any = None
        self._executor: Any = None
        self._forms = lru_cache(maxsize=8)(self._compiled)
        self._bytes: dict[int, tuple[bytes, int | None]] = {}  # of tokens that were chosen
        self._chosen: list[Chosen] = []
        self._masks = self._there = torch.empty(0, 0, dtype=torch.int32)
        self._forbidden = FORBIDDEN
        self._copies: Any = None

    def guide(self, form: str) -> Guide:
        """A guide at the beginning of an answer.

        Raises:
            MissingPackageError: llguidance is not installed.
            AnswerError: `schema.invalid`: a schema that it can't be held to.
        """
        with self._lock:
            made = self._forms(form)
            return Guide(next(made.matchers).deep_copy(), Outline(made.schema), made.masks)

    def hold(self, logits: torch.Tensor, guides: Mapping[int, Guide]) -> None:
        """Leaves of some rows of logits, shape [rows, vocabulary], what may come next; all else becomes -inf.

        Where an answer can't go on its row has no number left.
        """
        self._follow()
        if not guides:
            return
        masks = self._room(len(logits), logits.device)
        self._fill(masks.numpy(), guides)
        rows = upload(np.array(list(guides)), logits.device)
        if logits.is_cuda and triton_launch.AVAILABLE:
            triton_launch.forbid(logits, self._sent(masks, logits.device), rows)
        else:
            logits[rows] = self._allowed(logits[rows], masks[list(guides)].to(logits.device))

    def chose(self, tokens: torch.Tensor, guides: Mapping[int, Guide]) -> None:
        """Notes the tokens that were chosen, shape [rows]; the guides follow before they are next asked."""
        if not guides:
            return
        arrived = None
        if tokens.is_cuda:
            there = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            tokens = there.copy_(tokens, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self._chosen.append(Chosen(guides, tokens, arrived))

    def _follow(self) -> None:
        for guides, tokens, arrived in self._chosen:
            if arrived is not None:
                arrived.synchronize()
            values = tokens.tolist()
            going = [
                (guide, values[row])
                for row, guide in guides.items()
                if values[row] >= 0 and not guide.matcher.is_stopped()
            ]
            if going:
                self._executor.consume_token_par([(guide.matcher, token) for guide, token in going])
            for guide, token in going:
                guide.outline.add(*(self._bytes.get(token) or self._read(token)))
        self._chosen.clear()

    def _room(self, rows: int, device: torch.device) -> torch.Tensor:
        """For so many rows a bit a token, shape [rows, words]: those of the last call, already read."""
        if len(self._masks) != rows:
            pinned = device.type == "cuda"
            self._masks = torch.empty(rows, -(-self._size // 32), dtype=torch.int32, pin_memory=pinned)
        return self._masks

    def _sent(self, masks: torch.Tensor, device: torch.device) -> torch.Tensor:
        """The masks on the GPU, copied beside the step that it is at. Who read the last ones has been waited
        for.
        """
        if self._there.shape != masks.shape:
            self._there = torch.empty_like(masks, device=device)
            self._copies = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._copies.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copies):
            self._there.copy_(masks, non_blocking=True)
        torch.cuda.current_stream().wait_stream(self._copies)
        return self._there

    def _allowed(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """The logits with -inf for all that their rows of masks do not allow or do not reach."""
        self._forbidden = self._forbidden.to(logits.device)
        bits = self._forbidden.index_select(0, masks.view(torch.uint8).flatten().int()).view(len(logits), -1)
        known = min(bits.shape[1], logits.shape[1])
        logits[:, :known].masked_fill_(bits[:, :known], -torch.inf)
        logits[:, known:] = -torch.inf  # a row may be longer than the vocabulary
        return logits

    def _fill(self, masks: Any, guides: Mapping[int, Guide]) -> None:
        """Sets the bits of what may come next after each of these rows; of others they mean nothing.

        A mask takes a core up to some milliseconds, so that those of one outline are made once, and kept.
        """
        asked: dict[Any, list[int]] = {}
        stopped = [row for row, guide in guides.items() if guide.matcher.is_stopped()]
        masks[stopped] = 0
        for row in guides.keys() - set(stopped):
            guide = guides[row]
            key = guide.outline.key
            if key is None or (kept := guide.masks.get(key)) is None:
                asked.setdefault(row if key is None else (id(guide.masks), key), []).append(row)
            else:
                masks[row] = kept
        first = [rows[0] for rows in asked.values()]
        if first:
            total, words = masks.shape
            going = [(guides[row].matcher, row) for row in first]
            self._executor.unsafe_compute_mask_ptr(going, masks.ctypes.data, 4 * words, total)
        accepting = [row for row in (*stopped, *first) if guides[row].matcher.is_accepting()]
        for end in self._ends:
            masks.view(np.uint32)[accepting, end // 32] |= np.uint32(1 << end % 32)
        for row, *others in asked.values():
            masks[others] = masks[row]
            self._keep(guides[row], masks[row])

    def _keep(self, guide: Guide, mask: Any) -> None:
        if (key := guide.outline.key) is not None:
            if len(guide.masks) >= KEPT:
                guide.masks.clear()
            guide.masks[key] = mask.copy()

    def _read(self, token: int) -> tuple[bytes, int | None]:
        """The bytes of a token, and its characters where they are plain."""
        piece = b"" if token in self._ends else self._vocabulary.decode_bytes([token])
        self._bytes[token] = piece, plain_characters(piece)
        return self._bytes[token]

    def _compiled(self, form: str) -> Form:
        try:
            import llguidance
        except ImportError as error:
            raise MissingPackageError("llguidance", "schema") from error
        if not self._ends:
            raise AnswerError("schema.invalid", "the model names no token that ends an answer (eos_token_id)")
        if self._vocabulary is None:
            text = self._tokenizer.content.decode()
            self._vocabulary = llguidance.LLTokenizer(
                text, n_vocab=self._size, eos_token=self._ends[0], slices=SLICES
            )
            self._executor = llguidance.LLExecutor()
        grammar = llguidance.LLMatcher.grammar_from_json_schema(form, overrides=COMPACT)
        count = COPIED * (os.cpu_count() or 1)
        matchers = [llguidance.LLMatcher(self._vocabulary, grammar) for _ in range(count)]
        if matchers[0].is_error():
            fault = matchers[0].get_error()
            raise AnswerError("schema.invalid", f"no answer can be held to --schema: {fault}")
        return Form(itertools.cycle(matchers), json.loads(form), {})


class Form(NamedTuple):
    """A schema that answers are held to.

    Attributes:
        matchers: at the beginning, in turn: copies of one share a lock, and make no two masks at a time.
        masks: by outlines of what was written, uint32 [words] each.
    """

    matchers: Iterator[Any]
    schema: dict[str, Any]
    masks: dict[Key, Any]


class Guide(NamedTuple):
    """Where one answer stands in its schema, and the masks of that schema."""

    matcher: Any
    outline: Outline
    masks: dict[Key, Any]
