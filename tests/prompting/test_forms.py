"""`--schema`: the subset that is read, the bounds that hold, and what is an answer of one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer as PlainTokenizer
from tokenizers.models import BPE

from tests.loopback import TOKENIZER
from tgi_stack.backends.scripted import summary_of
from tgi_stack.errors import AnswerError, UsageError
from tgi_stack.prompting.forms import compact, data_of, digest_of, form_of, new_tokens, read_form
from tgi_stack.prompting.ordinary_text import SAMPLES, tokens_a_character
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.settings import Settings


def of_characters(alphabet: str) -> Tokenizer:
    """A vocabulary with a token for each of these characters, and for each byte of any other one."""
    tokens = [*(f"<0x{byte:02X}>" for byte in range(256)), *alphabet]
    model = BPE({token: id for id, token in enumerate(tokens)}, [], byte_fallback=True)
    return Tokenizer.of(PlainTokenizer(model).to_str().encode())


BYTES = of_characters("")
A_CHARACTER = of_characters("".join({*"".join(SAMPLES.values())}))
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=6)


def bounded(kind: str, least: str, most: str, top: int) -> st.SearchStrategy[dict[str, Any]]:
    pairs = st.tuples(st.integers(0, top), st.integers(0, top)).map(sorted)
    both = pairs.map(lambda pair: {"type": kind, least: pair[0], most: pair[1]})
    return both | st.just({"type": kind}) | st.integers(0, top).map(lambda low: {"type": kind, least: low})


LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    bounded("string", "minLength", "maxLength", 12),
    bounded("integer", "minimum", "maximum", 1000),
    st.sampled_from([{"type": "number"}, {"type": "boolean"}, {"type": "null"}, {"const": "x"}]),
    st.lists(NAMES | st.booleans() | st.none() | st.integers(-9, 9), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
)


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    @st.composite
    def made(draw: st.DrawFn) -> dict[str, Any]:
        properties = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=3))
        required = [name for name in properties if draw(st.booleans())]
        return {"type": "object", "properties": properties, "required": required, "title": "any"}

    return made()


def arrays(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    pairs = st.tuples(st.integers(0, 3), st.integers(0, 3)).map(sorted)
    return st.tuples(pairs, inner).map(
        lambda drawn: {
            "type": "array", "minItems": drawn[0][0], "maxItems": drawn[0][1], "items": drawn[1],
        }
    )  # fmt: skip


SCHEMAS = objects(st.recursive(LEAVES, lambda inner: objects(inner) | arrays(inner), max_leaves=4))


@given(schema=SCHEMAS, number=st.integers(0, 2**64))
def test_any_schema_of_the_subset_is_read(schema: dict[str, Any], number: int) -> None:
    form = read_form(json.dumps(schema))
    assert read_form(form) == form
    Draft202012Validator.check_schema(json.loads(form))
    text = summary_of(number, form)
    value = data_of(text, form, cut=False)
    assert Draft202012Validator(schema).is_valid(value)  # no bound of ours lets in what the file does not
    assert len(compact(value)) < new_tokens(form, A_CHARACTER) or new_tokens(form, A_CHARACTER) == 1024


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "string"}, "an answer is an object"),
        ({"enum": ["a", "b"]}, "an answer is an object, not one of fixed values"),
        ({"const": None}, "an answer is an object"),
        ({"type": "object", "properties": {"a": {"enum": [float("1e400")]}}}, "JSON"),
        (
            {"type": "object", "properties": {"a": {"type": "integer", "enum": [1.0, "b"]}}},
            "`a`: 'b' is not of",
        ),
        ({"type": "object", "properties": {"a": {"type": "number", "const": True}}}, "True is not of `type`"),
        ({"type": "object", "properties": {"a": {"type": {}, "const": 1}}}, "1 is not of `type`"),
        ({"$ref": "#/x"}, "`type` is None"),
        ({"type": "object", "properties": {}}, "`properties`: name at least one"),
        ({"type": "object", "properties": {"a": {"anyOf": []}}}, "`type` at `a` is None"),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}, "`pattern` at `a`"),
        ({"type": "object", "properties": {"a": {"type": ["string", "null"]}}}, "`type` at `a`"),
        ({"type": "object", "properties": {"a": {"type": "array"}}}, "a schema is an object at `a[]`"),
        ({"type": "object", "properties": {"a": {"type": "string", "maxLength": -1}}}, "`maxLength` at `a`"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "minLength": 3, "maxLength": 2}}},
            "`minLength` is more than `maxLength` at `a`",
        ),
        ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0.5}}}, "`minimum` at `a`"),
        ({"type": "object", "properties": {"a": {"enum": [[]]}}}, "`enum` at `a`"),
        ({"type": "object", "properties": {"a": {"enum": []}}}, "`enum` at `a`"),
        ({"type": "object", "properties": {"a": True}}, "a schema is an object at `a`"),
        ({"type": "object", "properties": {"a": {"const": 1}}, "required": ["b"]}, "`required`"),
        ({"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": True}, "`additional"),
        ({"type": "object", "properties": {"a": {"const": 1}}, "oneOf": []}, "`oneOf`"),
    ],
)
def test_others_are_refused_by_name(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_form(json.dumps(schema))
    assert said in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{" * 100_000, '{"type": NaN}'])
def test_what_is_no_schema_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "s.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"s\.json"):
        read_form(str(file))
    with pytest.raises(UsageError, match=r"none\.json"):
        read_form(str(tmp_path / "none.json"))


def test_depth_and_size_have_bounds() -> None:
    deep: dict[str, Any] = {"const": 1}
    for _ in range(9):
        deep = {"type": "object", "properties": {"a": deep}}
    with pytest.raises(UsageError, match="more than 8 levels"):
        read_form(json.dumps(deep))
    with pytest.raises(UsageError, match="at most 65,536"):
        read_form(json.dumps({"type": "object", "properties": {"a" * 70_000: {"const": 1}}}))


@pytest.mark.parametrize(
    ("text", "cut", "type"),
    [
        ('{"a":"x"}', False, None),
        (' {"a": "x"}\n', True, None),  # whole, though it took all of its budget
        ('{"a":"x"', True, "schema.truncated"),
        ('{"a":"x"', False, "schema.invalid"),
        ('{"a":"xyz"}', False, "schema.invalid"),
        ('{"a":"x","b":1}', False, "schema.invalid"),
        ('{"a":"x","a":"y"}', False, "schema.invalid"),
        ("{}", False, "schema.invalid"),
        ("a mug", False, "schema.invalid"),
        ("[" * 100_000, False, "schema.invalid"),
        ('{"a":NaN}', False, "schema.invalid"),
    ],
)
def test_what_is_an_answer(text: str, cut: bool, type: str | None) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 2}}, "required": ["a"]}
    form = read_form(json.dumps(schema))
    if type is None:
        assert data_of(text, form, cut=cut) == {"a": "x"}
        return
    with pytest.raises(AnswerError) as failed:
        data_of(text, form, cut=cut)
    assert failed.value.type == type


def test_small_budget_is_said(said: list[str]) -> None:
    assert form_of(Settings()) is None
    assert form_of(Settings.model_validate({"schema": "catalogue"})) == read_form("catalogue")
    assert said == []
    form_of(Settings.model_validate({"schema": "catalogue", "max_new_tokens": 50}))
    assert "the longest answer of --schema has 720 characters" in said[0]


@pytest.mark.parametrize(("tokenizer", "rate"), [(BYTES, 3.0), (A_CHARACTER, 1.0)])
def test_budget_counts_tokens_of_ordinary_text(tokenizer: Tokenizer, rate: float) -> None:
    assert tokens_a_character(tokenizer) == pytest.approx(rate, abs=0.1)
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 50}}}
    longest = len('{"a":""}') + 50
    budget = new_tokens(read_form(json.dumps(schema)), tokenizer)
    assert budget == math.ceil(longest * tokens_a_character(tokenizer)) + 1
    assert new_tokens(read_form("catalogue"), BYTES) == 1024


@pytest.mark.parametrize("script", SAMPLES)
def test_longest_ordinary_answer_fits_the_budget(script: str) -> None:
    text = SAMPLES[script]
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": len(text)}}}
    for tokenizer in (TOKENIZER, BYTES):
        answer = tokenizer.encode(compact({"a": text}))
        assert len(answer) < new_tokens(read_form(json.dumps(schema)), tokenizer)


def test_keys_tell_schemas_apart() -> None:
    one, two = (read_form(json.dumps({"type": "object", "properties": {n: {"const": 1}}})) for n in "ab")
    assert digest_of(one) != digest_of(two)
