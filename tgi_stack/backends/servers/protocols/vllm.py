"""vLLM's dialect: token ids to `/v1/completions` for scores, an image and a text to `/v1/chat/completions`.

The `X-Request-Id` that a request bears comes back inside the body's `id`, and `usage.prompt_tokens` counts
its tokens: together they prove whose answer a reply is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tgi_stack.backends.servers.protocols import chat
from tgi_stack.backends.servers.protocols.numbers import MOST, ReplyError, count, distribution, limit
from tgi_stack.backends.servers.protocols.reply import (
    Call,
    Served,
    a_list,
    a_text,
    an_object,
    json_object,
)
from tgi_stack.types import Caption, CaptionRequest, ScoreRequest

ROUTE = "vllm.logprob_token_ids"
TOP_ROUTE = "vllm.top_logprobs"
# What servers and gateways call the longest prompt and answer together.
LENGTHS = ("max_model_len", "context_length", "max_context_length", "context_window")
MAX_LABELS = 128  # vLLM's limit on logprob_token_ids
_MOST = re.compile(r"logprobs of \d+, which is greater than max allowed: (\d{1,9})\b")
_TOKEN_ID = re.compile(r"token_id:(0|[1-9][0-9]{0,9})", re.ASCII)
LONGEST_NAME = len("token_id:") + 10  # longer ones are none, and are not remembered

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
        MismatchError: another count of the prompt's tokens.
    """
    reply = json_object(body)
    wanted = sum(len(request.token_ids) for request in requests)
    _prove(reply, f"cmpl-{name}", model, wanted)
    choices = [an_object(choice) for choice in a_list(reply.get("choices"), len(requests))]
    by_index = {count(choice.get("index")): choice for choice in choices}
    if by_index.keys() != set(range(len(requests))):
        raise ReplyError(f"choices of index {sorted(by_index)}")
    return [_top(by_index[index]) for index in range(len(requests))]


def _top(choice: dict[str, Any]) -> dict[int, float]:
    (found,) = a_list(an_object(choice.get("logprobs")).get("top_logprobs"), 1)
    return distribution((_token_id(name), value) for name, value in an_object(found).items())


def _token_id(name: Any) -> int:
    found = _named(name) if isinstance(name, str) and len(name) <= LONGEST_NAME else None
    if found is None:
        raise ReplyError(f"{str(name)[:40]!r} is no token id")
    return found


@lru_cache(4096)  # a run's labels are few, and come with every row
def _named(name: str) -> int | None:
    found = _TOKEN_ID.fullmatch(name)
    return int(found[1]) if found is not None and int(found[1]) <= MOST else None


def read_labels(found: dict[int, float], label_ids: Sequence[int]) -> tuple[float, ...]:
    """The labels' logarithms.

    Raises:
        ReplyError: one is missing, or was not seen (see `numbers.NOT_SEEN`).
    """
    missing = [id for id in label_ids if id not in found]
    if missing:
        raise ReplyError(f"no logprob of token {missing[0]}, or one of what was masked")
    return tuple(found[id] for id in label_ids)


def most_of(refusal: str) -> int | None:
    """The server's --max-logprobs, where its refusal names it."""
    found = _MOST.search(refusal)
    return int(found[1]) if found else None


def chat_score_call(request: ScoreRequest, model: str, name: str, *, closes_thinking: bool) -> Call:
    """A read after a turn in which images stand, which the server renders."""
    content = [chat.part(part) for part in request.parts if part != ""]
    body = chat.turn(model, content, closes_thinking, request.system) | {
        "max_completion_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "logprob_token_ids": list(request.label_ids),
        "return_tokens_as_token_ids": True,
    }
    return Call(chat.ROUTE, body, len(request.token_ids), {"X-Request-Id": name})


def parse_chat_top(body: bytes, request: ScoreRequest, model: str, name: str) -> dict[int, float]:
    """The logarithms that came for the next token, by token id; see `parse_tops` for what is raised."""
    reply = json_object(body)
    _prove(reply, f"chatcmpl-{name}", model, len(request.token_ids))
    choice = an_object(a_list(reply.get("choices"), 1)[0])
    first = an_object(a_list(an_object(choice.get("logprobs")).get("content"), 1)[0])
    entries = [an_object(entry) for entry in a_list(first.get("top_logprobs"))]
    return distribution((_token_id(entry.get("token")), entry.get("logprob")) for entry in entries)


def caption_call(request: CaptionRequest, model: str, name: str, *, closes_thinking: bool) -> Call:
    """A chat of one turn, which the server renders: its count of tokens is held against ours."""
    body = chat.caption_body(request, model, closes_thinking=closes_thinking)
    tokens = len(request.token_ids) + request.max_new_tokens
    return Call(chat.ROUTE, body, tokens, {"X-Request-Id": name})


def parse_caption(body: bytes, request: CaptionRequest, model: str, name: str) -> Caption:
    """The text; see `parse_tops` for what is raised."""
    reply = json_object(body)
    usage = _prove(reply, f"chatcmpl-{name}", model, len(request.token_ids))
    return chat.read_caption(reply, usage, request)


def _prove(reply: dict[str, Any], id: str, model: str, prompt_tokens: int) -> dict[str, Any]:
    """The reply's usage, once the reply is known to be to this very request."""
    chat.prove_name(reply.get("id"), id, "takes the header X-Request-Id away")
    chat.prove_model(reply, model)
    usage = an_object(reply.get("usage"))
    chat.prove_count(usage.get("prompt_tokens"), prompt_tokens)
    return usage


# -- who is there --------------------------------------------------------------------------------------


def described(models: bytes, version: bytes) -> list[Served]:
    """The models that `/v1/models` lists, with what `/version` says; each whose card is unsound has a fault.

    Raises:
        ReplyError: no list of models, or none of them can be used.
    """
    release = a_text(json_object(version).get("version"))[:40]
    cards = [card for card in a_list(json_object(models).get("data")) if isinstance(card, dict)]
    cards = [card for card in cards if isinstance(card.get("id"), str) and card["id"]]
    bases = [card for card in cards if _of_base(card)]
    found = list(dict.fromkeys(_model(card, bases, release) for card in cards))
    if not found:
        raise ReplyError("/v1/models lists no model")
    if all(model.fault is not None for model in found):
        raise ReplyError(f"model {found[0].model}: {found[0].fault}")
    return found


def _of_base(card: dict[str, Any]) -> bool:
    """Whether it is the card of a model, not of an adapter."""
    return not isinstance(card.get("parent"), str) or card["parent"] == card["id"]


def _model(card: dict[str, Any], bases: Sequence[dict[str, Any]], release: str) -> Served:
    """What one card says; an adapter's has no length of its own: its model's counts."""
    base = card if _of_base(card) else _parent(card["parent"], bases)
    told = (one.get(name) for one in (card, base or {}) for name in LENGTHS)
    length = next((value for value in told if value is not None), None)
    parent = None if base is None or base is card else _root(base)
    try:
        context, fault = limit("max_model_len", length), None
    except ReplyError as error:
        context, fault = 0, str(error)
    return Served("vllm", card["id"], _root(card), release, context, parent=parent, fault=fault)


def _root(card: dict[str, Any]) -> str:
    root = card.get("root")
    return root if isinstance(root, str) and root else str(card["id"])


def _parent(name: str, bases: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The model that an adapter names: by its id, its root, the end of that; or the only one there is.

    A vLLM holds one model under one or more names, and its adapters' parent is whatever its operator wrote.
    """
    for base in bases:
        if base["id"] == name:
            return base
    for base in bases:
        if _root(base) == name or _root(base).rstrip("/").rpartition("/")[2] == name:
            return base
    return bases[0] if len({_root(base) for base in bases}) == 1 else None


def count_call(text: str, model: str, name: str) -> Call:
    """A text, not ids: what the server counts shows whether its tokenizer is ours."""
    body = {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0}
    return Call("/v1/completions", body, 64, {"X-Request-Id": name})


def parse_count(body: bytes, model: str, name: str, tokens: int) -> None:
    """Raises ReplyError unless the server counts as many tokens."""
    _prove(json_object(body), f"cmpl-{name}", model, tokens)
