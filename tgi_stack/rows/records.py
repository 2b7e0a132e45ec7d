"""What rows and records hold: the one definition that JSON lines, Parquet and JSON schemas are made of.

A field that a record does not have and one that is null are the same.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema

from tgi_stack.errors import AnswerError
from tgi_stack.rows import jsonl

DRAFT = "https://json-schema.org/draft/2020-12/schema"
JSON = "json"  # of a column that holds any value, as text
INT64 = 2**63
REPLACED = "text.surrogate"  # a lone surrogate, which is no text, was replaced by U+FFFD

_SURROGATE = re.compile("[\ud800-\udfff]")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True, allow_inf_nan=False)


class Failure(_Part):
    """Why a row has no answer; `row` is its number in the input, from 1."""

    type: str
    message: str
    row: int


class Image(_Part):
    """The image that a summary is of: SHA-256 of the file, sizes in pixels, upright and as sent."""

    sha256: str
    width: int
    height: int
    sent_width: int
    sent_height: int


class Usage(_Part):
    """Tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Ranked(_Part):
    """A candidate's place; `spread` is its standard deviation over permutations."""

    id: str
    rank: int
    score: float
    probability: float | None = None
    logprob: float | None = None
    spread: float | None = None


class Window(_Part):
    """How many candidates a prompt held, and how far windows moved."""

    size: int
    stride: int


class Read(_Part):
    """One raw reading: natural logarithms, one a label; `prior` those of a prompt without content."""

    order: list[str]
    labels: list[str]
    logprobs: list[float]
    normalised: Literal["vocabulary", "labels"]
    label_mass: float | None = None
    prior: list[float] | None = None


class Record(_Part):
    """What the records of all jobs have."""

    id: str | None = None
    status: Literal["ok", "failed"]
    engine: str | None = None
    route: str | None = None
    model: str | None = None
    revision: str | None = None
    from_cache: bool | None = None
    flags: list[str] | None = None
    attempts: int | None = None
    usage: Usage | None = None
    error: Failure | None = None


class SummarizeRecord(Record):
    """A record of `summarize`; `data` is what the summary holds, with --schema, in Parquet as JSON text."""

    summary: str | None = None
    data: dict[str, Any] | None = None
    finish_reason: str | None = None
    image: Image | None = None


class RerankRecord(Record):
    """A record of `rerank`."""

    ranking: list[Ranked] | None = None
    window: Window | None = None
    label_mass: float | None = None
    exact: bool | None = None
    reads: list[Read] | None = None
    positive: list[str] | None = None


class ProbsRecord(Record):
    """A record of `probs`."""

    labels: list[str] | None = None
    probabilities: list[float] | None = None
    logprobs: list[float] | None = None
    label_mass: float | None = None
    exact: bool | None = None


# -- rows ----------------------------------------------------------------------------------------------------


class _Input(BaseModel):
    """What is read; `rows.schema` reads it, and fields that nobody asks for are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True, defer_build=True)


Id = Annotated[str, Field(min_length=1)] | int


class Picture(_Input):
    """An image's path, or in Parquet its bytes; or what a record of `summarize` says of one."""

    path: str | None = None
    bytes: str | None = None
    sha256: str | None = None


class ItemInput(_Input):
    """An item, as a line of ITEMS or written out in a row; a record of `summarize` is one, too."""

    id: Id
    title: str | None = None
    text: str | None = None
    summary: str | None = None
    data: Any = Field(
        None, description="an object, or one as JSON text; whatever else stands there counts as none"
    )
    image: str | Picture | None = None
    status: str | None = None


class SummarizeInput(_Input):
    """A row of `summarize`; its image is a path, relative to the file."""

    id: Id
    image: str | Picture | None = None
    title: str | None = None
    text: str | None = None


class RerankInput(_Input):
    """A row of `rerank`: candidates, each once, and either a history or a query."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["history"], "properties": {"history": {"type": "array"}}},
                {"required": ["query"], "properties": {"query": {"type": "string"}}},
            ]
        }
    )

    id: Id
    candidates: list[Id | ItemInput] = Field(min_length=1)
    history: list[Id | ItemInput] | None = None
    query: str | None = None
    positive: Id | list[Id] | None = None


class ProbsInput(_Input):
    """A row of `probs`; its id is the row's number where there is none."""

    id: Id = ""
    prompt: str
    labels: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    num_candidates: Annotated[int, Field(ge=1)] | None = None


ROWS: dict[str, type[_Input]] = {
    "summarize": SummarizeInput,
    "rerank": RerankInput,
    "probs": ProbsInput,
    "item": ItemInput,
}

RECORDS: dict[str, type[Record]] = {
    "summarize": SummarizeRecord,
    "rerank": RerankRecord,
    "probs": ProbsRecord,
}


def as_id(found: object) -> str | None:
    """An id as it stands in records: integers as their decimal digits; None for what is no id."""
    if type(found) is int:
        return str(found)
    return found if isinstance(found, str) and found and not _SURROGATE.search(found) else None


def json_schema(name: str, only: str | None = None) -> dict[str, Any]:
    """The JSON schema of a job's rows and records, or of items.

    Args:
        name: a job's, or `item`.
        only: `row` or `record`; either will do without it.
    """
    shapes: dict[str, type[BaseModel]] = {"row": ROWS[name]}
    if name in RECORDS:
        shapes["record"] = RECORDS[name]
    chosen = [(shape, "validation") for kind, shape in shapes.items() if only in (None, kind)]
    _, definitions = models_json_schema(chosen, ref_template="#/$defs/{model}")  # type: ignore[arg-type]
    refs = [{"$ref": f"#/$defs/{shape.__name__}"} for shape, _ in chosen]
    whole = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"$schema": DRAFT, "title": f"fastqwen {name}", **whole, "$defs": definitions["$defs"]}


def fault_in(job: str, record: dict[str, Any]) -> str | None:
    """What of a record is not as a job's records are, with its place.

    Fields of others' own, and those that are not there, are no fault.
    """
    try:
        RECORDS[job].model_validate(record)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            if one["type"] not in ("extra_forbidden", "missing"):
                return f"`{'.'.join(map(str, one['loc']))}`: {one['msg']}"
    return None


def described(model: type[BaseModel]) -> dict[str, Any]:
    """A model as nested plain names: `string`, `int64`, `double`, `bool`, `json`, [one] for lists."""
    return {name: _described(field.annotation) for name, field in model.model_fields.items()}


def _described(annotation: Any) -> Any:
    simple = {str: "string", int: "int64", float: "double", bool: "bool"}
    if annotation in simple:
        return simple[annotation]
    if get_origin(annotation) is dict:
        return JSON
    if get_origin(annotation) is list:
        return [_described(get_args(annotation)[0])]
    if get_origin(annotation) is Literal:
        return "string"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return described(annotation)
    inner = [one for one in get_args(annotation) if one is not type(None)]
    if len(inner) != 1:
        raise TypeError(f"no column holds {annotation}")
    return _described(inner[0])


def whole(job: str, record: dict[str, Any]) -> dict[str, Any]:
    """A record as a row of a table: every field that the job's records may have, None where it has none.

    What holds any value is JSON text there, as in Parquet.
    """
    found: dict[str, Any] = _whole(record, described(RECORDS[job]))
    return found


def _whole(value: Any, shape: Any) -> Any:
    if value is None:
        return None
    if isinstance(shape, dict):
        return {name: _whole(value.get(name), inner) for name, inner in shape.items()}
    if isinstance(shape, list):
        return [_whole(inner, shape[0]) for inner in value]
    return json_text(value) if shape == JSON else value


def without_null(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the fields that are null; what holds any value stays as it is."""
    return {
        name: inner if name in ANY else _without_null(inner)
        for name, inner in record.items()
        if inner is not None
    }


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_null(inner) for name, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value


def json_text(value: Any) -> str:
    """A value of a column that holds any."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Written(NamedTuple):
    """A record as every sink can hold it, and its line, as `jsonl.dumps` writes it."""

    record: dict[str, Any]
    line: bytes


def written(record: dict[str, Any]) -> Written:
    """A record as every sink can hold it: lone surrogates are replaced and flagged.

    Raises:
        AnswerError: a number that is not finite, or a count beyond 64 bits.
    """
    try:
        line = orjson.dumps(record, option=orjson.OPT_STRICT_INTEGER | orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer beyond 53 bits
        record = _mended(record)
        return Written(record, jsonl.dumps(record))
    if b"null" in line and not jsonl.is_finite(record):
        _check_numbers(record)
    return Written(record, jsonl.in_one_line(line))


def _mended(record: dict[str, Any]) -> dict[str, Any]:
    try:
        orjson.dumps(record)
    except orjson.JSONEncodeError:
        record = _as_text(record)
        record["flags"] = [*record.get("flags", ()), REPLACED]
    _check_numbers(record)
    return record


def _as_text(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {name: _as_text(inner) for name, inner in value.items()}
    return [_as_text(inner) for inner in value] if isinstance(value, list | tuple) else value


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict):
        for inner in value.values():
            _check_numbers(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_numbers(inner)
    elif isinstance(value, int) and not -INT64 <= value < INT64:
        raise AnswerError("server.bad_response", "a count beyond 64 bits")
    elif isinstance(value, float) and not jsonl.is_finite(value):
        raise AnswerError("server.bad_response", f"{value} is no number")


# The fields that hold any value.
ANY = frozenset(name for model in RECORDS.values() for name, kind in described(model).items() if kind == JSON)
