"""What stands before an answer, family by family: the rendered text, its ids, and what is said of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Fastqwen, read_records, write_rows
from tests.loopback import TOKENIZER, serve
from tgi_stack.prompting.framing import ALWAYS, NONE, SWITCHED, TABLE, Framing, framing
from tgi_stack.prompting.profile import Profile
from tgi_stack.tiny import TINY

CLOSED, OPEN = "<think>\n\n</think>\n\n", ""
VISUAL = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
IMAGE = ["<|vision_start|>", "<|image_pad|>", "<|image_pad|>", "<|vision_end|>"]
# What decides in each family's published template, its row, and what has to stand before the answer.
FAMILIES = {
    "Qwen3": ("{%- if enable_thinking is defined and enable_thinking is false %}", SWITCHED, CLOSED),
    "Qwen3.5": ("{%- if enable_thinking is true %}'<|im_start|>assistant\\n<think>\\n'", SWITCHED, CLOSED),
    "Qwen3-Reranker": ("{%- if enable_thinking is defined and enable_thinking is false %}", SWITCHED, CLOSED),
    "Qwen3-Thinking-2507": ("{{- '<|im_start|>assistant\\n<think>\\n' }}", ALWAYS, CLOSED),
    "Qwen3-VL-Thinking": ("{{- '<|im_start|>assistant\\n<think>\\n' }}", ALWAYS, CLOSED),
    "Qwen3-Instruct-2507": ("{{- '<|im_start|>assistant\\n' }}", NONE, OPEN),
    "Qwen3-VL-Instruct": ("{{- '<|im_start|>assistant\\n' }}", NONE, OPEN),
    "Qwen3-VL-Reranker": ("<|im_start|>assistant\n", NONE, OPEN),
    "Qwen2.5": ("{{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}", NONE, OPEN),
    "Qwen2.5-VL": ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", NONE, OPEN),
}  # fmt: skip


def test_each_family_has_a_row() -> None:
    assert {family for row in TABLE for family in row.families} == FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_framed_as_published(family: str) -> None:
    template, row, answer = FAMILIES[family]
    assert family in row.families
    assert framing(template) is row
    assert row.always_thinks == ("Thinking" in family)
    profile = Profile(TOKENIZER, closes_thinking=row.closes_thinking, context=4096, grid=None)
    for body, visual, shown, marks in (
        ("Which one?", (), "Which one?", []),
        ("\ufdd0Which?", (2,), f"{VISUAL}Which?", IMAGE),
    ):  # fmt: skip
        text, ids = profile.turn(body, visual)
        assert text == f"<|im_start|>user\n{shown}<|im_end|>\n<|im_start|>assistant\n{answer}"
        assert ids == TOKENIZER.encode(text)
        thought = ["<think>", "</think>"] if answer else []
        controls = ["<|im_start|>", *marks, "<|im_end|>", "<|im_start|>", *thought]
        known = set(TOKENIZER.added_tokens.values())
        assert [id for id in ids if id in known] == [TOKENIZER.added_tokens[token] for token in controls]


@pytest.mark.parametrize("template", [None, "", "{{ messages }}"])
def test_without_a_mark_nothing_is_closed(template: str | None) -> None:
    assert framing(template) is NONE


def thinking(folder: Path, row: Framing) -> Path:
    """A copy of tiny with a template of that row."""
    shutil.copytree(TINY / "text", folder, ignore=shutil.ignore_patterns("*.jinja"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": None}))
    (folder / "chat_template.jinja").write_text(f"'{row.mark} x'")
    return folder


@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_a_block_closed_by_force_is_told(
    row: Framing, engine: str, fastqwen: Fastqwen, tmp_path: Path
) -> None:
    folder, out = thinking(tmp_path / "m", row), tmp_path / "o.jsonl"
    candidates = [{"id": one, "title": one} for one in ("mug", "hat")]
    rows = write_rows(tmp_path / "in.jsonl", {"id": "1", "query": "cup", "candidates": candidates})
    if engine == "torch":
        fastqwen("rerank", rows, "-o", out, "--engine", "torch", "--model", folder)
    else:
        with serve("vllm", model="m", root=str(folder)) as server:
            fastqwen("rerank", rows, "-o", out, "--endpoint", server.url, "--model", "m")
    (record,) = read_records(out)
    assert record["status"] == "ok"
    assert ("thinking.closed" in record["flags"]) == row.always_thinks


def test_a_prompt_of_the_users_is_not_flagged(fastqwen: Fastqwen, tmp_path: Path) -> None:
    folder, out = thinking(tmp_path / "m", ALWAYS), tmp_path / "o.jsonl"
    rows = write_rows(tmp_path / "in.jsonl", {"id": "1", "prompt": "A or B? ", "labels": ["A", "B"]})
    fastqwen("probs", rows, "-o", out, "--engine", "torch", "--model", folder)
    assert "thinking.closed" not in read_records(out)[0]["flags"]
