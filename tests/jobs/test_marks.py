"""A tokenizer that is not the model's is refused before the first row, on every engine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import CATALOGUE, Fastqwen, write_rows
from tests.loopback import serve
from tgi_stack.errors import UsageError
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.prompting.vocabulary import refuse_another_vocabulary
from tgi_stack.tiny import TINY

Content = dict[str, Any]


def without(mark: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != mark]
        content["model"]["vocab"].pop(mark, None)

    return change


def beyond(content: Content) -> None:
    content["added_tokens"].append({**content["added_tokens"][0], "content": "<|far|>", "id": 5000})


def elsewhere(content: Content) -> None:
    for token in content["added_tokens"]:
        if token["content"] in ("<|image_pad|>", "<|video_pad|>"):
            token["id"] = {992: 993, 993: 992}[token["id"]]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str, Callable[[Content], None]], Path]:
    def make(kind: str, change: Callable[[Content], None]) -> Path:
        folder = Path(shutil.copytree(TINY / kind, tmp_path / "checkpoint"))
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (64, 64), name).save(folder / f"{name}.png")
    return folder


Make = Callable[[str, Callable[[Content], None]], Path]
MARKS = ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_a_missing_mark_is_refused(
    fastqwen: Fastqwen, checkpoint: Make, pictures: Path, mark: str, engine: str
) -> None:
    folder = checkpoint("vision", without(mark))
    if engine == "torch":
        done = fastqwen("summarize", pictures, "--engine", "torch", "--model", folder, check=2)
    else:
        with serve("vllm") as server:
            options = ("--endpoint", server.url, "--model", "tiny", "--startup-timeout", "5")
            done = fastqwen("summarize", pictures, *options, "--tokenizer", folder, check=2)
    assert mark in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("mark", MARKS[3:])
def test_turns_of_text_need_their_marks(
    fastqwen: Fastqwen, checkpoint: Make, tmp_path: Path, mark: str
) -> None:
    use = ("--engine", "torch", "--model", checkpoint("text", without(mark)))
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "A or B?\n", "num_candidates": 2})
    items = ("--items", CATALOGUE / "items.jsonl")
    assert mark in fastqwen("rerank", CATALOGUE / "sessions.jsonl", *items, *use, check=2).stderr
    assert mark in fastqwen("probs", rows, "--chat", *use, check=2).stderr


@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_ids_beyond_the_head_are_refused(
    fastqwen: Fastqwen, checkpoint: Make, tmp_path: Path, engine: str
) -> None:
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "A or B?\n", "num_candidates": 2})
    folder = checkpoint("text", beyond)
    if engine == "torch":
        done = fastqwen("probs", rows, "--engine", "torch", "--model", folder, check=2)
    else:
        with serve("vllm") as server:
            options = ("--endpoint", server.url, "--model", "tiny", "--startup-timeout", "5")
            done = fastqwen("probs", rows, *options, "--tokenizer", folder, check=2)
    assert "says id 5000 of <|far|>" in done.stderr


def test_another_image_token_is_refused(fastqwen: Fastqwen, checkpoint: Make, pictures: Path) -> None:
    folder = checkpoint("vision", elsewhere)
    done = fastqwen("summarize", pictures, "--engine", "torch", "--model", folder, check=2)
    assert "says id 993 of <|image_pad|>" in done.stderr


@pytest.mark.parametrize(
    ("tokens", "config", "message"),
    [
        (TINY / "text", {"model_type": "x", "vocab_size": 1006}, None),
        (TINY / "text", {"model_type": "x", "vocab_size": 1005}, "has 1,006 tokens, the model only 1,005"),
        (TINY / "text", {"text_config": {"vocab_size": 9}}, "the model only 9"),
        (TINY / "vision", {"image_token_id": 993}, "gives <|image_pad|> the id 992, config.json 993"),
    ],
)
def test_a_vocabulary_is_held_against_the_model(
    tokens: Path, config: dict[str, Any], message: str | None
) -> None:
    tokenizer = Tokenizer(tokens / "tokenizer.json")
    assert tokenizer.declared == tokenizer.added_tokens
    if message is None:
        refuse_another_vocabulary(tokenizer, "it", config)
        return
    with pytest.raises(UsageError, match=re.escape(message)):
        refuse_another_vocabulary(tokenizer, "it", config)
