"""Without a team's key whoever knows a question can plant a value; what is none of its kind is a miss."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import kinds
from cache.store import Store
from cache.tier.values import Seals
from tests.loopback import TOKENIZER
from tests.tier.conftest import Running
from tests.tier.machines import asked, from_cache, plain, records
from tgi_stack.answers.contexts import TokenAnswers
from tgi_stack.answers.images import ImageCodec, without_pixels
from tgi_stack.answers.kept import Codec
from tgi_stack.answers.summaries import SummaryCodec
from tgi_stack.answers.tables import LabelTable
from tgi_stack.types import Caption, PreparedImage

REFUSALS = (ValueError, KeyError, TypeError, RecursionError, struct.error)
TABLE = LabelTable(("A", "B", "C"), (-1.0, -2.0, -3.0), "vocabulary", True, 0.55, "torch", 9, ())
IMAGE = PreparedImage(b"\xff\xd8 \xff\xd9", "ab" * 32, 64, 32, 64, 32, ("image.small",))
CAPTION = Caption("A chair.", "stop", "torch", 9, 3, attempts=0, image=IMAGE, from_cache=True)
JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def table(logprobs: tuple[float, ...] = (-1.0, -2.0, -3.0), **changes: Any) -> bytes:
    return LabelTable.encode(TABLE._replace(logprobs=logprobs, **changes))


def headed(*changes: tuple[int, Any]) -> bytes:
    head: list[Any] = [["A", "B", "C"], "vocabulary", True, "torch", [], False, False]
    for place, value in changes:
        head[place] = value
    told = json.dumps(head).encode()
    return struct.pack("<IQd", len(told), 9, 0.55) + told + struct.pack("<3d", -1.0, -2.0, -3.0)


WRONG_TABLES = {
    "nan": table((-1.0, math.nan, -3.0)),
    "infinite": table((-1.0, -math.inf, -3.0)),
    "above zero": table((-1.0, 0.5, -3.0)),
    "fewer": table()[:-8],
    "more": table() + b"12345678",
    "mass above one": table(mass=1.5),
    "mass below zero": table(mass=-0.1),
    "mass nan": table(mass=math.nan),
    "long prompt": table(prompt_tokens=2**40),
    "labels of numbers": headed((0, [1, 2, 3])),
    "labels as text": headed((0, "ABC")),
    "labels of lists": headed((0, [["A"], ["B"], ["C"]])),
    "a label twice": headed((0, ["A", "A", "C"])),
    "a lone surrogate": headed((0, ["A", "\ud800", "C"])),
    "another way": headed((1, "somehow")),
    "exact as text": headed((2, "yes")),
    "route as number": headed((3, 7)),
    "flags as text": headed((4, "abc")),
    "deep": struct.pack("<IQd", 200_000, 9, 0.5) + b"[" * 200_000,
    "nothing": b"",
}


def test_planted_tables_change_no_record(server: Running, tmp_path: Path) -> None:
    rows = asked(tmp_path / "rows.jsonl", range(len(WRONG_TABLES)))
    expected = plain(records(rows, tmp_path / "none"))
    records(rows, tmp_path / "first", cache_tier=server.url)
    plant(server, tmp_path / "first", list(WRONG_TABLES.values()))
    found = records(rows, tmp_path / "second", cache_tier=server.url)
    assert plain(found) == expected
    believed = [name for name, record in zip(WRONG_TABLES, found, strict=True) if record["from_cache"]]
    assert len(believed) == 0
    third = records(rows, tmp_path / "third", cache_tier=server.url)
    assert plain(third) == expected
    assert from_cache(third) == len(WRONG_TABLES)  # what was planted is replaced


def plant(server: Running, cache: Path, payloads: list[bytes]) -> None:
    """Puts payloads with right digests under the keys of the readings."""
    store, seals = Store(cache), Seals(None)
    try:
        for key, payload in zip(store.keys("labels"), payloads, strict=True):
            one = seals.asked(kinds.named("labels").letter + key)
            assert server.client.exists(one.key)
            server.client.set(one.key, seals.seal(one, payload))
    finally:
        store.close()


@given(place=st.integers(0, 6), value=JUNK, mass=st.floats(), logprobs=st.lists(st.floats(), max_size=4))
@settings(deadline=None)
def test_no_junk_becomes_a_table(place: int, value: Any, mass: float, logprobs: list[float]) -> None:
    payload = headed((place, value))[: -3 * 8] + struct.pack(f"<{len(logprobs)}d", *logprobs)
    payload = payload[:12] + struct.pack("<d", mass) + payload[20:]
    try:
        found = LabelTable.decode(payload)
    except REFUSALS:
        return
    assert len(found.labels) == len(found.logprobs) > 0
    assert all(math.isfinite(one) and one <= 1e-3 for one in found.logprobs)
    assert found.mass is None or 0 <= found.mass <= 1.001
    assert all(type(text) is str for text in (*found.labels, *found.flags, found.route))
    assert found.normalised in ("vocabulary", "labels")


@given(field=st.sampled_from(["text", "finish_reason", "route", "prompt_tokens", "image"]), value=JUNK)
@settings(deadline=None)
def test_no_junk_becomes_a_summary(field: str, value: Any) -> None:
    told, seen = json.loads(SummaryCodec.encode(CAPTION))
    payload = json.dumps([told, value] if field == "image" else [told | {field: value}, seen]).encode()
    try:
        found = SummaryCodec.decode(payload)
    except REFUSALS:
        return
    assert found.text.encode()
    assert found.finish_reason in ("stop", "length")
    assert type(found.prompt_tokens) is int
    assert found.prompt_tokens >= 0
    assert found.image is None or found.image.width > 0


@pytest.mark.parametrize("codec", [LabelTable, SummaryCodec, ImageCodec])
@given(payload=st.binary(max_size=64) | JUNK.map(lambda value: json.dumps(value).encode()))
def test_bytes_that_are_nothing_are_refused(codec: Codec[Any], payload: bytes) -> None:
    with pytest.raises(REFUSALS):
        codec.decode(payload)


def test_whole_values_are_still_read() -> None:
    assert LabelTable.decode(LabelTable.encode(TABLE)) == TABLE
    assert SummaryCodec.decode(SummaryCodec.encode(CAPTION)) == replace(CAPTION, image=without_pixels(IMAGE))
    assert ImageCodec.decode(ImageCodec.encode(IMAGE)) == IMAGE


@pytest.mark.parametrize("payload", [b"", b"123", struct.pack("<2I", 3, 2**31), struct.pack("<I", 10**6)])
def test_ids_outside_the_vocabulary_are_refused(payload: bytes, tmp_path: Path) -> None:
    store, tokenizer = Store(tmp_path / "cache"), TOKENIZER
    try:
        expected = TokenAnswers(store, tokenizer).encode_prompt("A chair.", "")
        (key,) = store.keys("tokens")
        store.put("tokens", key, payload)
        assert TokenAnswers(store, tokenizer).encode_prompt("A chair.", "") == expected
        assert store.counts["tokens refused"] == 1
    finally:
        store.close()
