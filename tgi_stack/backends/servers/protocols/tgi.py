"""TGI's dialect: a rendered prompt to `/generate`, never its chat route, which thinks and penalises unasked.

A label read samples (`do_sample`) without a temperature, which leaves the distribution as it is and has TGI
echo the request's seed: a random one proves whose answer a reply is. Greedy text has no such echo, so it gets
a connection of its own. TGI counts prompt tokens in the header `x-prompt-tokens`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from text_generation.types import Details, Grammar, GrammarType, Parameters, Response, Token

from tgi_stack.backends.servers.protocols.reply import (
    Call,
    ForeignReplyError,
    ReplyError,
    Served,
    json_object,
    logprob,
)
from tgi_stack.types import Caption, CaptionRequest, PreparedImage, ScoreRequest

ROUTE = "tgi.grammar"
GROUPS_ROUTE = "tgi.grammar.groups"
OPEN_ROUTE = "tgi.top_n"
SEED_BITS = 53  # JSON numbers are exact that far
_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")
_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
_MOST = re.compile(r"`top_n_tokens` must be >= 0 and <= (\d+)")


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
        grammar=Grammar(type=GrammarType.Regex, value=f"({labels})") if grammar else None,
    )
    prompt = _with_images(request.prompt, request.images)
    return Call("/generate", _body(prompt, parameters), len(request.token_ids))


def parse_top(
    body: bytes,
    headers: Mapping[str, str],
    request: ScoreRequest,
    seed: int,
    needed: Mapping[int, str] = MappingProxyType({}),
) -> dict[int, float]:
    """The logarithms of the first token's likeliest ones, by their ids.

    Args:
        needed: the ids that have to be among them, with what to call them.

    Raises:
        ReplyError: a label that is missing, a number that is none.
        ForeignReplyError: another request's answer.
    """
    details = _details(body)[1]
    if details.seed != seed:
        raise ForeignReplyError(f"the answer of seed {details.seed} came for seed {seed}")
    if not request.images:  # of images TGI counts other tokens than the model reads
        _prove_count(headers, len(request.token_ids))
    first = _first(details.top_tokens)
    found = {token.id: logprob(token.logprob) for token in first}
    if len(found) != len(first):
        raise ReplyError("a token that stands twice")
    missing = [label for id, label in needed.items() if id not in found]
    if missing:
        raise ReplyError(f"no logprob of label {missing[0]!r}")
    return found


def most_of(refusal: str) -> int | None:
    """The server's MAX_TOP_N_TOKENS, where its refusal names it."""
    found = _MOST.search(refusal)
    return int(found[1]) if found else None


def refuses_grammars(refusal: str) -> bool:
    """Whether a refusal says that the server was started without grammars."""
    return "grammar" in refusal.lower()


def caption_call(request: CaptionRequest) -> Call:
    """The prompt as it was rendered, with the image as a data URI in its place."""
    prompt = _with_images(request.prompt, () if request.image is None else (request.image,))
    sampled = request.temperature > 0
    parameters = Parameters(
        do_sample=sampled,
        temperature=request.temperature if sampled else None,
        seed=request.seed,
        max_new_tokens=request.max_new_tokens,
        details=True,
    )
    tokens = len(request.token_ids) + request.max_new_tokens
    return Call("/generate", _body(prompt, parameters), tokens, alone=True)


def parse_caption(body: bytes, headers: Mapping[str, str], request: CaptionRequest) -> Caption:
    """The text; see `parse_score` for what is raised."""
    text, details = _details(body)
    if request.image is None:  # of an image TGI counts other tokens than the model reads
        _prove_count(headers, len(request.token_ids))
    reason = _REASONS[details.finish_reason.value]
    return Caption(text.strip(), reason, "generate", len(request.token_ids), details.generated_tokens)


_IMAGE = re.compile(r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>")


def _with_images(prompt: str, images: Sequence[PreparedImage]) -> str:
    """TGI puts the vision tokens around and in place of a link itself."""
    links = (f"![](data:image/jpeg;base64,{base64.b64encode(i.jpeg).decode('ascii')})" for i in images)
    replaced, times = _IMAGE.subn(lambda match: next(links, ""), prompt)
    if times != len(images):
        raise ValueError(f"the prompt has {times} places for {len(images)} images")
    return replaced


def _body(prompt: str, parameters: Parameters) -> dict[str, Any]:
    return {"inputs": prompt, "parameters": parameters.model_dump(mode="json", exclude_none=True)}


def _details(body: bytes) -> tuple[str, Details]:
    value = json_object(body)
    try:
        reply = Response.model_validate(value)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ReplyError(f"{place}: {error.errors()[0]['msg']}") from error
    return reply.generated_text, reply.details


def _first(top_tokens: Sequence[Sequence[Token]] | None) -> Sequence[Token]:
    if not top_tokens or len(top_tokens) != 1:
        raise ReplyError("no top_tokens of one token")
    return top_tokens[0]


def _prove_count(headers: Mapping[str, str], prompt_tokens: int) -> None:
    found = headers.get("x-prompt-tokens")
    if found is not None and found != str(prompt_tokens):
        raise ForeignReplyError(
            f"the server counted {found[:20]} prompt tokens, not {prompt_tokens}: another tokenizer"
        )


# -- who is there --------------------------------------------------------------------------------------


def described(info: bytes) -> list[Served]:
    """The model of `/info`."""
    found = json_object(info)
    model, context = found.get("model_id"), found.get("max_total_tokens")
    if not isinstance(model, str) or type(context) is not int:
        raise ReplyError("no model_id, or no max_total_tokens")
    # The version of the last releases was never raised: the build tells them apart.
    build = found.get("sha") or found.get("docker_label") or ""
    version = f"{found.get('version')} {str(build)[:12]}".strip()
    return [Served("tgi", model, model, version, context, found.get("model_sha") or None)]


def count_call(text: str, seed: int) -> Call:
    """A text of which the server counts the tokens."""
    parameters = Parameters(do_sample=True, seed=seed, max_new_tokens=1, details=True)
    return Call("/generate", _body(text, parameters), 64)


def parse_count(body: bytes, headers: Mapping[str, str], tokens: int) -> None:
    """Raises ReplyError unless the server counts as many tokens."""
    _details(body)
    _prove_count(headers, tokens)
