"""What all dialects share: a question as it is sent, and the ways in which a reply is no answer."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.redaction import redact
from tgi_stack.rows import jsonl

SHOWN = 200  # characters
READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a path and a JSON body.

    `tokens` is how many the server computes at most, from which its deadline follows.
    """

    path: str
    body: dict[str, Any]
    tokens: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """A model that an endpoint says it has.

    `context` in tokens, prompt and answer together; `longest_prompt` where the prompt has a limit of its own;
    `parent` the root of the model that an adapter is of; `fault` why it can't be used, where it can't.
    `tokenizer` is where its tokenizer is from; `weights` the version of weights that can be swapped while it
    runs; `quantization` and `dtype` where it tells them; `shares_passes` where several prompts are read in
    one pass, which counts their tokens otherwise.
    """

    dialect: str
    model: str
    root: str
    version: str
    context: int
    revision: str | None = None
    longest_prompt: int | None = None
    parent: str | None = None
    fault: str | None = None
    tokenizer: str | None = None
    weights: str | None = None
    quantization: str | None = None
    dtype: str | None = None
    shares_passes: bool = False

    def goes_by(self, name: str) -> bool:
        """Whether a --model argument means this one."""
        return name in (self.model, self.root) or name == self.root.rstrip("/").rpartition("/")[2]


class ForeignReplyError(ReplyError):
    """A sound reply, to another request."""


class MismatchError(ReplyError):
    """The reply to this very request, of a server that counts its tokens otherwise: it will each time.

    Attributes:
        counted, sent: the prompt's tokens there and here, where both are known.
    """

    def __init__(self, detail: str, counted: int | None = None, sent: int | None = None) -> None:
        super().__init__(detail)
        self.counted = counted
        self.sent = sent


class OtherWeightsError(ReplyError):
    """A sound reply, of weights that were put in the place of those that the run began with."""


def json_object(body: bytes) -> dict[str, Any]:
    """The object that a reply holds.

    Raises:
        ReplyError: it holds none.
    """
    quick = jsonl.quick(body)
    if quick is not None:
        return quick
    try:
        value = json.loads(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ReplyError(f"no JSON: {shown(body)}") from error
    if not isinstance(value, dict):
        raise ReplyError(f"no JSON object: {shown(body)}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a name that stands twice nobody can tell which value is meant."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name that stands twice")
    return made


def an_object(value: Any) -> dict[str, Any]:
    """Raises ReplyError for what is none."""
    if not isinstance(value, dict):
        raise ReplyError(f"{type(value).__name__} where an object belongs")
    return value


def a_list(value: Any, length: int | None = None) -> list[Any]:
    """Raises ReplyError for what is none, or none of this length."""
    if not isinstance(value, list):
        raise ReplyError(f"{type(value).__name__} where a list belongs")
    if length is not None and len(value) != length:
        raise ReplyError(f"{length} were asked for, not {len(value)}")
    return value


def a_text(value: Any) -> str:
    """Raises ReplyError for what is none."""
    if not isinstance(value, str):
        raise ReplyError(f"{type(value).__name__} where a text belongs")
    return value


# Errors by the types that TGI, vLLM, SGLang and gateways give them.
_STATUS_OF_TYPE = {
    "validation": 422,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "generation": 424,
    "overloaded": 429,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 503,
}


def status_of(status: int, body: bytes) -> int:
    """The status that a reply stands for: gateways send errors as 200, and say inside what they are."""
    if status != 200 or b'"error"' not in body[:READ_BYTES]:
        return status
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return status
    if not isinstance(found, dict):
        return status
    error = found if found.get("object") == "error" else found.get("error")
    if not error or not isinstance(error, dict | str):
        return status
    told = error if isinstance(error, dict) else found
    codes = (str(told.get(name)) for name in ("code", "status", "status_code"))
    code = next((int(one) for one in codes if re.fullmatch("[45][0-9][0-9]", one)), None)
    kinds = (str(told.get(name)).lower() for name in ("type", "error_type", "code"))
    return code or next((_STATUS_OF_TYPE[one] for one in kinds if one in _STATUS_OF_TYPE), 500)


def error_text(body: bytes) -> str:
    """What an error reply says, whatever its form: a text, an object or a flat one, a proxy's page."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return shown(body)
    for name in ("error", "message"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return shown(found.encode("utf-8", "replace")) if isinstance(found, str) else shown(body)


def shown(body: bytes) -> str:
    """The beginning of what a server sent, fit for a line of text; TGI sends whole images back.

    Secrets are blotted out before it is cut: half of one would not be known for one.
    """
    text = redact(body[:READ_BYTES].decode("utf-8", "replace"))
    text, more = text[:SHOWN], len(text) > SHOWN
    text = "".join(c if c.isprintable() else " " for c in text)
    return f"{text}..." if more else text or "(nothing)"


def gauge(metrics: bytes, name: str) -> float | None:
    """The sum of a gauge in Prometheus' text format, or None where it is not there."""
    line = re.compile(rb"^" + re.escape(name.encode()) + rb"(?:\{[^}\n]*\})? ([0-9.eE+]+)$", re.MULTILINE)
    try:
        found = [float(value) for value in line.findall(metrics)]
    except ValueError:  # a value of that alphabet that is no number
        return None
    return sum(found) if found and math.isfinite(sum(found)) else None
