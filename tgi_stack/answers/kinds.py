"""The kinds of values that fastqwen keeps; importing this module registers them."""

from __future__ import annotations

from cache.kinds import Kind, register

KINDS = (
    Kind("labels", "L"),
    Kind("summary", "S"),
    Kind("tokens", "T"),
    Kind("image", "I", database="large"),
    Kind("identity", "D", stays=True),  # without identities and tokenizers no offline run is possible
    Kind("tokenizer", "V", database="large", stays=True),
    Kind("question", "Q"),
    Kind("pixels", "P"),
    Kind("record", "R"),
)
register(*KINDS)
