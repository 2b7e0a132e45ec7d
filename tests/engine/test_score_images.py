"""Labels after prompts with images: the packed network gives what transformers' padded forward gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import CATALOGUE
from tests.engine.test_engine import GRID
from tests.engine.test_scorer import apart
from tests.tolerances import FP32
from tgi_stack.engine.label_scores import whole
from tgi_stack.engine.layers.ops import Ops
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.vision import Tower
from tgi_stack.engine.score_images import ImageScorer, score_images
from tgi_stack.errors import ScoreError
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting import prompts
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import PreparedImage, ScoreRequest

pytestmark = pytest.mark.numbers

PICTURES = sorted((CATALOGUE / "images").iterdir())[:6]
SIDES = (448, 96, 224, 448, 160, 320)  # pixels at most, so that grids differ
LABELS = "ABCDEFGH"


def request_of(tokenizer: Tokenizer, images: list[PreparedImage], labels: str) -> ScoreRequest:
    """Candidates that are pictures, with a text each."""
    lines = [f"{label}. {prompts.IMAGE_MARK} the {n}th of them" for n, label in enumerate(labels, 1)]
    lines = lines[: len(images)]
    visual = [GRID.tokens(image.sent_width, image.sent_height) for image in images]
    body = "\n".join(["Which one fits?", *lines, "Answer with a letter."])
    prompt = prompts.user_turn(prompts.place_images(body, visual), close_thinking=False)
    ids = tuple(tokenizer.encode(label)[0] for label in labels)
    return ScoreRequest(prompt, tokenizer.encode(prompt), tuple(labels), ids, tuple(images))


@pytest.fixture(scope="module")
def requests(tokenizer: Tokenizer) -> list[ScoreRequest]:
    pairs = zip(PICTURES, SIDES, strict=True)
    shown = [prepare(path.read_bytes(), path.name, GRID, max_side_px=side) for path, side in pairs]
    groups = [shown[:1], shown[1:4], shown[2:4], shown[5:], shown, shown[1:2]]
    return [request_of(tokenizer, group, LABELS[: len(group) + 1]) for group in groups]


def scorer(model: Any) -> ImageScorer:
    patch_px = int(model.config.vision_config.patch_size)
    return ImageScorer(Network(model, Ops()), Tower(model, GRID), model.config.image_token_id, patch_px)


def test_images_score_as_by_the_padded_path(vision_model: Any, requests: list[ScoreRequest]) -> None:
    alone = [whole(score_images(vision_model, GRID, [request]))[0] for request in requests]
    padded = whole(score_images(vision_model, GRID, requests))
    packed = whole(scorer(vision_model).readings(requests))
    each = [whole(scorer(vision_model).readings([request]))[0] for request in requests]
    assert apart(padded, alone) <= FP32
    assert apart(packed, alone) <= FP32
    assert apart(each, alone) <= FP32
    for found in (padded, packed, each):
        masses = [one.label_mass for one in found]
        assert masses == pytest.approx([one.label_mass for one in alone], abs=FP32)
        assert [one.prompt_tokens for one in found] == [len(one.token_ids) for one in requests]


@pytest.mark.parametrize("packed", [True, False])
def test_no_numbers_fail_their_row_alone(
    vision_model: Any, spoilt: tuple[Any, int], requests: list[ScoreRequest], packed: bool
) -> None:
    broken, odd = spoilt
    assert not any(odd in request.token_ids for request in requests)
    asked = [*requests[:2], replace(requests[2], token_ids=(odd, *requests[2].token_ids)), *requests[3:]]
    found = scorer(broken).readings(asked) if packed else score_images(broken, GRID, asked)
    failed = found.pop(2)
    assert isinstance(failed, ScoreError)
    assert failed.type == "score.not_finite"
    wanted = whole(score_images(vision_model, GRID, [*requests[:2], *requests[3:]]))
    assert apart(whole(found), wanted) <= FP32
