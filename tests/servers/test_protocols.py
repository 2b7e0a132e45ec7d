"""The dialects: what is sent is what the servers' own documents take, what comes back is read strictly."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from jsonschema import ValidationError

from tests.loopback import TOKENIZER, Loopback
from tests.tgi_document import answers, takes
from tgi_stack.backends.servers.protocols import tgi, vllm
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import (
    ForeignReplyError,
    MismatchError,
    error_text,
    shown,
    status_of,
)
from tgi_stack.prompting import prompts
from tgi_stack.types import CaptionRequest, PreparedImage, ScoreRequest

PROMPT = "Which? Answer A or B:\n"
IDS = TOKENIZER.encode(PROMPT)
LABELS = ("A", "B", "C")
LABEL_IDS = tuple(TOKENIZER.encode(label)[0] for label in LABELS)
REQUEST = ScoreRequest(PROMPT, IDS, LABELS, LABEL_IDS)
IMAGE = PreparedImage(b"\xff\xd8jpeg", "0" * 64, 96, 96, 96, 96)
SEED = 2**53 - 1


def caption(image: PreparedImage | None = None, temperature: float = 0.0) -> CaptionRequest:
    frame = prompts.image_turn("Look.", image_tokens=9, close_thinking=False)
    prompt = frame if image else prompts.user_turn("Look.", close_thinking=False)
    return CaptionRequest(
        prompt, "Look.", TOKENIZER.encode(prompt), image, 16, temperature, 7 if temperature else None
    )


@pytest.mark.parametrize(
    "call",
    [
        tgi.score_call(REQUEST, SEED, 3, LABELS),
        tgi.caption_call(caption()),
        tgi.caption_call(caption(IMAGE)),
        tgi.caption_call(caption(IMAGE, 0.7)),
        tgi.count_call("text", SEED),
    ],
)
def test_requests_to_tgi_match_its_document(call: Any) -> None:
    assert takes(json.loads(json.dumps(call.body)))
    assert "presence_penalty" not in json.dumps(call.body)


def test_our_loopback_replies_match_tgis_document() -> None:
    server = Loopback("tgi")
    body = json.loads(json.dumps(tgi.score_call(REQUEST, SEED, 3, LABELS).body))
    assert answers(server._generate(body["inputs"], body["parameters"])[1])
    info = server._described("/info")
    assert info is not None
    assert tgi.described(json.dumps(info).encode())[0].context == 4096


@pytest.mark.parametrize(
    "changes", [{"seed": -1}, {"temperature": 0}, {"grammar": {"type": "regex"}}, {"top_p": 2}, {"seeds": 1}]
)
def test_what_tgi_would_not_take_shows(changes: dict[str, Any]) -> None:
    body = tgi.score_call(REQUEST, SEED, 3, LABELS).body
    with pytest.raises((ValidationError, AssertionError)):
        takes(body | {"parameters": body["parameters"] | changes})


def test_an_image_reaches_tgi_as_inline_data() -> None:
    inputs = tgi.caption_call(caption(IMAGE)).body["inputs"]
    data = base64.b64encode(IMAGE.jpeg).decode()
    assert inputs.count("![](") == 1
    assert f"![](data:image/jpeg;base64,{data})Look." in inputs
    assert "<|image_pad|>" not in inputs


def test_labels_are_literal_in_a_grammar() -> None:
    odd = ScoreRequest("x", (1,), ("a.b", "(", "|", "\\"), (1, 2, 3, 4))
    assert (
        tgi.score_call(odd, 1, 4, odd.labels).body["parameters"]["grammar"]["value"] == "(a\\.b|\\(|\\||\\\\)"
    )


def tgi_reply(**changes: Any) -> bytes:
    top = [
        {"id": id, "text": label, "logprob": value, "special": False}
        for id, label, value in zip(LABEL_IDS, LABELS, (-1.5, -0.5, -1.75), strict=True)
    ]
    details: dict[str, Any] = {
        "finish_reason": "length",
        "generated_tokens": 1,
        "seed": SEED,
        "prefill": [],
        "tokens": [],
    }
    details |= {"top_tokens": [top]}
    return json.dumps({"generated_text": "B", "details": details | changes}).encode()


def vllm_reply(top: dict[str, Any] | None = None, prompt_tokens: int | None = None, **changes: Any) -> bytes:
    found = {f"token_id:{id}": value for id, value in zip(LABEL_IDS, (-1.5, -0.5, -2.5), strict=True)}
    reply = {
        "id": "cmpl-n",
        "model": "tiny",
        "choices": [{"index": 0, "logprobs": {"top_logprobs": [found | (top or {})]}}],
        "usage": {"prompt_tokens": len(IDS) if prompt_tokens is None else prompt_tokens},
    }
    return json.dumps(reply | changes).encode()


def read_tgi(body: bytes, tokens: int = len(IDS)) -> list[float]:
    needed = dict(zip(LABEL_IDS, LABELS, strict=True))
    found = tgi.parse_top(body, {"x-prompt-tokens": str(tokens)}, REQUEST, SEED, needed).found
    return [found[id] for id in LABEL_IDS]


def read_vllm(body: bytes) -> tuple[float, ...]:
    return vllm.read_labels(vllm.parse_tops(body, [REQUEST], "tiny", "n")[0], LABEL_IDS)


def test_sound_replies_are_read() -> None:
    assert read_tgi(tgi_reply()) == [-1.5, -0.5, -1.75]
    assert read_vllm(vllm_reply()) == (-1.5, -0.5, -2.5)


FIRST = f"token_id:{LABEL_IDS[0]}"


@pytest.mark.parametrize("value", [None, float("nan"), 0.5, "x", True, -9999.0])
def test_what_is_no_logarithm_is_no_score(value: Any) -> None:  # S05
    with pytest.raises(ReplyError):
        read_vllm(vllm_reply({FIRST: value}))


@pytest.mark.parametrize(
    "body",
    [
        vllm_reply(id="cmpl-m"),
        vllm_reply(model="other"),
    ],
)
def test_another_requests_answer_is_known_by_it(body: bytes) -> None:  # S08, C10
    with pytest.raises(ForeignReplyError):
        read_vllm(body)


def test_another_seed_or_count_is_another_requests_answer() -> None:  # S08
    with pytest.raises(ForeignReplyError):
        read_tgi(tgi_reply(seed=5))


def test_another_text_is_another_tokenizer() -> None:  # C10, S06
    body = json.loads(tgi_reply())
    (tokens,) = body["details"]["top_tokens"]
    first, second = (token for token in tokens if token["id"] in LABEL_IDS[:2])
    first["id"], second["id"] = second["id"], first["id"]
    with pytest.raises(MismatchError, match="another tokenizer"):
        read_tgi(json.dumps(body).encode())
    for text in ("\ufffd", " "):  # parts of characters have no text, nor what a server leaves out
        first["text"] = second["text"] = text
        assert read_tgi(json.dumps(body).encode())


def test_another_count_is_another_tokenizer() -> None:  # C10
    with pytest.raises(MismatchError):
        read_tgi(tgi_reply(), tokens=len(IDS) + 1)
    with pytest.raises(MismatchError):
        read_vllm(vllm_reply(prompt_tokens=len(IDS) + 1))


@pytest.mark.parametrize(
    "changes", [{"choices": []}, {"choices": [{}, {}]}, {"choices": None}, {"usage": None}]
)
def test_fewer_or_more_answers_than_questions_are_none(changes: dict[str, Any]) -> None:  # S07
    with pytest.raises(ReplyError):
        read_vllm(vllm_reply(**changes))


def test_several_answers_are_matched_by_their_index() -> None:  # S07
    choices = json.loads(vllm_reply())["choices"]
    other = {
        "index": 1,
        "logprobs": {"top_logprobs": [dict.fromkeys(choices[0]["logprobs"]["top_logprobs"][0], -3.0)]},
    }
    body = vllm_reply(choices=[other, *choices], prompt_tokens=2 * len(IDS))
    first, second = vllm.parse_tops(body, [REQUEST, REQUEST], "tiny", "n")
    assert (first[LABEL_IDS[0]], second[LABEL_IDS[0]]) == (-1.5, -3.0)
    twice = vllm_reply(choices=[*choices, *choices], prompt_tokens=2 * len(IDS))
    with pytest.raises(ReplyError, match="index"):
        vllm.parse_tops(twice, [REQUEST, REQUEST], "tiny", "n")


def test_probabilities_add_up_to_one_at_most() -> None:
    with pytest.raises(ReplyError, match="add up"):
        read_vllm(vllm_reply(dict.fromkeys((f"token_id:{id}" for id in LABEL_IDS), -0.5)))


def test_a_token_that_stands_twice_is_no_reading() -> None:  # S06
    top = json.loads(tgi_reply())["details"]["top_tokens"][0]
    assert read_tgi(tgi_reply(top_tokens=[top[::-1]])) == [-1.5, -0.5, -1.75]
    with pytest.raises(ReplyError, match="twice"):
        read_tgi(tgi_reply(top_tokens=[[*top, top[0]]]))


@pytest.mark.parametrize(
    "top_tokens", [None, [], [[]], [[{"id": 1, "text": "A", "logprob": -1.0, "special": False}]]]
)
def test_a_label_that_is_missing_is_no_zero(top_tokens: Any) -> None:  # S05, S06
    with pytest.raises(ReplyError):
        read_tgi(tgi_reply(top_tokens=top_tokens))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'"x"', b"[" * 100_000])
def test_what_is_no_object_is_no_reply(body: bytes) -> None:  # S01
    with pytest.raises(ReplyError):
        read_vllm(body)
    with pytest.raises(ReplyError):
        read_tgi(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":"Model is overloaded","error_type":"overloaded"}', "Model is overloaded"),
        (b'{"error":{"message":"maximum context","code":400}}', "maximum context"),
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b"", "(nothing)"),
        (b"<html>\x1b[31m bad", "<html> [31m bad"),
    ],
)
def test_errors_are_said_whatever_their_form(body: bytes, said: str) -> None:  # S01, S02
    assert error_text(body) == said


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error":{"message":"x","code":503}}', 503),
        (b'{"error":{"message":"x","code":"429"}}', 429),
        (b'{"error":{"message":"x","type":"invalid_request_error","code":null}}', 400),
        (b'{"error":{"message":"x","type":"y","code":"rate_limit_exceeded"}}', 429),
        (b'{"error":"Model is overloaded","error_type":"overloaded"}', 429),
        (b'{"error":"what","error_type":"else"}', 500),
        (b'{"object":"error","message":"x","type":"BadRequestError","code":400}', 400),
        (b'{"object":"error","message":"x","code":7}', 500),
        (b'{"error":null,"choices":[]}', 200),
        (b'{"error":{},"choices":[]}', 200),
        (b'{"generated_text":"error"}', 200),
        (b'["error"]', 200),
        (b'{"error"', 200),
    ],
)
def test_an_error_sent_as_200_is_one(body: bytes, status: int) -> None:  # S02
    assert status_of(200, body) == status
    assert status_of(502, body) == 502


def test_of_a_long_error_the_beginning_is_shown() -> None:
    assert len(shown(b"x" * 10_000)) < 210
