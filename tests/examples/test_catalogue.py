"""The example catalogue is what a shop's folder looks like: formats, turns, greys, sizes; and it is whole."""

from __future__ import annotations

import json
from collections import Counter

from PIL import ExifTags, Image

from draw_catalogue import look_schema
from session_data import draw_session
from tests.conftest import CATALOGUE, read_records
from tgi_stack.prompting.forms import data_of, read_form

IMAGES = sorted((CATALOGUE / "images").iterdir())


def test_the_images_are_as_various_as_a_shops() -> None:
    formats, modes, turned, longest = Counter[str](), Counter[str](), 0, []
    for path in IMAGES:
        with Image.open(path) as image:
            formats[str(image.format)] += 1
            modes[image.mode] += 1
            turned += image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            longest.append(max(image.size))
    assert len(IMAGES) >= 60
    assert formats.keys() == {"JPEG", "PNG", "WEBP"}
    assert modes["CMYK"] == 1
    assert modes["RGBA"] >= 1
    assert modes["L"] >= 2
    assert turned >= 5
    assert (min(longest), max(longest)) == (200, 2000)
    assert sum(path.stat().st_size for path in IMAGES) < 6 * 10**6


def test_labels_are_the_truth_as_data() -> None:
    looks = {row.pop("id"): row for row in read_records(CATALOGUE / "looks.jsonl")}
    labels = {row["id"]: row["data"] for row in read_records(CATALOGUE / "labels.jsonl")}
    assert labels == looks
    file = CATALOGUE / "look.schema.json"
    assert json.loads(file.read_text()) == look_schema()
    for data in labels.values():
        assert data_of(json.dumps(data), read_form(str(file)), cut=False) == data


def test_every_session_has_one_candidate_of_its_taste() -> None:
    looks = {row["id"]: row for row in read_records(CATALOGUE / "looks.jsonl")}
    items = {row["id"] for row in read_records(CATALOGUE / "items.jsonl")}
    assert items == {path.name for path in IMAGES} == set(looks)
    for session in read_records(CATALOGUE / "sessions.jsonl"):
        assert 5 <= len(session["candidates"]) <= 20
        taken = looks[session["positive"]]
        alike = [
            id
            for id in session["candidates"]
            if all(looks[id][side] == taken[side] for side in ("category", "colour"))
        ]
        assert alike == [session["positive"]]


def test_drawn_sessions_have_one_right_answer() -> None:
    import random

    for index in range(200):
        rng = random.Random(index)
        session = draw_session(rng, rng.randint(2, 52), None if index % 5 == 0 else rng.randint(3, 20))
        fitting = [
            place
            for place, look in enumerate(session.candidate_looks)
            if (look.category, look.colour) == session.taste
        ]
        assert fitting == [session.answer]
        for side, value in zip(("category", "colour"), session.taste, strict=True):
            past = [getattr(look, side) for look in session.history_looks]
            assert not past or 2 * past.count(value) > len(past)
