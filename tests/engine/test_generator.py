"""Summaries by continuous batching: greedy text is that of transformers' generate, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import CATALOGUE, network_that
from tests.engine.test_engine import GRID, caption_requests
from tgi_stack.engine import caption
from tgi_stack.engine.generator import Generator
from tgi_stack.engine.layers import attention
from tgi_stack.engine.layers.ops import Ops
from tgi_stack.engine.models import compat
from tgi_stack.engine.models.decoder import Decoder
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.positions import rotary_positions
from tgi_stack.engine.models.sight import Sight
from tgi_stack.engine.models.vision import Tower
from tgi_stack.errors import MachineError, ScoreError
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import Caption, CaptionRequest

CPU = torch.device("cpu")
PATIENCE_S = 20


@pytest.fixture(scope="module")
def requests(tokenizer: Tokenizer) -> list[CaptionRequest]:
    names = sorted(path.name for path in (CATALOGUE / "images").iterdir())[:14]
    return caption_requests(tokenizer, names)


@pytest.fixture(scope="module")
def generated(vision_model: Any, tokenizer: Tokenizer, requests: list[CaptionRequest]) -> list[Caption]:
    """By transformers' generate, each alone."""
    return [caption.caption(vision_model, tokenizer, GRID, [request])[0] for request in requests]


class Made:
    """A generator, and the decoders that it asks for here."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        slots: int,
        *,
        fails: dict[int, int] | None = None,
        decoder: type[Decoder] = Decoder,
        **options: Any,
    ) -> None:
        self._network, self.forwards = network_that(model, fails=fails or {})
        image_token = model.config.image_token_id
        self.sight, self._options = Sight(Tower(model, GRID), image_token, 16, 2**24), options
        self._decoder, self._slots = decoder, slots
        self.decoders: list[tuple[int, int]] = []
        ends = caption.end_ids(model)
        self.generator = Generator(self, tokenizer, ends, CPU, self.sight)

    def most(self, rows: int) -> int:
        return self._slots

    def make(self, slots: int, rows: int) -> Decoder:
        self.decoders.append((slots, rows))
        return self._decoder(self._network, self.sight, slots, rows, **self._options)

    def answers(self, requests: list[CaptionRequest]) -> list[Caption]:
        futures: list[Future[Caption]] = [self.generator.submit(request) for request in requests]
        return [future.result(PATIENCE_S) for future in futures]


@pytest.fixture
def made(vision_model: Any, tokenizer: Tokenizer) -> Iterator[Any]:
    writers: list[Made] = []

    def make(slots: int, **options: Any) -> Made:
        writers.append(Made(vision_model, tokenizer, slots, **options))
        return writers[-1]

    yield make
    for one in writers:
        one.generator.close()


@pytest.mark.parametrize("slots", [1, 3, 32])
def test_greedy_text_is_that_of_generate(
    made: Any, requests: list[CaptionRequest], generated: list[Caption], slots: int
) -> None:
    assert made(slots).answers(requests) == generated
    assert len({one.completion_tokens for one in generated}) > 1, (
        "rows must leave their slots at different times"
    )


@pytest.mark.slow
def test_logits_that_are_no_numbers_fail_alone(
    spoilt: tuple[Any, int], tokenizer: Tokenizer, requests: list[CaptionRequest], generated: list[Caption]
) -> None:
    broken, odd = spoilt
    assert not any(odd in request.token_ids for request in requests)
    bad = replace(requests[2], token_ids=(odd, *requests[2].token_ids))
    asked = [*requests[:2], bad, *requests[3:8], replace(bad, temperature=0.7, seed=1), *requests[8:]]
    wanted = [*generated[:2], *generated[3:8], *generated[8:]]
    for slots in (1, 3):
        one = Made(broken, tokenizer, slots)
        futures = [one.generator.submit(request) for request in asked]
        failed = [futures.pop(8), futures.pop(2)]
        assert [future.result(PATIENCE_S) for future in futures] == wanted
        for future in failed:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, ScoreError)
            assert error.type == "score.not_finite"
        one.generator.close()
    padded = caption.texts(broken, tokenizer, GRID, [*requests[:2], bad, *requests[3:6]])
    assert isinstance(padded.pop(2), ScoreError)
    assert padded == [*generated[:2], *generated[3:6]]
    drawn = [replace(one, temperature=0.7) for one in (requests[0], bad)]
    kinds = [type(one) for one in caption.texts(broken, tokenizer, GRID, drawn)]
    assert kinds == [Caption, ScoreError]


class ReadsBeyond(Decoder):
    """Attends as the kernel for Hopper: what is no number behind a prompt is none in it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.attention, self._attention = "hopper", self._beyond

    @staticmethod
    def _beyond(q: Any, k: Any, v: Any, parts: attention.Segments) -> torch.Tensor:
        found = attention.by_sdpa(q, k, v, parts)
        for start, length in zip(parts.starts, parts.lengths, strict=True):
            found[start : start + length] += 0 * v[start + length : start + length + 128].sum()
        return found


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_neighbour_without_numbers_fails_alone(
    spoilt: tuple[Any, int], tokenizer: Tokenizer, requests: list[CaptionRequest], temperature: float
) -> None:
    broken, odd = spoilt
    asked = [replace(one, temperature=temperature, seed=place) for place, one in enumerate(requests[:6])]
    asked[2] = replace(asked[2], token_ids=(odd, *asked[2].token_ids))
    found = {}
    for decoder in (Decoder, ReadsBeyond):
        one = Made(broken, tokenizer, 6, decoder=decoder)
        futures = [one.generator.submit(request) for request in asked]
        assert isinstance(futures.pop(2).exception(PATIENCE_S), ScoreError)
        found[decoder] = [future.result(PATIENCE_S) for future in futures]
        one.generator.close()
    assert found[ReadsBeyond] == found[Decoder]


def test_a_picture_seen_again_is_not_computed_again(
    vision_model: Any, made: Any, requests: list[CaptionRequest], generated: list[Caption]
) -> None:
    one = made(3)
    pictures = []

    class Counting(Tower):
        def __call__(self, images: Any) -> list[torch.Tensor]:
            pictures.append(len(images))
            return super().__call__(images)

    one.sight._tower = Counting(vision_model, GRID)
    assert one.answers(requests[:6]) == generated[:6]
    first = sum(pictures)
    again = [replace(request, token_ids=(*request.token_ids[:-1], 5)) for request in requests[:6]]
    one.answers(again)
    assert first == sum(pictures) == len({r.image.jpeg for r in requests[:6] if r.image})


@pytest.mark.parametrize("temperature", [1e-38, 1e-320])
def test_the_coldest_draw_is_the_likeliest(
    made: Any,
    vision_model: Any,
    tokenizer: Tokenizer,
    requests: list[CaptionRequest],
    generated: list[Caption],
    temperature: float,
) -> None:
    cold = [replace(request, temperature=temperature) for request in requests[:3]]
    assert made(2).answers(cold) == generated[:3]
    assert caption.caption(vision_model, tokenizer, GRID, cold) == generated[:3]


def test_a_finished_row_makes_room_for_another(made: Any, requests: list[CaptionRequest]) -> None:
    one = made(4)
    one.answers(requests)
    assert one.decoders == [(4, one.decoders[0][1])]
    lengths = [rows for rows in one.forwards if rows > 4]  # prompts entering
    assert len(lengths) > 2


class WholeOnCpu(Decoder):
    """Computes all slots in a step, as on a GPU, where a graph could hold it if `fault` were none."""

    fault: type[RuntimeError] = RuntimeError

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.whole = True

    def capture(self) -> Any:
        raise self.fault("operation failed due to a previous error during capture\nmore of it")

    def _advance(self, where: torch.Tensor | None, host: Any) -> torch.Tensor:
        if where is None:
            lengths = [int(length) + 1 for length in self._lengths]
            where, host = torch.arange(self.cache.slots), list(enumerate(lengths))
        return super()._advance(where, host)


@pytest.mark.parametrize("uncaptured", ["", "products wait for the device"], ids=["refused", "not tried"])
def test_a_step_without_a_graph_runs_eagerly(
    made: Any, requests: list[CaptionRequest], generated: list[Caption], uncaptured: str, said: list[str]
) -> None:
    one = made(3, decoder=WholeOnCpu, uncaptured=uncaptured)
    assert one.answers(requests) == generated
    reason = uncaptured or "operation failed due to a previous error during capture"
    assert said == [f"torch: summaries are written without a CUDA graph ({reason})"]


def test_a_graph_without_memory_takes_fewer_slots(made: Any, requests: list[CaptionRequest]) -> None:
    class NoMemory(WholeOnCpu):
        fault = torch.OutOfMemoryError

    with pytest.raises(MachineError, match="too little memory for one summary"):
        made(4, decoder=NoMemory).answers(requests[:4])


def test_slots_grow_for_a_longer_request(
    made: Any, requests: list[CaptionRequest], generated: list[Caption]
) -> None:
    one = made(4)
    longer = replace(requests[1], max_new_tokens=400)
    assert one.answers([requests[0]]) == generated[:1]
    assert one.answers([longer, requests[2]]) == [generated[1], generated[2]]
    assert len(one.decoders) == 2
    assert one.decoders[0][1] < one.decoders[1][1]


def test_a_longer_request_that_comes_meanwhile_waits(
    vision_model: Any, tokenizer: Tokenizer, requests: list[CaptionRequest], generated: list[Caption]
) -> None:
    """One that comes while slots are made for others would reach into the slots beside its own."""
    longer = replace(requests[0], max_new_tokens=requests[0].max_new_tokens + 256)
    late: list[Future[Caption]] = []

    class Slow(Made):
        def make(self, slots: int, rows: int) -> Decoder:
            if not late:
                late.extend(self.generator.submit(one) for one in (longer, *requests[2:4]))
            return super().make(slots, rows)

    made = Slow(vision_model, tokenizer, 4)
    first = made.generator.submit(requests[1])
    found = [first.result(PATIENCE_S), *(one.result(PATIENCE_S) for one in late)]
    made.generator.close()
    assert [one.text for one in found] == [generated[place].text for place in (1, 0, 2, 3)]
    assert [rows for _, rows in made.decoders] == sorted({rows for _, rows in made.decoders})
    assert len(made.decoders) == 2


def test_an_answer_cut_off_says_so(made: Any, requests: list[CaptionRequest]) -> None:
    (answer,) = made(2).answers([replace(requests[0], max_new_tokens=3)])
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 3)


def test_a_text_without_an_image(made: Any, vision_model: Any, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>user\na blue mug<|im_end|>\n<|im_start|>assistant\n")
    request = CaptionRequest("", "", ids, None, 12)
    assert made(2).answers([request]) == caption.caption(vision_model, tokenizer, GRID, [request])


@pytest.mark.slow
@pytest.mark.parametrize("fails", [{0: 1}, {3: 2}, {0: 3}, {2: 1, 9: 1}])
def test_out_of_memory_loses_nobody(
    made: Any, requests: list[CaptionRequest], generated: list[Caption], fails: dict[int, int]
) -> None:
    one = made(8, fails=fails)
    assert one.answers(requests) == generated
    sizes = [slots for slots, _ in one.decoders]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 8 >> sum(fails.values())


def test_memory_that_never_suffices_fails_those_who_wait(made: Any, requests: list[CaptionRequest]) -> None:
    with pytest.raises(MachineError, match="too little memory"):
        made(2, fails={0: 10_000}).answers(requests[:3])


def test_a_seeded_sample_ignores_its_batch(
    made: Any, requests: list[CaptionRequest], generated: list[Caption]
) -> None:
    seeded = [replace(request, temperature=4.0, seed=number) for number, request in enumerate(requests[:6])]
    alone = made(1).answers(seeded)
    together = made(8).answers([*seeded, *requests[6:]])
    assert together == [*alone, *generated[6:]]
    assert alone != generated[:6]


def test_samples_without_a_seed_differ(made: Any, requests: list[CaptionRequest]) -> None:
    drawn = made(8).answers([replace(requests[0], temperature=3.0)] * 8)
    assert len({one.text for one in drawn}) > 1


def test_a_cancelled_request_is_not_begun(made: Any, requests: list[CaptionRequest]) -> None:
    one = made(1)
    first, second, third = (one.generator.submit(request) for request in requests[:3])
    assert second.cancel() or second.done()
    assert first.result(PATIENCE_S)
    assert third.result(PATIENCE_S)


def test_who_waits_when_it_closes_is_told(made: Any, requests: list[CaptionRequest]) -> None:
    one = made(1)
    futures = [one.generator.submit(request) for request in requests]
    one.generator.close()
    assert all(future.done() for future in futures)  # its thread has ended
    for future in futures:
        with suppress(CancelledError):
            assert future.result(PATIENCE_S)


def test_positions_are_those_of_transformers(vision_model: Any, requests: list[CaptionRequest]) -> None:
    image = vision_model.config.image_token_id
    for request in requests[:4]:
        assert request.image is not None
        rows, columns = request.image.sent_height // 16, request.image.sent_width // 16
        ids = torch.tensor([request.token_ids])
        sizes = torch.tensor([[1, rows, columns]])
        expected, delta = vision_model.model.get_rope_index(
            ids, image_grid_thw=sizes, **compat.image_inputs(ids, image)
        )
        found = rotary_positions(np.array(request.token_ids) == image, [(rows, columns)])
        assert found.tolist() == expected[:, 0].tolist()
        assert found.max() + 1 - len(request.token_ids) == int(delta)


@pytest.mark.parametrize("kind", ["text", "images"])
def test_tables_are_contiguous_for_the_kernels(vision_model: Any, kind: str) -> None:
    rotary = Network(vision_model, Ops()).rotary
    positions = torch.arange(9) if kind == "text" else torch.arange(27).view(3, 9)
    assert all(table.is_contiguous() for table in rotary.tables(positions))


def test_the_tower_sees_what_transformers_sees(vision_model: Any, requests: list[CaptionRequest]) -> None:
    images = [request.image for request in requests[:5] if request.image]
    given = caption.image_arguments(vision_model, GRID, images, torch.zeros(1, 1, dtype=torch.long))
    with torch.inference_mode():
        found = Tower(vision_model, GRID)([caption.pixels(image) for image in images])
        expected = vision_model.model.visual(given["pixel_values"], grid_thw=given["image_grid_thw"])
    if not isinstance(expected, tuple):  # transformers 5
        expected = (expected.pooler_output, expected.deepstack_features)
    for one, other in zip(found, [expected[0], *expected[1]], strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_the_tower_batches_images_without_mixing_them(
    vision_model: Any, requests: list[CaptionRequest]
) -> None:
    images = [caption.pixels(request.image) for request in requests if request.image]
    tower = Tower(vision_model, GRID)
    with torch.inference_mode():
        together = tower(images)
        apart = [tower([image]) for image in images]
    for place, tokens in enumerate(together):
        assert torch.allclose(tokens, torch.cat([one[place] for one in apart]), atol=1e-5)
