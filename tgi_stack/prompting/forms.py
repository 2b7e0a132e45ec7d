"""Forms of answers: `--schema`, a stated subset of JSON Schema, read strictly and made finite.

A form is the schema as one line of JSON with every bound in it: what servers and decoders are given, what
answers are held to, and what keys are made of.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tgi_stack.errors import AnswerError, UsageError
from tgi_stack.prompting.form_catalogue import CATALOGUE
from tgi_stack.prompting.ordinary_text import tokens_a_character
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.settings import Settings
from tgi_stack.text_files import TextFileError, read_text

LOG = logging.getLogger(__name__)
Schema = dict[str, Any]

BUILT_IN = "catalogue"

# What holds where a schema names no bound: an answer without one may never end.
MOST_CHARACTERS = 200
MOST_ITEMS = 8
MOST_DEPTH = 8
MOST_BYTES = 2**16

MOST_NEW_TOKENS = 1024  # that a form asks for by itself

IGNORED = {"$schema", "$id", "$comment", "title", "description", "default", "examples"}
OF_TYPE: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum"},
    "number": {"minimum", "maximum"},
    "boolean": set(),
    "null": set(),
}
NUMBER_CHARACTERS = 24
TOLD = "Answer with JSON of this schema and nothing else: "


def form_of(settings: Settings) -> str | None:
    """The form that --schema names; a budget that may cut its longest answer is said.

    Raises:
        UsageError: a file that can't be read, or no schema of the subset.
    """
    if settings.schema is None:
        return None
    form = read_form(settings.schema)
    characters = _longest(json.loads(form))
    if settings.max_new_tokens is not None and settings.max_new_tokens < min(MOST_NEW_TOKENS, characters):
        LOG.warning(
            f"--max-new-tokens {settings.max_new_tokens}: the longest answer of --schema has {characters:,} "
            "characters, and some scripts take a token for each; an answer that is cut fails its row"
        )
    return form


def read_form(name: str) -> str:
    """The form of a file, of `catalogue`, or of a schema that is given as it is.

    Raises:
        UsageError: see `formed`.
    """
    if name == BUILT_IN:
        return _canonical(_part(CATALOGUE, "", 0))
    if name.lstrip().startswith("{"):
        text, place = name, "--schema"
    else:
        place = f"--schema {name}"
        try:
            text = read_text(Path(name))
        except OSError as error:
            raise UsageError(f"{place}: {error.strerror}") from error
        except TextFileError as error:
            raise UsageError(f"{place}: {error}") from error
    if len(text) > MOST_BYTES:
        raise UsageError(f"{place}: {len(text):,} characters; at most {MOST_BYTES:,}")
    try:
        given = json.loads(text, parse_constant=_no_number)
        found = _part(given, "", 0)
        kind = found.get("type", "one of fixed values")
        if kind != "object":
            raise ValueError(f"an answer is an object, not {kind}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: {error}") from error
    return _canonical(found)


def digest_of(form: str) -> str:
    """What stands for a form in keys."""
    return hashlib.sha256(form.encode("utf-8", "surrogatepass")).hexdigest()


def new_tokens(form: str, tokenizer: Tokenizer) -> int:
    """What the longest answer takes where it is ordinary text, and one more; at most MOST_NEW_TOKENS.

    A model that writes English needs a quarter; one that can't follow the schema may write letter by letter.
    """
    return min(MOST_NEW_TOKENS, math.ceil(_longest(json.loads(form)) * tokens_a_character(tokenizer)) + 1)


def data_of(text: str, form: str, *, cut: bool) -> Any:
    """The value that an answer holds.

    Args:
        cut: whether the answer ended at its budget.

    Raises:
        AnswerError: `schema.truncated` or `schema.invalid`: it is none of the form.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        fault = _fault(value, form)
    except (ValueError, RecursionError) as error:
        fault = f"no JSON ({error})"
    if fault is None:
        return value
    if cut:
        raise AnswerError(
            "schema.truncated",
            "the answer was cut off before it was one of --schema; raise --max-new-tokens, lower the bounds, "
            "or have the server write no white space (docs/schemas.md)",
        )
    raise AnswerError("schema.invalid", f"the answer is none of --schema: {fault}")


def compact(value: Any) -> str:
    """A value as JSON without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _fault(value: Any, form: str) -> str | None:
    error = next(iter(_validator(form).iter_errors(value)), None)
    return None if error is None else f"{_place(error.absolute_path)}{error.message[:200]}"


@lru_cache(maxsize=4)
def _validator(form: str) -> Any:
    from jsonschema import Draft202012Validator  # late: runs without --schema need none

    return Draft202012Validator(json.loads(form))


def _place(path: Any) -> str:
    name = ".".join(map(str, path))
    return f"`{name}`: " if name else ""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _canonical(schema: Schema) -> str:
    # Names of properties keep their order: it is that of the answer.
    return json.dumps(schema, ensure_ascii=True, separators=(",", ":"), allow_nan=False)


# -- the subset --------------------------------------------------------------------------------------------


def _part(given: Any, place: str, depth: int) -> Schema:
    """A schema with its bounds, without what says nothing of the answers.

    Raises:
        ValueError: what is not in the subset, by its name.
    """
    here = f" at `{place}`" if place else ""
    if depth > MOST_DEPTH:
        raise ValueError(f"more than {MOST_DEPTH} levels{here}")
    if not isinstance(given, dict):
        raise ValueError(f"a schema is an object{here}, not {given!r}")
    said = {name: value for name, value in given.items() if name not in IGNORED}
    about = {"description": given["description"]} if isinstance(given.get("description"), str) else {}
    for fixed in ("enum", "const"):
        if fixed in said:
            return about | _fixed(said, fixed, here)
    kind = said.pop("type", None)
    if not isinstance(kind, str) or kind not in OF_TYPE:
        known = ", ".join(OF_TYPE)
        raise ValueError(f"`type`{here} is {kind!r}; one of {known}")
    if unknown := said.keys() - OF_TYPE[kind]:
        known = ", ".join(sorted(OF_TYPE[kind])) or "none"
        raise ValueError(f"`{min(unknown)}`{here} is not read; of {kind} there are {known}")
    if kind == "object":
        return about | _object(said, place, depth)
    if kind == "array":
        low, high = _bounds(said, "minItems", "maxItems", MOST_ITEMS, here)
        items = _part(said.get("items"), f"{place}[]", depth + 1)
        return about | {"type": kind, "items": items, "minItems": low, "maxItems": high}
    if kind == "string":
        low, high = _bounds(said, "minLength", "maxLength", MOST_CHARACTERS, here)
        return about | {"type": kind, "minLength": low, "maxLength": high}
    return about | {"type": kind} | _range(said, kind, here)


VALUES_OF_TYPE: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def _fixed(said: Schema, name: str, here: str) -> Schema:
    values = said[name] if name == "enum" else [said[name]]
    if unknown := said.keys() - {name, "type"}:
        raise ValueError(f"`{min(unknown)}` beside `{name}`{here} is not read")
    if not isinstance(values, list) or not values or any(isinstance(one, dict | list) for one in values):
        raise ValueError(f"`{name}`{here}: give strings, numbers, true, false or null")
    kinds = said.get("type", list(VALUES_OF_TYPE))
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`{name}`{here}: a number is beyond what a float holds")
        if not any(_is_of(value, kind) for kind in (kinds if isinstance(kinds, list) else [kinds])):
            raise ValueError(f"`{name}`{here}: {value!r:.40} is not of `type` {kinds!r:.80}")
    return {"enum": values}


def _is_of(value: object, kind: object) -> bool:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as JSON Schema has it
    return any(name == kind and type(value) in types for name, types in VALUES_OF_TYPE.items())


def _object(said: Schema, place: str, depth: int) -> Schema:
    here = f" at `{place}`" if place else ""
    properties, required = said.get("properties"), said.get("required", [])
    if not isinstance(properties, dict) or not properties:
        raise ValueError(f"`properties`{here}: name at least one")
    if not isinstance(required, list) or not set(map(str, required)) <= properties.keys():
        raise ValueError(f"`required`{here}: names that are not in `properties`")
    if said.get("additionalProperties", False) is not False:
        raise ValueError(
            f"`additionalProperties`{here} is false, or not there: only what is named is answered"
        )
    found = {name: _part(one, f"{place}.{name}".lstrip("."), depth + 1) for name, one in properties.items()}
    return {"type": "object", "properties": found, "required": required, "additionalProperties": False}


def _bounds(said: Schema, least: str, most: str, default: int, here: str) -> tuple[int, int]:
    low = said.get(least, 0)
    high = said.get(most, max(default, low) if type(low) is int else default)
    for name, value in ((least, low), (most, high)):
        if type(value) is not int or not 0 <= value <= MOST_BYTES:
            raise ValueError(f"`{name}`{here} is {value!r}; from 0 to {MOST_BYTES:,}")
    if low > high:
        raise ValueError(f"`{least}` is more than `{most}`{here}")
    return low, high


def _range(said: Schema, kind: str, here: str) -> Schema:
    found: Schema = {}
    for name in ("minimum", "maximum"):
        if name in said:
            value = said[name]
            if type(value) not in ((int,) if kind == "integer" else (int, float)) or not math.isfinite(value):
                raise ValueError(f"`{name}`{here} is {value!r}; give a number of the type {kind}")
            found[name] = value
    if found.get("minimum", -math.inf) > found.get("maximum", math.inf):
        raise ValueError(f"`minimum` is more than `maximum`{here}")
    return found


# -- lengths -----------------------------------------------------------------------------------------------


def _longest(schema: Schema) -> int:
    """Characters of the longest answer."""
    if "enum" in schema:
        return max(len(compact(one)) for one in schema["enum"])
    kind = schema["type"]
    if kind == "object":
        names = schema["properties"]
        return 1 + sum(len(compact(name)) + 2 + _longest(one) for name, one in names.items())
    if kind == "array":
        return int(schema["maxItems"]) * (_longest(schema["items"]) + 1) + 2
    if kind == "string":
        return int(schema["maxLength"]) + 2
    return NUMBER_CHARACTERS
