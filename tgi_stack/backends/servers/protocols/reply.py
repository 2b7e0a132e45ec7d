"""What both dialects share: a question as it is sent, and the ways in which a reply is no answer."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

SHOWN_BYTES = 200


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a path and a JSON body.

    `tokens` is how many the server computes at most, from which its deadline follows; `alone` asks for a
    connection of its own, where nothing in the reply could prove whose it is.
    """

    path: str
    body: dict[str, Any]
    tokens: int
    headers: dict[str, str] = field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """A model that an endpoint says it has; `context` in tokens, prompt and answer together."""

    dialect: str
    model: str
    root: str
    version: str
    context: int
    revision: str | None = None

    def goes_by(self, name: str) -> bool:
        """Whether a --model argument means this one."""
        return name in (self.model, self.root) or name == self.root.rstrip("/").rpartition("/")[2]


class ReplyError(ValueError):
    """A reply that is not what was asked for; the connection it came by is not used again."""


class ForeignReplyError(ReplyError):
    """A sound reply, to another request."""


def json_object(body: bytes) -> dict[str, Any]:
    """The object that a reply holds.

    Raises:
        ReplyError: it holds none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ReplyError(f"no JSON: {shown(body)}") from error
    if not isinstance(value, dict):
        raise ReplyError(f"no JSON object: {shown(body)}")
    return value


def error_text(body: bytes) -> str:
    """What an error reply says, whatever its form: TGI's text, vLLM's object, a proxy's page."""
    try:
        found = json.loads(body).get("error")
    except (ValueError, AttributeError, RecursionError):
        return shown(body)
    if isinstance(found, dict):
        found = found.get("message")
    return shown(found.encode("utf-8", "replace")) if isinstance(found, str) else shown(body)


def shown(body: bytes) -> str:
    """The beginning of what a server sent, fit for a line of text; TGI sends whole images back."""
    text = body[:SHOWN_BYTES].decode("utf-8", "replace")
    text = "".join(c if c.isprintable() else " " for c in text)
    return f"{text}..." if len(body) > SHOWN_BYTES else text or "(nothing)"


def logprob(value: Any) -> float:
    """A logarithm of a probability.

    Raises:
        ReplyError: null, NaN, above 0: servers write those for what they could not compute.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
        raise ReplyError(f"{value!r} is no logarithm of a probability")
    return min(float(value), 0.0)


def count(value: Any) -> int:
    """A number of tokens."""
    if type(value) is not int or value < 0:
        raise ReplyError(f"{value!r} is no number of tokens")
    return value


def gauge(metrics: bytes, name: str) -> float | None:
    """The sum of a gauge in Prometheus' text format, or None where it is not there."""
    line = re.compile(rb"^" + re.escape(name.encode()) + rb"(?:\{[^}\n]*\})? ([0-9.eE+]+)$", re.MULTILINE)
    found = [float(value) for value in line.findall(metrics)]
    return sum(found) if found else None
