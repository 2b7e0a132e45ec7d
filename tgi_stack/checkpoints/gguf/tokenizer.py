"""The tokenizer that a GGUF file holds, as a tokenizer.json: tokens, merges and which of them are added.

A file names its rules for cutting texts instead of holding them; only Qwen's are known here. Texts are
brought into NFC first, as the tokenizers of these models do; a file does not say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tgi_stack.checkpoints.gguf.header import Header
from tgi_stack.errors import CheckpointError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
MODEL, RULES = "gpt2", "qwen2"
SHOWN = 60
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def tokens_of(header: Header) -> dict[str, int]:
    """The file's tokens with their ids, without those that only fill the embedding up.

    Raises:
        CheckpointError: a file without tokens, or with others than a tokenizer of Qwen has.
    """
    said = header.fields
    tokens, types = said.get("tokenizer.ggml.tokens"), said.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(types, list) or len(tokens) != len(types):
        raise CheckpointError(f"{header.path} holds no tokens with their types; it is no whole model")
    other = sorted(set(types) - {NORMAL, CONTROL, USER_DEFINED, UNUSED})
    if other:
        raise CheckpointError(f"{header.path}: tokenizer.ggml.token_type holds {other[0]}, which is not read")
    kept = [
        (str(token), id) for id, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED
    ]
    found = dict(kept)
    if len(found) != len(kept):
        raise CheckpointError(f"{header.path}: a token stands twice in tokenizer.ggml.tokens")
    return found


def tokenizer_json(header: Header) -> bytes:
    """The tokenizer as the bytes of a tokenizer.json, the same for the same file.

    Raises:
        CheckpointError: see `tokens_of`; other rules than Qwen's.
    """
    said = header.fields
    kind = (said.get("tokenizer.ggml.model"), said.get("tokenizer.ggml.pre"))
    if kind != (MODEL, RULES):
        raise CheckpointError(
            f"{header.path}: its tokenizer is {kind[0]!r} with rules {kind[1]!r}; only {MODEL!r} "
            f"with {RULES!r} is read from GGUF; name its tokenizer.json: --tokenizer PATH"
        )
    tokens = tokens_of(header)
    types = said["tokenizer.ggml.token_type"]
    listed = said.get("tokenizer.ggml.merges")
    merges = [str(merge).split(" ") for merge in listed] if isinstance(listed, list) else []
    if not merges or any(len(merge) != 2 for merge in merges):
        raise CheckpointError(f"{header.path}: tokenizer.ggml.merges are no pairs")
    added = [
        {
            "id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": types[id] == CONTROL,
        }
        for token, id in tokens.items()
        if types[id] != NORMAL
    ]  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": _WORDS}, "behavior": "Isolated", "invert": False}
    made = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, _LEVEL]},
        "post_processor": _LEVEL,
        "decoder": _LEVEL,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": tokens,
            "merges": merges,
        },
    }  # fmt: skip
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()


def refuse_another(header: Header, name: str, content: bytes, vocabulary: Mapping[str, int]) -> None:
    """Raises CheckpointError for a tokenizer that gives a text other ids than the file's own would.

    Args:
        name: where it was read.
        content: its tokenizer.json.
        vocabulary: its tokens with their ids, added ones too.
    """
    wanted = tokens_of(header)
    if wanted != vocabulary:
        ours, theirs = ({id: token for token, id in one.items()} for one in (wanted, vocabulary))
        id = next(id for id in sorted(ours.keys() | theirs.keys()) if ours.get(id) != theirs.get(id))
        raise CheckpointError(
            f"{name} is not the tokenizer of {header.path}: id {id} is {_shown(theirs.get(id))}, in the file "
            f"{_shown(ours.get(id))}; leave it away, the file holds its own"
        )
    merges = header.fields.get("tokenizer.ggml.merges")
    found = [one if isinstance(one, str) else " ".join(one) for one in _merges(content)]
    if merges is not None and merges != found:
        raise CheckpointError(
            f"{name} is not the tokenizer of {header.path}: its merges differ; "
            "leave it away, the file holds its own"
        )


def _merges(content: bytes) -> list[Any]:
    model = json.loads(content).get("model")
    return model.get("merges") or [] if isinstance(model, dict) else []


def _shown(token: str | None) -> str:
    return "none" if token is None else repr(token[:SHOWN])
