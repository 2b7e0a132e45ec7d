"""Rerankers are asked by their published recipes: text, ids and arithmetic, on every engine the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tests.loopback import serve
from tests.tolerances import FP32
from tgi_stack.answers.contexts import PromptEncoder
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.jobs.rerank.prompts import Candidate, Prompts, Query
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.settings import load
from tgi_stack.tiny import TINY

SYSTEM = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
WEB = "Given a web search query, retrieve relevant passages that answer the query"
ANY = "Given a search query, retrieve relevant candidates that answer the query."
TEXT_END = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
VISION_END = "<|im_end|>\n<|im_start|>assistant\n"
CONTROLS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|vision_start|>", "<|image_pad|>")
GRID = Grid.from_checkpoint(TINY / "vision")
TORCH = ("--engine", "torch", "--device", "cpu")


@pytest.fixture(scope="module")
def large() -> Tokenizer:
    """A vocabulary of 160,000 tokens with Qwen's rules, and control tokens with ids of their own."""
    made = json.loads((TINY / "text" / "tokenizer.json").read_text())
    vocabulary = made["model"]["vocab"]
    taken = set(vocabulary) | {token["content"] for token in made["added_tokens"]}
    start = max([*vocabulary.values(), *(token["id"] for token in made["added_tokens"])]) + 1
    vocabulary |= {f"\u0120filler{n}": n for n in range(start, 160_000) if f"\u0120filler{n}" not in taken}
    return Tokenizer.of(json.dumps(made).encode())


def asked(tokenizer: Tokenizer, grid: Grid | None, query: str, candidate: Candidate, **flags: Any) -> Any:
    profile = Profile(tokenizer, closes_thinking=False, context=32_768, grid=grid)
    settings = load({"mode": "pointwise"} | flags, environ={})
    prompts = Prompts(PromptEncoder(profile, None), settings, None)
    return prompts.pointwise(Query((), query), candidate)[0]


@pytest.mark.parametrize("instruction", [None, "Find it"])
@pytest.mark.parametrize("vocabulary", ["tokenizer", "large"])
def test_text_and_ids_of_the_text_recipe(
    instruction: str | None, vocabulary: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(vocabulary)
    context = asked(tokenizer, None, "what is red", Candidate.of("a", "A mug, red"), instruction=instruction)
    middle = f"<Instruct>: {instruction or WEB}\n<Query>: what is red\n<Document>: A mug, red"
    assert context.prompt == SYSTEM + middle + TEXT_END
    apart = [id for piece in (SYSTEM, middle, TEXT_END) for id in tokenizer.encode(piece)]
    assert list(context.token_ids) == apart
    assert {tokenizer.added_tokens[token] for token in CONTROLS[:4]} <= set(apart)


@pytest.mark.parametrize(
    ("query", "text", "shown"),
    [
        ("a red thing", "A mug", "<Query>:a red thing\n<Document>:{image}A mug"),
        ("", "A mug", "<Query>:NULL\n<Document>:{image}A mug"),
        ("a red thing", "", "<Query>:a red thing\n<Document>:{image}"),
    ],
)
@pytest.mark.parametrize("pictured", [True, False])
@pytest.mark.parametrize("vocabulary", ["tokenizer", "large"])
def test_text_and_ids_of_the_image_recipe(
    query: str, text: str, shown: str, pictured: bool, vocabulary: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(vocabulary)
    path = CATALOGUE / "images" / "mug-02.jpg"
    image = prepare(path.read_bytes(), path.name, GRID, max_side_px=96) if pictured else None
    context = asked(tokenizer, GRID, query, Candidate.of("a", text, image))
    pads = 0 if image is None else GRID.tokens(image.sent_width, image.sent_height)
    seen = f"<|vision_start|>{'<|image_pad|>' * pads}<|vision_end|>" if pictured else ""
    middle = shown.format(image=seen or ("" if text else "NULL"))
    assert context.prompt == f"{SYSTEM}<Instruct>: {ANY}{middle}{VISION_END}"
    assert context.token_ids == tokenizer.encode(context.prompt)
    assert context.token_ids.count(tokenizer.added_tokens["<|image_pad|>"]) == pads


@pytest.mark.parametrize(("grid", "most"), [(None, 8192), (GRID, 10_240)])
def test_a_long_document_loses_its_end(tokenizer: Tokenizer, grid: Grid | None, most: int) -> None:
    long = asked(tokenizer, grid, "red", Candidate.of("a", "mug red blue hat " * 8000))
    assert most - 4 <= len(long.token_ids) <= most
    end = TEXT_END if grid is None else VISION_END
    assert long.prompt.endswith(end)
    assert "<Query>:" in long.prompt


def pictured_rows(folder: Path) -> tuple[Path, Path]:
    names = ["mug-02.jpg", "shirt-01.jpg"]
    images = ({"id": name, "image": str(CATALOGUE / "images" / name), "title": "It"} for name in names)
    items = write_rows(folder / "items.jsonl", *images, {"id": "words", "text": "A plain thing"})
    candidates = [*names, "words"]
    return write_rows(folder / "r.jsonl", {"id": "1", "query": "a mug", "candidates": candidates}), items


def test_images_are_judged_by_one_softmax(
    fastqwen: Fastqwen, tmp_path: Path, vision_model: Any, tokenizer: Tokenizer
) -> None:
    rows, items = pictured_rows(tmp_path)
    options = (*TORCH, "--model", TINY / "vision", "--mode", "pointwise", "--max-side", "96")
    fastqwen("rerank", rows, "--items", items, "--item-images", "-o", tmp_path / "o.jsonl", *options)
    (record,) = read_records(tmp_path / "o.jsonl")
    found = {entry["id"]: entry["probability"] for entry in record["ranking"]}
    yes, no = (tokenizer.encode(word)[0] for word in ("yes", "no"))
    middle = f"<Instruct>: {ANY}<Query>:a mug\n<Document>:A plain thing"
    ids = tokenizer.encode(SYSTEM + middle + VISION_END)
    with torch.no_grad():
        logits = vision_model(torch.tensor([ids])).logits[0, -1]
    # The published code: the sigmoid of the difference of the two rows.
    assert found["words"] == pytest.approx(torch.sigmoid(logits[yes] - logits[no]).item(), abs=FP32)
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("dialect", ["vllm", "tgi"])
def test_servers_give_what_torch_gives(
    fastqwen: Fastqwen, tmp_path: Path, dialect: str, text_model: Any
) -> None:
    candidates = [{"id": "a", "text": "a red mug"}, {"id": "b", "text": "a blue hat. " * 60}]
    rows = write_rows(tmp_path / "p.jsonl", {"id": "1", "query": "to drink from", "candidates": candidates})

    def logits(ids: Any) -> Any:
        with torch.no_grad():
            return text_model(torch.tensor([list(ids)])).logits[0, -1].double().numpy()

    job = ("rerank", rows, "--mode", "pointwise", "--overwrite")
    fastqwen(*job, "-o", tmp_path / "torch.jsonl", *TORCH, "--model", "tiny")
    with serve(dialect, logits=logits) as server:
        served = ("--endpoint", server.url, "--model", "tiny", "--tokenizer", TINY / "text")
        fastqwen(*job, "-o", tmp_path / "served.jsonl", *served)
    (ours,), (theirs,) = (read_records(tmp_path / f"{name}.jsonl") for name in ("torch", "served"))
    expected = {entry["id"]: entry["probability"] for entry in ours["ranking"]}
    for entry in theirs["ranking"]:
        assert entry["probability"] == pytest.approx(expected[entry["id"]], abs=FP32)
    assert theirs["usage"] == ours["usage"]
    assert theirs["exact"] is True
