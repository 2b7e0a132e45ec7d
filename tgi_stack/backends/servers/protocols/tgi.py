"""TGI's dialect: a rendered prompt to `/generate`, never its chat route, which thinks and penalises unasked.

Each reply proves that it is to its own request. A label read samples (`do_sample`) without a temperature,
which leaves the distribution as it is and has TGI repeat the request's seed, a random one. A text comes with
its prompt before it (`return_full_text`), images included. The header `x-prompt-tokens` counts the tokens.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypedDict
from unicodedata import normalize

from tgi_stack.backends.servers.protocols.numbers import ReplyError, count, distribution, limit
from tgi_stack.backends.servers.protocols.reply import (
    Call,
    ForeignReplyError,
    MismatchError,
    Served,
    a_list,
    a_text,
    an_object,
    json_object,
)
from tgi_stack.errors import TextError
from tgi_stack.prompting.prompts import IMAGE_PAD
from tgi_stack.redaction import without_secrets
from tgi_stack.types import Caption, CaptionRequest, PreparedImage, ScoreRequest

ROUTE = "tgi.grammar"
GROUPS_ROUTE = "tgi.grammar.groups"
OPEN_ROUTE = "tgi.top_n"
PATCH = 14 * 14  # pixels for each of which TGI counts a token
QUOTES = 2  # that it writes around an image, and counts
COUNT = "x-prompt-tokens"
_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")
_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
_MOST = re.compile(r"`top_n_tokens` must be >= 0 and <= (\d{1,9})\b")


class Grammar(TypedDict):
    """What an answer has to match."""

    type: Literal["regex", "json"]
    value: str | dict[str, Any]


class Parameters(TypedDict, total=False):
    """What is asked of `/generate` beside the prompt, by TGI's names; what is left out has TGI's default."""

    do_sample: bool
    temperature: float
    seed: int
    max_new_tokens: int
    details: bool
    return_full_text: bool
    top_n_tokens: int
    decoder_input_details: bool
    grammar: Grammar


@dataclass(frozen=True, slots=True)
class Top:
    """The logarithms of the first token's likeliest ones, by their ids.

    `strange` is the text of one that the grammar does not allow: without TGI's attention kernels the
    likeliest tokens of the whole vocabulary are shown, whatever the grammar.
    """

    found: dict[int, float]
    strange: str | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """A label read behind its prompt.

    Attributes:
        told: whether the server tells of a prompt's tokens.
        logprob: over the whole vocabulary; None also where the label is not this token behind this prompt.
    """

    told: bool
    logprob: float | None = None


def score_call(request: ScoreRequest, seed: int, top_n: int, grammar: Sequence[str] = ()) -> Call:
    """One token and the `top_n` likeliest ones; of those that the grammar's labels allow, where there is one.

    The logarithms are then normalised over what the grammar allows: the labels, and what they begin with.
    """
    labels = "|".join(_SPECIAL.sub(r"\\\1", label) for label in grammar)
    parameters = Parameters(
        do_sample=True,
        seed=seed,
        max_new_tokens=1,
        details=True,
        top_n_tokens=top_n,
    )
    if grammar:
        parameters["grammar"] = Grammar(type="regex", value=f"({labels})")
    prompt = _with_images(request.prompt, request.images)
    return Call("/generate", _body(prompt, parameters), len(request.token_ids))


def parse_top(
    body: bytes,
    headers: Mapping[str, str],
    request: ScoreRequest,
    seed: int,
    needed: Mapping[int, str] = MappingProxyType({}),
    grammar: Sequence[str] = (),
) -> Top:
    """What stands in the place of the answer's first token.

    Args:
        needed: the ids that have to be there, with what to call them, unless the grammar was passed over.

    Raises:
        ReplyError: a label that is missing, a number that is none.
        ForeignReplyError: another request's answer.
        MismatchError: another count of the prompt's tokens.
    """
    details = an_object(json_object(body).get("details"))
    _prove_seed(details, seed)
    _prove_count(headers, _counted(request.token_ids, request.prompt, request.images))
    (first,) = a_list(details.get("top_tokens"), 1)
    tokens = [an_object(token) for token in a_list(first)]
    found = distribution((count(token.get("id")), token.get("logprob")) for token in tokens)
    if grammar:
        for token in tokens:
            if token["id"] not in needed and _is_strange(a_text(token.get("text")), grammar):
                return Top(found, token["text"])
    called = dict(zip(request.label_ids, request.labels, strict=bool(request.labels)))
    for token in tokens:
        _prove_text(token, called.get(token["id"]))
    missing = [label for id, label in needed.items() if id not in found]
    if missing:
        raise ReplyError(f"no logprob of label {missing[0]!r}, or one of what was masked")
    return Top(found)


def _prove_text(token: dict[str, Any], label: str | None) -> None:
    """Raises MismatchError where a label's id is another text's there; parts of characters can't be told."""
    text = "" if label is None else a_text(token.get("text"))
    # Tokenizers compose characters; of what it leaves out of texts a server tells none.
    if text.strip() and "\ufffd" not in text and normalize("NFC", label or "").strip() != text.strip():
        raise MismatchError(
            f"token {token['id']} is {text[:40]!r} there and {label!r} here: another tokenizer"
        )


def completed_call(request: ScoreRequest, label: str, seed: int) -> Call:
    """The prompt with a label behind it, whose tokens a server without TGI's attention kernels tells of."""
    parameters = Parameters(
        do_sample=True, seed=seed, max_new_tokens=1, details=True, decoder_input_details=True
    )
    return Call("/generate", _body(request.prompt + label, parameters), len(request.token_ids) + 1)


def parse_completed(body: bytes, request: ScoreRequest, label_id: int, seed: int) -> Completed:
    """What a server tells of a prompt's last token, where that is the label.

    Raises:
        ReplyError: a number that is none.
        ForeignReplyError: another request's answer.
    """
    details = an_object(json_object(body).get("details"))
    _prove_seed(details, seed)
    tokens = [an_object(token) for token in a_list(details.get("prefill") or [])]
    if [token.get("id") for token in tokens] != [*request.token_ids, label_id]:
        return Completed(bool(tokens))
    return Completed(True, distribution([(label_id, tokens[-1].get("logprob"))]).get(label_id))


def _is_strange(text: str, grammar: Sequence[str]) -> bool:
    """Whether a token begins none of a grammar's labels; parts of characters can't be told."""
    text = text.strip()
    return bool(text) and "\ufffd" not in text and not any(x.strip().startswith(text) for x in grammar)


def most_of(refusal: str) -> int | None:
    """The server's MAX_TOP_N_TOKENS, where its refusal names it."""
    found = _MOST.search(refusal)
    return int(found[1]) if found else None


def refuses_grammars(refusal: str) -> bool:
    """Whether a refusal says that the server was started without grammars."""
    return "grammar" in refusal.lower()


def caption_call(request: CaptionRequest) -> Call:
    """The prompt as it was rendered, with the image as a data URI in its place."""
    parameters = Parameters(
        do_sample=request.temperature > 0,
        max_new_tokens=request.max_new_tokens,
        details=True,
        return_full_text=True,
    )
    if request.temperature > 0:
        parameters["temperature"] = request.temperature
    if request.seed is not None:
        parameters["seed"] = request.seed
    if request.form is not None:
        parameters["grammar"] = Grammar(type="json", value=json.loads(request.form))
    tokens = len(request.token_ids) + request.max_new_tokens
    return Call("/generate", _body(_asked(request), parameters), tokens)


def parse_caption(body: bytes, headers: Mapping[str, str], request: CaptionRequest) -> Caption:
    """The text, once the prompt and the image before it are those that were sent; see `parse_top`."""
    reply = json_object(body)
    whole, details = a_text(reply.get("generated_text")), an_object(reply.get("details"))
    asked = _asked(request)
    if not whole.startswith(asked):
        raise ForeignReplyError(
            "the answer does not begin with the prompt that was sent: it is to another one"
        )
    if request.seed is not None and request.temperature > 0:
        _prove_seed(details, request.seed)
    images = () if request.image is None else (request.image,)
    _prove_count(headers, _counted(request.token_ids, request.prompt, images))
    reason = _REASONS.get(str(details.get("finish_reason")))
    if reason is None:
        raise ReplyError(f"finish_reason {str(details.get('finish_reason'))[:40]!r}")
    text, generated = whole[len(asked) :], count(details.get("generated_tokens"))
    if generated > request.max_new_tokens:
        raise ReplyError(f"{generated} tokens where {request.max_new_tokens} were asked for")
    return Caption(without_secrets(text.strip()), reason, "generate", len(request.token_ids), generated)


_IMAGE = re.compile(r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>")


def _asked(request: CaptionRequest) -> str:
    return _with_images(request.prompt, () if request.image is None else (request.image,))


def _with_images(prompt: str, images: Sequence[PreparedImage]) -> str:
    """TGI puts the vision tokens around and in place of a link itself.

    Raises:
        TextError: another number of places than of images.
    """
    places = len(_IMAGE.findall(prompt))
    if places != len(images):
        message = f"the prompt holds the marks of {places} images, and {len(images)} come with it"
        raise TextError("text.image_marks", message)
    links = (f"![](data:image/jpeg;base64,{base64.b64encode(i.jpeg).decode('ascii')})" for i in images)
    return _IMAGE.sub(lambda match: next(links), prompt) if places else prompt


def _counted(token_ids: Sequence[int], prompt: str, images: Sequence[PreparedImage]) -> int:
    """How many tokens TGI counts: for an image one a patch, and the quotes that it writes around them."""
    visual = sum(image.sent_width * image.sent_height // PATCH + QUOTES for image in images)
    return len(token_ids) + visual - (prompt.count(IMAGE_PAD) if images else 0)


def _body(prompt: str, parameters: Parameters) -> dict[str, Any]:
    return {"inputs": prompt, "parameters": parameters}


def _prove_seed(details: dict[str, Any], seed: int) -> None:
    found = details.get("seed")
    if type(found) is not int or found != seed:
        raise ForeignReplyError(f"the answer of seed {str(found)[:40]} came for seed {seed}")


def _prove_count(headers: Mapping[str, str], prompt_tokens: int) -> None:
    found = headers.get(COUNT)
    if found is None:
        raise ForeignReplyError(
            f"no header {COUNT}: a proxy takes TGI's headers away, or answers in its place; let them pass"
        )
    if found != str(prompt_tokens):
        raise MismatchError(
            f"the server counted {found[:20]} prompt tokens where {prompt_tokens} were sent: another "
            "tokenizer, or pictures of other patches"
        )


# -- who is there --------------------------------------------------------------------------------------


def is_info(body: bytes) -> bool:
    """Whether a page is TGI's `/info`, sound or not."""
    try:
        return isinstance(json_object(body).get("model_id"), str)
    except ReplyError:
        return False


def described(info: bytes) -> list[Served]:
    """The model of `/info`.

    Raises:
        ReplyError: it names none, or takes no prompts.
    """
    found = json_object(info)
    model = a_text(found.get("model_id"))
    context = limit("max_total_tokens", found.get("max_total_tokens"))
    most = found.get("max_input_tokens", found.get("max_input_length"))  # its name before
    # The version of the last releases was never raised: the build tells them apart.
    build = str(found.get("sha") or found.get("docker_label") or "")[:12]
    version = f"{str(found.get('version'))[:40]} {build}".strip()
    revision = found.get("model_sha")
    return [
        Served(
            "tgi",
            model,
            model,
            version,
            context,
            revision=revision if isinstance(revision, str) and revision else None,
            longest_prompt=None if most is None else limit("max_input_tokens", most),
        )
    ]


def count_call(text: str, seed: int) -> Call:
    """A text of which the server counts the tokens, and which it repeats."""
    parameters = Parameters(do_sample=True, seed=seed, max_new_tokens=1, details=True, return_full_text=True)
    return Call("/generate", _body(text, parameters), 64)


def parse_count(body: bytes, headers: Mapping[str, str], text: str, tokens: int, seed: int) -> None:
    """Raises ReplyError unless the reply is to this text, and the server counts as many tokens."""
    reply = json_object(body)
    _prove_seed(an_object(reply.get("details")), seed)
    if not a_text(reply.get("generated_text")).startswith(text):
        raise ForeignReplyError(
            "the answer does not begin with the prompt that was sent: it is to another one"
        )
    _prove_count(headers, tokens)
