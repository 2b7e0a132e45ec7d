"""Chat completions, as vLLM and SGLang take them: one turn, which the server renders."""

from __future__ import annotations

import base64
import json
from typing import Any

from tgi_stack.backends.servers.protocols.numbers import ReplyError, count
from tgi_stack.backends.servers.protocols.reply import (
    ForeignReplyError,
    MismatchError,
    a_list,
    a_text,
    an_object,
)
from tgi_stack.redaction import without_secrets
from tgi_stack.types import Caption, CaptionRequest, PreparedImage

ROUTE = "/v1/chat/completions"
# What servers and gateways call an end.
_REASONS = {"stop": "stop", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop", "length": "length"}


def turn(
    model: str, content: list[dict[str, Any]], closes_thinking: bool, system: str = ""
) -> dict[str, Any]:
    """What a chat of one user's turn begins with."""
    before = [{"role": "system", "content": system}] if system else []
    body: dict[str, Any] = {"model": model, "messages": [*before, {"role": "user", "content": content}]}
    return body | ({"chat_template_kwargs": {"enable_thinking": False}} if closes_thinking else {})


def part(one: str | PreparedImage) -> dict[str, Any]:
    """A text, or an image as a data URI."""
    if isinstance(one, str):
        return {"type": "text", "text": one}
    return {"type": "image_url", "image_url": {"url": data_uri(one)}}


def data_uri(image: PreparedImage) -> str:
    """An image inline: servers fetch whatever address they are given."""
    return f"data:image/jpeg;base64,{base64.b64encode(image.jpeg).decode('ascii')}"


def caption_body(request: CaptionRequest, model: str, *, closes_thinking: bool) -> dict[str, Any]:
    """A question about an image, or a text alone; its count of tokens is held against ours."""
    parts: list[str | PreparedImage] = [] if request.image is None else [request.image]
    parts.append(request.body)
    body = turn(model, [part(one) for one in parts], closes_thinking) | {
        "max_completion_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": 1.0,
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.form is not None:
        held = {"name": "answer", "schema": json.loads(request.form), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": held}
    return body


def read_caption(reply: dict[str, Any], usage: dict[str, Any], request: CaptionRequest) -> Caption:
    """The text of a reply that is known to be to this request.

    Raises:
        ReplyError: no text, no end, or more tokens than were asked for.
    """
    choice = an_object(a_list(reply.get("choices"), 1)[0])
    text = a_text(an_object(choice.get("message")).get("content"))
    reason = _REASONS.get(str(choice.get("finish_reason")))
    if reason is None:
        raise ReplyError(f"finish_reason {str(choice.get('finish_reason'))[:40]!r}")
    generated = count(usage.get("completion_tokens"))
    if generated > request.max_new_tokens:
        raise ReplyError(f"{generated} tokens where {request.max_new_tokens} were asked for")
    return Caption(without_secrets(text.strip()), reason, "chat", len(request.token_ids), generated)


def prove_name(found: Any, name: str, where: str) -> None:
    """Raises ForeignReplyError unless the name that a request bore came back."""
    if found != name:
        raise ForeignReplyError(
            f"the answer of {str(found)[:80]!r} came for {name!r}: a proxy answers in the server's "
            f"place, or {where}"
        )


def prove_model(reply: dict[str, Any], model: str) -> None:
    """Raises ForeignReplyError for another model's answer."""
    if reply.get("model") != model:
        raise ForeignReplyError(f"an answer of model {str(reply.get('model'))[:80]!r}, not {model!r}")


def prove_count(found: Any, prompt_tokens: int) -> None:
    """Raises MismatchError where the server counted other tokens than were sent."""
    if count(found) != prompt_tokens:
        raise MismatchError(
            f"the server counted {found} prompt tokens where {prompt_tokens} were sent: "
            "another tokenizer, template or image size",
            counted=found,
            sent=prompt_tokens,
        )
