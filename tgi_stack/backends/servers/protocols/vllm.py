"""vLLM's dialect: token ids to `/v1/completions` for scores, an image and a text to `/v1/chat/completions`.

The `X-Request-Id` that a request bears comes back inside the body's `id`, and `usage.prompt_tokens` counts
its tokens: together they prove whose answer a reply is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

from tgi_stack.backends.servers.protocols.reply import (
    Call,
    ForeignReplyError,
    ReplyError,
    Served,
    count,
    json_object,
    logprob,
)
from tgi_stack.scoring import distributions
from tgi_stack.types import Caption, CaptionRequest, PreparedImage, ScoreRequest

ROUTE = "vllm.logprob_token_ids"
TOP_ROUTE = "vllm.top_logprobs"
MAX_LABELS = 128  # vLLM's limit on logprob_token_ids
MINUS_INFINITY = -9999.0  # how vLLM writes it
_MOST = re.compile(r"logprobs of \d+, which is greater than max allowed: (\d+)")

Tops = list[dict[int, float]]


def score_call(requests: list[ScoreRequest], model: str, name: str, top: int | None = None) -> Call:
    """Several prompts in one request; they share their labels.

    Args:
        top: ask for so many of the likeliest tokens, not for the labels: older servers know no other way.
    """
    labels = list(requests[0].label_ids)
    body = {
        "model": model,
        "prompt": [list(request.token_ids) for request in requests],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": len(labels) if top is None else top,
        **({"logprob_token_ids": labels} if top is None else {}),
        "return_tokens_as_token_ids": True,
    }
    tokens = sum(len(request.token_ids) for request in requests)
    return Call("/v1/completions", body, tokens, {"X-Request-Id": name})


def parse_tops(body: bytes, requests: list[ScoreRequest], model: str, name: str) -> Tops:
    """The logarithms that came for each prompt's next token, by token id.

    Raises:
        ReplyError: fewer or more than were asked for, a number that is none.
        ForeignReplyError: another request's answer.
    """
    reply = json_object(body)
    wanted = sum(len(request.token_ids) for request in requests)
    _prove(reply, f"cmpl-{name}", model, wanted)
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != len(requests):
        raise ReplyError(f"{len(requests)} prompts were asked, not {_length(choices)}")
    by_index: dict[Any, dict[str, Any]] = {choice.get("index"): choice for choice in map(_object, choices)}
    if by_index.keys() != set(range(len(requests))):
        raise ReplyError(f"choices of index {sorted(map(str, by_index))}")
    return [_top(by_index[index]) for index in range(len(requests))]


def _top(choice: dict[str, Any]) -> dict[int, float]:
    try:
        (found,) = choice["logprobs"]["top_logprobs"]
    except (KeyError, TypeError, ValueError) as error:
        raise ReplyError("no logprobs of one token") from error
    if not isinstance(found, dict):
        raise ReplyError("no logprobs of one token")
    return {_token_id(name): logprob(value) for name, value in found.items()}


def _token_id(name: Any) -> int:
    head, _, digits = str(name).partition(":")
    if head != "token_id" or not digits.isdecimal():
        raise ReplyError(f"{str(name)[:40]!r} is no token id")
    return int(digits)


def read_labels(found: dict[int, float], label_ids: Sequence[int]) -> tuple[float, ...]:
    """The labels' logarithms.

    Raises:
        ReplyError: one is missing or minus infinity, or their probabilities add up to more than 1.
    """
    missing = [id for id in label_ids if id not in found]
    if missing:
        raise ReplyError(f"no logprob of token {missing[0]}")
    logprobs = tuple(found[id] for id in label_ids)
    if min(logprobs) <= MINUS_INFINITY:
        raise ReplyError("a label of probability 0 to the last digit is no reading")
    if (mass := distributions.mass(logprobs, capped=False)) > 1.05:
        raise ReplyError(f"probabilities that add up to {mass:.3f}")
    return logprobs


def most_of(refusal: str) -> int | None:
    """The server's --max-logprobs, where its refusal names it."""
    found = _MOST.search(refusal)
    return int(found[1]) if found else None


def chat_score_call(request: ScoreRequest, model: str, name: str, *, closes_thinking: bool) -> Call:
    """A read after a turn in which images stand, which the server renders."""
    content = [_part(part) for part in request.parts if part != ""]
    body = _chat(model, content, closes_thinking, request.system) | {
        "max_completion_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "logprob_token_ids": list(request.label_ids),
        "return_tokens_as_token_ids": True,
    }
    return Call("/v1/chat/completions", body, len(request.token_ids), {"X-Request-Id": name})


def parse_chat_top(body: bytes, request: ScoreRequest, model: str, name: str) -> dict[int, float]:
    """The logarithms that came for the next token, by token id; see `parse_tops` for what is raised."""
    reply = json_object(body)
    _prove(reply, f"chatcmpl-{name}", model, len(request.token_ids))
    try:
        (choice,) = reply["choices"]
        (first,) = choice["logprobs"]["content"]
        return {_token_id(entry["token"]): logprob(entry["logprob"]) for entry in first["top_logprobs"]}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ReplyError):
            raise
        raise ReplyError("no logprobs of one token") from error


def _chat(
    model: str, content: list[dict[str, Any]], closes_thinking: bool, system: str = ""
) -> dict[str, Any]:
    before = [{"role": "system", "content": system}] if system else []
    body: dict[str, Any] = {"model": model, "messages": [*before, {"role": "user", "content": content}]}
    return body | ({"chat_template_kwargs": {"enable_thinking": False}} if closes_thinking else {})


def _part(part: str | PreparedImage) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode(part.jpeg).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def caption_call(request: CaptionRequest, model: str, name: str, *, closes_thinking: bool) -> Call:
    """A chat of one turn, which the server renders: its count of tokens is held against ours."""
    parts: list[str | PreparedImage] = [] if request.image is None else [request.image]
    parts.append(request.body)
    body = _chat(model, [_part(part) for part in parts], closes_thinking) | {
        "max_completion_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": 1.0,
    }
    if request.seed is not None:
        body["seed"] = request.seed
    tokens = len(request.token_ids) + request.max_new_tokens
    return Call("/v1/chat/completions", body, tokens, {"X-Request-Id": name})


def parse_caption(body: bytes, request: CaptionRequest, model: str, name: str) -> Caption:
    """The text; see `parse_tops` for what is raised."""
    reply = json_object(body)
    usage = _prove(reply, f"chatcmpl-{name}", model, len(request.token_ids))
    try:
        (choice,) = reply["choices"]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    except (KeyError, TypeError, ValueError) as error:
        raise ReplyError("no choice with a text and a finish_reason") from error
    if not isinstance(text, str) or reason not in ("stop", "length"):
        raise ReplyError(f"a text of {type(text).__name__}, finish_reason {reason!r}")
    return Caption(
        text.strip(), reason, "chat", len(request.token_ids), count(usage.get("completion_tokens"))
    )


def _prove(reply: dict[str, Any], id: str, model: str, prompt_tokens: int) -> dict[str, Any]:
    """The reply's usage, once the reply is known to be to this very request."""
    if reply.get("id") != id:
        raise ForeignReplyError(f"the answer of {str(reply.get('id'))[:80]!r} came for {id!r}")
    if reply.get("model") != model:
        raise ForeignReplyError(f"an answer of model {str(reply.get('model'))[:80]!r}, not {model!r}")
    usage = _object(reply.get("usage"))
    found = count(usage.get("prompt_tokens"))
    if found != prompt_tokens:
        raise ForeignReplyError(
            f"the server counted {found} prompt tokens where {prompt_tokens} were sent: "
            "another tokenizer, template or image size"
        )
    return usage


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReplyError(f"{type(value).__name__} where an object belongs")
    return value


def _length(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else type(value).__name__


# -- who is there --------------------------------------------------------------------------------------


def described(models: bytes, version: bytes) -> list[Served]:
    """The models that `/v1/models` lists, with what `/version` says."""
    release = json_object(version).get("version")
    listed = json_object(models).get("data")
    if not isinstance(listed, list) or not listed or not isinstance(release, str):
        raise ReplyError("no list of models, or no version")
    return [
        Served("vllm", str(entry["id"]), str(entry.get("root") or entry["id"]), release, _context(entry))
        for entry in map(_object, listed)
        if "id" in entry
    ]


def _context(entry: dict[str, Any]) -> int:
    found = entry.get("max_model_len")
    if type(found) is not int or found < 1:
        raise ReplyError(f"max_model_len {found!r}")
    return found


def count_call(text: str, model: str, name: str) -> Call:
    """A text, not ids: what the server counts shows whether its tokenizer is ours."""
    body = {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0}
    return Call("/v1/completions", body, 64, {"X-Request-Id": name})


def parse_count(body: bytes, model: str, name: str, tokens: int) -> None:
    """Raises ReplyError unless the server counts as many tokens."""
    _prove(json_object(body), f"cmpl-{name}", model, tokens)
