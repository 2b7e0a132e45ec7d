"""The shapes of the two `tiny` networks and of the prompts that they are trained on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3VLConfig

from session_data import Session
from tgi_stack.prompting import prompts
from tgi_stack.prompting.labels import LETTERS

HEAD_DIM = 64  # what servers' attention kernels take; smaller ones start and then fail at the first request
MAX_POSITIONS = 4096
MIN_PIXELS, MAX_PIXELS = 96 * 96, 256 * 256
ITEM_FIELDS = ("title", "summary", "text")


def _rounded_vocabulary(tokenizer: Tokenizer) -> int:
    return math.ceil(int(tokenizer.get_vocab_size()) / 64) * 64


def text_config(tokenizer: Tokenizer) -> Qwen3Config:
    """Qwen3 with 3.1 M parameters: 6 layers of width 192, four query heads on two key-value heads."""
    return Qwen3Config(
        vocab_size=_rounded_vocabulary(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        max_window_layers=6,
        bos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )


def vision_config(tokenizer: Tokenizer) -> Qwen3VLConfig:
    """Qwen3-VL with 3.4 M parameters: a tower of 6 blocks with two deepstack taps, 4 decoder layers."""
    text = {
        "vocab_size": _rounded_vocabulary(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_theta": 10_000.0,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_type": "default"},
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    }
    vision = {
        "depth": 6,
        "hidden_size": 128,
        "num_heads": 2,
        "intermediate_size": 384,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "out_hidden_size": 128,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [1, 3],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.token_to_id("<|image_pad|>"),
        video_token_id=tokenizer.token_to_id("<|video_pad|>"),
        vision_start_token_id=tokenizer.token_to_id("<|vision_start|>"),
        vision_end_token_id=tokenizer.token_to_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def session_prompt(session: Session, fields: Sequence[str] = ITEM_FIELDS) -> tuple[str, list[int], list[int]]:
    """A session's prompt, and the index of the last character of each history and each candidate line."""
    labels = LETTERS[: len(session.candidates)]
    past = [prompts.item_text(item, fields) for item in session.history]
    offered = [prompts.item_text(item, fields) for item in session.candidates]
    body = "".join(prompts.listwise_body(labels, offered, history=past, query=session.query))
    prompt = prompts.user_turn(body, close_thinking=True)
    return (
        prompt,
        _line_ends(prompt, "".join(prompts.history_block(past))) if past else [],
        _line_ends(prompt, "".join(prompts.candidates_block(labels, offered))),
    )


def _line_ends(prompt: str, block: str) -> list[int]:
    end = prompt.index(block) - 1
    ends = []
    for line in block.split("\n"):
        end += len(line) + 1
        ends.append(end)
    return ends


def grid_for(rng: random.Random) -> tuple[int, int]:
    """A (rows, columns) grid of 32-pixel blocks as real pictures give it: aspects from 1:3 to 3:1."""
    aspect = math.exp(rng.uniform(-math.log(3), math.log(3)) * rng.random())
    area = 64 if rng.random() < 0.75 else rng.uniform(9, 64)
    rows = max(2, min(14, int(math.sqrt(area / aspect))))
    columns = max(2, min(14, int(area / rows)))
    if rows / columns > 3.5 or columns / rows > 3.5:
        return 8, 8
    return rows, columns
