"""Token ids of prompts, by tokenizer and text."""

from __future__ import annotations

from array import array

from cache.keys import Keys
from cache.store import Store
from tgi_stack.prompting import prompts
from tgi_stack.prompting.tokenizer import Tokenizer


class TokenAnswers:
    """Encodes prompts, each once for all runs."""

    def __init__(self, store: Store | None, tokenizer: Tokenizer) -> None:
        self._store = store
        self._tokenizer = tokenizer
        self._keys = Keys("tokens", {"tokenizer": tokenizer.digest, "prompt_version": prompts.VERSION})

    def encode_prompt(self, prompt: str, frame: str) -> tuple[int, ...]:
        """See `Tokenizer.encode_prompt`; what is kept was proven then."""
        if self._store is None:
            return self._tokenizer.encode_prompt(prompt, frame)
        key = self._keys.key(text=prompt, framed=True)
        payload = self._store.get("tokens", key)
        if payload is not None and len(payload) % 4 == 0:
            return tuple(array("I", payload))
        ids = self._tokenizer.encode_prompt(prompt, frame)
        self._store.put("tokens", key, array("I", ids).tobytes())
        return ids
