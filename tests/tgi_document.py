"""What TGI takes and answers: by its OpenAPI document, and by the package text-generation where it is there.

The loopback server holds each request and each reply to both, so every test that talks to it does.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

# From TGI 3.3.7's OpenAPI document: the schemas of /generate and /info.
SCHEMA = json.loads((Path(__file__).parent / "payloads" / "tgi-3.3.7-generate.schema.json").read_text())
PACKAGE = find_spec("text_generation") is not None


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(SCHEMA | {"$ref": f"#/$defs/{name}"})


def conforms(value: Any, name: str) -> bool:
    """Raises ValidationError for what is not as the document has it."""
    _validator(name).validate(value)
    return True


def takes(body: dict[str, Any]) -> bool:
    """Whether TGI takes a request; raises ValidationError, or AssertionError for unknown names."""
    conforms(body, "GenerateRequest")
    unknown = set(body["parameters"]) - set(SCHEMA["$defs"]["GenerateParameters"]["properties"])
    assert set(body) == {"inputs", "parameters"}
    assert not unknown, f"TGI knows no {unknown}"
    if PACKAGE:
        types: Any = import_module("text_generation.types")
        asked = types.Request(**body)
        assert asked.parameters.model_dump(mode="json", exclude_unset=True) == body["parameters"]
    return True


def answers(body: dict[str, Any]) -> bool:
    """Whether a reply is one that TGI gives; see `takes`."""
    conforms(body, "GenerateResponse")
    if PACKAGE:
        types: Any = import_module("text_generation.types")
        read = types.Response(**body).model_dump(mode="json", exclude_unset=True)
        assert read == body
    return True
