"""TGI's dialect: a rendered prompt to `/generate`, never its chat route, which thinks and penalises unasked.

A label read samples (`do_sample`) without a temperature, which leaves the distribution as it is and has TGI
echo the request's seed: a random one proves whose answer a reply is. Greedy text has no such echo, so it gets
a connection of its own. TGI counts prompt tokens in the header `x-prompt-tokens`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from text_generation.types import Details, Grammar, GrammarType, Parameters, Response, Token

from tgi_stack.types import Caption, CaptionRequest, LabelScores, ScoreRequest
from tgi_stack.wire.reply import Call, ForeignReplyError, ReplyError, Served, json_object, logprob

ROUTE = "tgi.grammar"
SEED_BITS = 53  # JSON numbers are exact that far
_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")
_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}


def score_call(request: ScoreRequest, seed: int) -> Call:
    """One token, which the grammar allows to be a label and nothing else."""
    labels = "|".join(_SPECIAL.sub(r"\\\1", label) for label in request.labels)
    parameters = Parameters(
        do_sample=True,
        seed=seed,
        max_new_tokens=1,
        details=True,
        top_n_tokens=len(request.labels),
        grammar=Grammar(type=GrammarType.Regex, value=f"({labels})"),
    )
    return Call("/generate", _body(request.prompt, parameters), len(request.token_ids))


def parse_score(body: bytes, headers: Mapping[str, str], request: ScoreRequest, seed: int) -> LabelScores:
    """The reading: exact among the labels; how much they have of the vocabulary is not known.

    Raises:
        ReplyError: a label that is missing, a number that is none.
        ForeignReplyError: another request's answer.
    """
    details = _details(body)[1]
    if details.seed != seed:
        raise ForeignReplyError(f"the answer of seed {details.seed} came for seed {seed}")
    _prove_count(headers, len(request.token_ids))
    found = {token.id: token.logprob for token in _first(details.top_tokens)}
    missing = [label for label, id in zip(request.labels, request.label_ids, strict=True) if id not in found]
    if missing:
        raise ReplyError(f"no logprob of label {missing[0]!r}")
    logprobs = tuple(logprob(found[id]) for id in request.label_ids)
    return LabelScores(logprobs, "labels", None, True, ROUTE, len(request.token_ids))


def caption_call(request: CaptionRequest) -> Call:
    """The prompt as it was rendered, with the image as a data URI in its place."""
    prompt = request.prompt
    if request.image is not None:
        data = base64.b64encode(request.image.jpeg).decode("ascii")
        prompt = _with_image(prompt, f"![](data:image/jpeg;base64,{data})")
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


def _with_image(prompt: str, link: str) -> str:
    """TGI puts the vision tokens around and in place of the link itself."""
    replaced, times = _IMAGE.subn(lambda match: link, prompt, count=1)
    if times != 1:
        raise ValueError("the prompt has no place for its image")
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
