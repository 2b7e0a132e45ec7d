"""Labels after prompts with images: the packed network gives what transformers' padded forward gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.conftest import CATALOGUE
from tests.engine.test_engine import GRID
from tests.engine.test_scorer import apart
from tests.tolerances import FP32
from tgi_stack.bench import workload
from tgi_stack.engine.label_scores import whole
from tgi_stack.engine.layers.ops import Ops
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.sight import Sight
from tgi_stack.engine.models.vision import Tower
from tgi_stack.engine.packing import pack
from tgi_stack.engine.score_images import score_images
from tgi_stack.engine.scorer import Options, Scorer
from tgi_stack.errors import ScoreError
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting import prompts
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import PreparedImage, ScoreRequest

pytestmark = pytest.mark.numbers

PICTURES = sorted((CATALOGUE / "images").iterdir())[:6]
SIDES = (448, 96, 224, 448, 160, 320)  # pixels at most, so that grids differ
LABELS = "ABCDEFGH"
PACKED = Options(4_096)


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


def scorer(model: Any, options: Options = PACKED, most_bytes: int = 2**24) -> Scorer:
    config = model.config
    sight = Sight(Tower(model, GRID), config.image_token_id, config.vision_config.patch_size, most_bytes)
    return Scorer(Network(model, Ops()), options, sight)


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


class Counting(Tower):
    """A tower that says which pictures it was shown."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, GRID)
        self.looked: list[int] = []

    def __call__(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self.looked.append(len(images))
        return super().__call__(images)


def counted(model: Any, most_bytes: int) -> tuple[Scorer, Counting]:
    tower = Counting(model)
    return Scorer(
        Network(model, Ops()), PACKED, Sight(tower, model.config.image_token_id, 16, most_bytes)
    ), tower


def test_each_picture_is_seen_once(vision_model: Any, requests: list[ScoreRequest]) -> None:
    alone = [whole(score_images(vision_model, GRID, [request]))[0] for request in requests]
    scores, tower = counted(vision_model, 2**24)
    for _ in range(2):
        assert apart(whole(scores.readings(requests)), alone) <= FP32
    assert sum(tower.looked) == len(PICTURES)


@pytest.mark.parametrize(("most_bytes", "again"), [(0, 6), (2**24, 0)])
def test_kept_pictures_have_a_bound(
    vision_model: Any, requests: list[ScoreRequest], most_bytes: int, again: int
) -> None:
    scores, tower = counted(vision_model, most_bytes)
    for _ in range(2):
        scores.readings(requests[4:5])
    assert tower.looked == [6] + [again] * bool(again)


def test_the_longest_unseen_picture_goes_first(vision_model: Any, requests: list[ScoreRequest]) -> None:
    tower = Counting(vision_model)
    image_token = vision_model.config.image_token_id
    prompts = [
        Sight(tower, image_token, 16, 0).prompt(r.token_ids, r.images)
        for r in (requests[0], requests[5], requests[0])
    ]
    sizes = [tower([one.pictures[0].decode()]) for one in prompts]
    room = sum(layer.numel() * 4 for layers in sizes[:2] for layer in layers)
    sight = Sight(tower, image_token, 16, room)
    big = sight.prompt(requests[1].token_ids, requests[1].images)
    first, second, _ = prompts
    for shown in (first, second, first, big):
        sight.seen([shown], [(0, 0, len(shown.token_ids))])
    assert not sight.knows(second.pictures[0])
    sight.forget()
    assert not any(sight.knows(one) for prompt in (first, second, big) for one in prompt.pictures)


@pytest.mark.parametrize("budget", [1, 700, 8_192])
def test_prompts_that_show_the_same_share_it(vision_model: Any, tokenizer: Tokenizer, budget: int) -> None:
    one, other = workload.images(2, 320)
    words = [tokenizer.encode(text) for text in (" a", " of two", " the", " last of")]
    asked = []
    for shown, own in zip((one, one, one, other), words, strict=True):
        request = request_of(tokenizer, [shown, one], "ABC")
        ids = request.token_ids
        asked.append(replace(request, token_ids=(*ids[:-4], *own, *ids[-4:])))
    asked.append(ScoreRequest("", tuple(tokenizer.encode("Which one? A or B")), (), asked[0].label_ids))
    alone = [whole(score_images(vision_model, GRID, [one]))[0] for one in asked]
    scores = scorer(vision_model, Options(budget))
    assert apart(whole(scores.readings(asked)), alone) <= FP32
    if (
        budget > 700
    ):  # of three that begin with the same two pictures the second and third have their words alone
        rows = sum(one.tokens for one in pack(scores._asked(asked).tokens, budget))
        whole_ones = [len(one.token_ids) for one in asked]
        assert rows <= sum(whole_ones) - 2 * 2 * GRID.tokens(320, 320)
        assert rows >= whole_ones[0] + whole_ones[3]
