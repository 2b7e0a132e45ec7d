"""SGLang's dialect: token ids to `/v1/score`; an image and a text to `/generate` or to its chat.

Each reply proves that it is to its own request. `/generate` and the chat repeat the request's `rid`.
`/v1/score` repeats the name of a model that it is given and does not look at: a name drawn for the request
stands there. All count the prompt's tokens. The first two also tell the version of their weights, which can
be swapped while the server runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from tgi_stack.backends.servers.protocols import chat
from tgi_stack.backends.servers.protocols.numbers import ReplyError, count, distribution, limit
from tgi_stack.backends.servers.protocols.reply import (
    Call,
    OtherWeightsError,
    Served,
    a_list,
    a_text,
    an_object,
    json_object,
)
from tgi_stack.prompting.prompts import IMAGE_PAD
from tgi_stack.types import Caption, CaptionRequest, ScoreRequest

ROUTE = "sglang.score"
GENERATE_ROUTE = "sglang.generate"
SCORE, GENERATE = "/v1/score", "/generate"
_OF_OTHER_ROUTES = ("choices", "scores")  # what their answers hold
DEFAULT_WEIGHTS = "default"  # what SGLang calls those that it was started with
LONGEST_VERSION = 80  # of weights, in characters
_PADS = re.compile(f"(?:{re.escape(IMAGE_PAD)})+")
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
# Launch arguments that change numbers, as an identity names them.
_OF_NUMBERS = {"enable_fp32_lm_head": "fp32-head", "enable_deterministic_inference": "deterministic"}


def score_call(requests: Sequence[ScoreRequest], model: str, name: str) -> Call:
    """Several prompts in one request, each with labels of its own."""
    body = {
        "model": _named(model, name),
        "query": [],
        "items": [list(request.token_ids) for request in requests],
        "label_token_ids": [list(request.label_ids) for request in requests],
        "apply_softmax": False,
        "return_token_logprobs": True,
    }
    return Call(SCORE, body, sum(len(request.token_ids) for request in requests))


def _named(model: str, name: str) -> str:
    return f"{model}#{name}"


def parse_scores(
    body: bytes, requests: Sequence[ScoreRequest], model: str, name: str
) -> list[tuple[float, ...]]:
    """The labels' logarithms over the vocabulary, for each prompt.

    Raises:
        ReplyError: fewer or more than were asked for, a label that is missing, a number that is none.
        ForeignReplyError: another request's answer.
        MismatchError: another count of the prompts' tokens.
    """
    reply = json_object(body)
    chat.prove_name(reply.get("model"), _named(model, name), "writes another model's name into requests")
    usage = an_object(reply.get("usage"))
    chat.prove_count(usage.get("prompt_tokens"), sum(len(request.token_ids) for request in requests))
    rows = a_list(reply.get("token_logprobs"), len(requests))
    return [_row(row, request) for row, request in zip(rows, requests, strict=True)]


def _row(row: Any, request: ScoreRequest) -> tuple[float, ...]:
    values = a_list(row, len(request.label_ids))
    return _labels(distribution(zip(request.label_ids, values, strict=True)), request)


def _labels(found: dict[int, float], request: ScoreRequest) -> tuple[float, ...]:
    missing = [id for id in request.label_ids if id not in found]
    if missing:
        raise ReplyError(f"no logprob of token {missing[0]}, or one of what was masked")
    return tuple(found[id] for id in request.label_ids)


def generate_call(request: ScoreRequest, name: str) -> Call:
    """A read of one prompt: of token ids, or of a text with images, each in the place of its mark."""
    images = [chat.data_uri(image) for image in request.images]
    asked: dict[str, Any] = (
        {"text": _PADS.sub(IMAGE_PAD, request.prompt), "image_data": images}
        if images
        else {"input_ids": list(request.token_ids)}
    )
    body = asked | {
        "sampling_params": {"max_new_tokens": 0, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": -1,
        "top_logprobs_num": 0,
        "token_ids_logprob": list(request.label_ids),
        "rid": name,
        "stream": False,
    }
    return Call(GENERATE, body, len(request.token_ids))


def parse_generate(body: bytes, request: ScoreRequest, served: Served, name: str) -> tuple[float, ...]:
    """The labels' logarithms over the vocabulary; see `parse_scores` for what is raised.

    Raises:
        OtherWeightsError: of other weights than the run began with.
    """
    meta = _meta(body, served, name, len(request.token_ids))
    (first,) = a_list(meta.get("output_token_ids_logprobs"), 1)
    entries = [a_list(entry) for entry in a_list(first)]
    if any(len(entry) < 2 for entry in entries):
        raise ReplyError("a token without its logarithm")
    return _labels(distribution((count(entry[1]), entry[0]) for entry in entries), request)


def _meta(body: bytes, served: Served, name: str, prompt_tokens: int) -> dict[str, Any]:
    """What is told of an answer of `/generate`, once it is known to be to this request."""
    reply = json_object(body)
    if "meta_info" not in reply and any(name in reply for name in _OF_OTHER_ROUTES):
        named = reply.get("id", reply.get("model"))
        chat.prove_name(named, name, "sends requests to another route")
    meta = an_object(reply.get("meta_info"))
    chat.prove_name(meta.get("id"), name, "takes `rid` out of requests")
    _prove_weights(meta, served)
    chat.prove_count(meta.get("prompt_tokens"), prompt_tokens)
    return meta


def _prove_weights(told: dict[str, Any], served: Served) -> None:
    found = _weights(told)
    if found is not None and served.weights is not None and found != served.weights:
        raise OtherWeightsError(weights_changed(served.weights, found))


def _weights(told: dict[str, Any]) -> Any:
    """The version of the weights; a long one, a path, by its digest: it stands in each record."""
    found = told.get("weight_version")
    if not isinstance(found, str) or len(found) <= LONGEST_VERSION:
        return found
    return f"{found[:40]}...{sha256(found.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def weights_changed(before: str, now: Any) -> str:
    """What is said of a server whose weights were swapped."""
    return (
        f"its weights were swapped while the run went on (version {before[:40]}, now {str(now)[:40]}); "
        "start the job anew, with --overwrite"
    )


def caption_call(request: CaptionRequest, model: str, name: str, *, closes_thinking: bool) -> Call:
    """A chat of one turn, with nothing left to the defaults of the model's generation_config.json."""
    body = chat.caption_body(request, model, closes_thinking=closes_thinking) | {
        "rid": name,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    return Call(chat.ROUTE, body, len(request.token_ids) + request.max_new_tokens)


def parse_caption(body: bytes, request: CaptionRequest, served: Served, name: str) -> Caption:
    """The text; see `parse_generate` for what is raised."""
    reply = json_object(body)
    chat.prove_name(reply.get("id"), name, "takes `rid` out of requests")
    chat.prove_model(reply, served.model)
    if isinstance(told := reply.get("metadata"), dict):
        _prove_weights(told, served)
    usage = an_object(reply.get("usage"))
    chat.prove_count(usage.get("prompt_tokens"), len(request.token_ids))
    return chat.read_caption(reply, usage, request)


def count_call(text: str, name: str) -> Call:
    """A text, not ids: what the server counts shows whether its tokenizer is ours."""
    sampling = {"max_new_tokens": 1, "temperature": 0}
    return Call(GENERATE, {"text": text, "sampling_params": sampling, "rid": name, "stream": False}, 64)


def parse_count(body: bytes, served: Served, name: str, tokens: int) -> None:
    """Raises ReplyError unless the server counts as many tokens."""
    _meta(body, served, name, tokens)


def beyond_vocabulary(refusal: str) -> bool:
    """Whether `/v1/score` refuses a label for being an added token, which `/generate` reads all the same."""
    return "out of vocabulary" in refusal


# -- who is there --------------------------------------------------------------------------------------


def is_model_info(body: bytes) -> bool:
    """Whether a page is SGLang's `/model_info`, sound or not."""
    try:
        return isinstance(json_object(body).get("model_path"), str)
    except ReplyError:
        return False


def described(models: bytes, model_info: bytes, server_info: bytes | None) -> list[Served]:
    """The model of `/model_info`, with what `/server_info` says of how it was started, and its adapters.

    Raises:
        ReplyError: it names none, or takes no prompts.
    """
    told = json_object(model_info)
    started = {} if server_info is None else json_object(server_info)
    cards = [card for card in a_list(json_object(models).get("data")) if isinstance(card, dict)]
    path = a_text(told.get("model_path"))
    name = told.get("served_model_name")
    name = name if isinstance(name, str) and name else path
    fault = None if told.get("is_generation") is not False else "it generates nothing"
    adapters = [str(card.get("id"))[:80] for card in cards if card.get("parent") is not None]
    return [
        _served(name, path, _context(name, cards, started), told, started, fault),
        *(Served("sglang", one, one, "", 0, parent=path, fault=_ADAPTER) for one in adapters),
    ]


_ADAPTER = "an adapter, which /v1/score does not know; serve it merged into its model"


def _served(
    name: str, path: str, context: int, told: dict[str, Any], started: dict[str, Any], fault: str | None
) -> Served:
    weights = _weights(told)
    weights = weights if isinstance(weights, str) else None
    first = weights in (None, DEFAULT_WEIGHTS)
    said = [str(started.get("version") or "unknown")[:40]]
    said += [] if first else [f"weights {weights}"]
    said += [word for argument, word in _OF_NUMBERS.items() if started.get(argument) is True]
    revision, tokenizer = started.get("revision"), told.get("tokenizer_path")
    quantization = started.get("quantization")
    most = started.get("max_req_input_len")
    # SGLang refuses a prompt that is as long as its limit.
    longest = context - 1 if most is None else min(context, limit("max_req_input_len", most)) - 1
    return Served(
        "sglang",
        name,
        path,
        " ".join(said),
        context,
        # Swapped weights are of no revision that anybody named.
        revision=revision if isinstance(revision, str) and revision and first else None,
        longest_prompt=max(1, longest),
        fault=fault,
        tokenizer=tokenizer if isinstance(tokenizer, str) and tokenizer else None,
        weights=weights,
        quantization=quantization[:40] if isinstance(quantization, str) and quantization else None,
        dtype=_DTYPES.get(str(started.get("dtype"))),
        shares_passes=started.get("enable_mis") is True,
    )


def _context(name: str, cards: Sequence[dict[str, Any]], started: dict[str, Any]) -> int:
    """The longest prompt and answer together, from the model's card or from how it was started."""
    own = next((card for card in cards if card.get("id") == name), {})
    found = own.get("max_model_len")
    return limit("max_model_len", started.get("context_length") if found is None else found)


def weights_of(model_info: bytes) -> str | None:
    """The version of the weights that the server holds now, where it tells one."""
    found = _weights(json_object(model_info))
    return found if isinstance(found, str) else None
