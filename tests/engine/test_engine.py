"""The torch engine: exact against a plain forward, the same in any batch, last logits alone."""

from __future__ import annotations

import copy
import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import CATALOGUE
from tests.tolerances import FP32
from tgi_stack.engine import caption, score
from tgi_stack.errors import ScoreError
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting import prompts
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.scoring import distributions
from tgi_stack.tiny import TINY
from tgi_stack.types import CaptionRequest, ScoreRequest

GRID = Grid.from_checkpoint(TINY / "vision")

pytestmark = pytest.mark.numbers


def score_requests(tokenizer: Tokenizer, count: int) -> list[ScoreRequest]:
    rng = random.Random(7)
    profile = Profile(tokenizer, closes_thinking=True, context=4096, grid=None)
    letters = tuple(tokenizer.encode(letter)[0] for letter in "ABCDEFGHIJKLMNOPQRST")
    requests = []
    for _ in range(count):
        body = " ".join(
            rng.choice(["red", "mug", "history", "blue hat.", "A.", "\n"]) for _ in range(rng.randint(1, 90))
        )
        prompt, ids = profile.turn(body)
        requests.append(ScoreRequest(prompt, ids, (), letters[: rng.randint(2, 20)]))
    return requests


def test_scores_are_those_of_a_plain_forward(text_model: Any, tokenizer: Tokenizer) -> None:
    for request, scores in zip(
        requests := score_requests(tokenizer, 6), score.score(text_model, requests), strict=True
    ):
        with torch.no_grad():
            logits = text_model(torch.tensor([request.token_ids])).logits[0, -1].double()
        expected = torch.log_softmax(logits, -1)[list(request.label_ids)]
        assert scores.logprobs == pytest.approx(expected.tolist(), abs=FP32)
        assert scores.label_mass == pytest.approx(float(expected.exp().sum()), abs=FP32)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_a_batch_gives_what_single_prompts_give(text_model: Any, tokenizer: Tokenizer, size: int) -> None:
    requests = score_requests(tokenizer, 16)
    alone = [distributions.softmax(score.score(text_model, [request])[0].logprobs) for request in requests]
    for start in range(0, 16, size):
        chunk = requests[start : start + size]
        together = [distributions.softmax(scores.logprobs) for scores in score.score(text_model, chunk)]
        for one, many in zip(alone[start:], together, strict=False):
            assert max(abs(a - b) for a, b in zip(one, many, strict=True)) <= FP32


def test_the_order_in_a_batch_does_not_matter(text_model: Any, tokenizer: Tokenizer) -> None:
    requests = score_requests(tokenizer, 8)
    forward = score.score(text_model, requests)
    backward = score.score(text_model, requests[::-1])[::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=2 * FP32)  # logarithms of small ones


def test_only_the_last_positions_meet_the_head(text_model: Any, tokenizer: Tokenizer) -> None:
    seen = []
    hook = text_model.lm_head.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape)
    )
    try:
        score.score(text_model, score_requests(tokenizer, 5))
    finally:
        hook.remove()
    assert seen == [(5, text_model.config.hidden_size)]


def caption_requests(tokenizer: Tokenizer, names: list[str]) -> list[CaptionRequest]:
    profile = Profile(tokenizer, closes_thinking=False, context=4096, grid=GRID)
    requests = []
    for name in names:
        image = prepare((CATALOGUE / "images" / name).read_bytes(), name, GRID)
        seen = GRID.tokens(image.sent_width, image.sent_height)
        prompt, ids = profile.turn(prompts.IMAGE_MARK + prompts.summary_body(None, None), [seen])
        requests.append(CaptionRequest(prompt, "", ids, image, 40))
    return requests


def test_batched_captions_equal_single_captions(vision_model: Any, tokenizer: Tokenizer) -> None:
    names = sorted(path.name for path in (CATALOGUE / "images").iterdir())[:6]
    requests = caption_requests(tokenizer, names)
    assert len({(r.image.sent_width, r.image.sent_height) for r in requests if r.image}) > 1
    alone = [caption.caption(vision_model, tokenizer, GRID, [request])[0] for request in requests]
    assert caption.caption(vision_model, tokenizer, GRID, requests) == alone
    assert {one.finish_reason for one in alone} == {"stop"}


def test_an_answer_cut_off_says_so(vision_model: Any, tokenizer: Tokenizer) -> None:
    request = caption_requests(tokenizer, ["mug-02.jpg"])[0]
    short = CaptionRequest(request.prompt, "", request.token_ids, request.image, 3)
    answer = caption.caption(vision_model, tokenizer, GRID, [short])[0]
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 3)


def test_the_engine_sees_the_pixels_servers_see(tokenizer: Tokenizer) -> None:
    request = caption_requests(tokenizer, ["mug-02.jpg"])[0]
    assert request.image is not None
    decoded = caption.pixels(request.image)
    with Image.open(io.BytesIO(request.image.jpeg)) as image:
        assert np.array_equal(decoded.numpy(), np.asarray(image))
    assert (decoded.shape[1], decoded.shape[0]) == (request.image.sent_width, request.image.sent_height)


def test_logits_that_are_no_numbers_never_become_scores(tokenizer: Tokenizer, text_model: Any) -> None:
    broken = copy.deepcopy(text_model)
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ScoreError) as caught:
        score.score(broken, score_requests(tokenizer, 1))
    assert caught.value.type == "score.not_finite"
