"""What a running TGI answered, with its attention kernels and without, is read as what it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.tgi_document import answers, takes
from tgi_stack.backends.servers import retry
from tgi_stack.backends.servers.protocols import tgi
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import ForeignReplyError, MismatchError, error_text
from tgi_stack.backends.servers.retry import Decision
from tgi_stack.types import CaptionRequest, PreparedImage, ScoreRequest

FILE = ROOT / "tests" / "payloads" / "tgi-3.3.6-dev0" / "replies.json"
RECORDED: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in json.loads(FILE.read_text())}
SEED = 4242
LABELS = {33: "B", 34: "C", 32: "A"}
KINDS = ("flash", "causal")


def body(name: str) -> bytes:
    found = RECORDED[name]["body"]
    return found.encode() if isinstance(found, str) else json.dumps(found).encode()


def headers(name: str) -> dict[str, str]:
    return dict(RECORDED[name]["headers"])


def asked(name: str) -> ScoreRequest:
    tokens = int(headers(name)["x-prompt-tokens"])
    return ScoreRequest(
        RECORDED[name]["request"]["inputs"], tuple(range(tokens)), ("A", "B", "C"), (32, 33, 34)
    )


def summary(name: str) -> CaptionRequest:
    request = asked(name)
    return CaptionRequest(request.prompt, "", request.token_ids, None, 6)


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_every_recording_is_an_answer_or_refusal(name: str) -> None:
    entry = RECORDED[name]
    if entry["status"] != 200:
        assert retry.of_status(entry["status"]) in Decision
        assert len(error_text(body(name))) > 3
    elif entry["route"] == "/info":
        (served,) = tgi.described(body(name))
        assert (served.context, served.longest_prompt) == (4096, 4000)
    elif entry["route"] == "/generate":
        assert takes(entry["request"])
        assert answers(entry["body"])
        assert entry["body"]["details"]["tokens"]


def test_a_read_by_grammar() -> None:
    name = "flash: label read by grammar"
    top = tgi.parse_top(body(name), headers(name), asked(name), SEED, LABELS, ("A", "B", "C"))
    assert top.strange is None
    assert top.found == {33: -0.0038986206, 34: -5.5625, 32: -8.375}
    with pytest.raises(ForeignReplyError, match="seed"):
        tgi.parse_top(body(name), headers(name), asked(name), SEED + 1, LABELS)
    with pytest.raises(ForeignReplyError, match="x-prompt-tokens"):
        tgi.parse_top(body(name), {}, asked(name), SEED, LABELS)
    with pytest.raises(MismatchError):
        tgi.parse_top(body(name), headers(name) | {"x-prompt-tokens": "30"}, asked(name), SEED, LABELS)


def test_a_grammar_that_is_passed_over_shows() -> None:
    name = "causal: label read by grammar"
    top = tgi.parse_top(body(name), headers(name), asked(name), SEED, LABELS, ("A", "B", "C"))
    assert top.strange == "M"
    name = "flash: labels of two tokens and their prefixes"
    needed = {772: "AA", 773: "AB", 33: "B"}
    assert (
        tgi.parse_top(body(name), headers(name), asked(name), SEED, needed, ("AA", "AB", "B")).strange is None
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_proves_itself_by_its_prompt(kind: str) -> None:
    name = f"{kind}: greedy text that repeats its prompt"
    caption = tgi.parse_caption(body(name), headers(name), summary(name))
    assert (caption.text, caption.finish_reason, caption.completion_tokens) == ("BBBBBB", "length", 6)
    other = CaptionRequest("Another prompt", "", summary(name).token_ids, None, 6)
    with pytest.raises(ForeignReplyError, match="another one"):
        tgi.parse_caption(body(name), headers(name), other)
    without = f"{kind}: greedy text"
    with pytest.raises(ForeignReplyError):
        tgi.parse_caption(body(without), headers(without), summary(name))


@pytest.mark.parametrize("kind", KINDS)
def test_the_likeliest_tokens_of_all(kind: str) -> None:
    name = f"{kind}: top_n without grammar"
    assert len(tgi.parse_top(body(name), headers(name), asked(name), SEED).found) == 5


@pytest.mark.parametrize(("name", "size", "pads"), [("56 x 28", (56, 28), 2), ("60 x 40", (60, 40), 4)])
def test_tokens_of_a_picture_are_counted(name: str, size: tuple[int, int], pads: int) -> None:
    """13 tokens of text and the two marks around the picture, which the model reads as `pads` tokens."""
    recorded = RECORDED[f"an image of {name}"]
    image = PreparedImage(b"", "", *size, *size)
    prompt = f"<|vision_start|>{'<|image_pad|>' * pads}<|vision_end|>Name it."
    counted = tgi._counted(tuple(range(15 + pads)), prompt, [image])
    assert str(counted) == recorded["headers"]["x-prompt-tokens"]


def test_refusals_say_what_the_server_shows() -> None:
    assert tgi.most_of(error_text(body("more top tokens than the server shows"))) == 20
    assert "must have less than 400 tokens" in error_text(
        body("between max_input_tokens and max_total_tokens")
    )
    assert error_text(body("no key")) == "(nothing)"
    with pytest.raises(ReplyError):
        tgi.described(body("prompt too long"))


def test_a_label_behind_its_prompt_is_told() -> None:
    read = {}
    for kind in KINDS:
        name = f"{kind}: logprobs of the prompt"
        inputs = RECORDED[name]["request"]["inputs"]
        told = RECORDED["causal: logprobs of the prompt"]["body"]["details"]["prefill"]
        request = ScoreRequest(inputs[:-1], tuple(one["id"] for one in told[:-1]), ("A",), (32,))
        assert tgi.completed_call(request, "A", SEED).body["inputs"] == inputs
        found = RECORDED[name]["body"]
        reply = json.dumps(found | {"details": found["details"] | {"seed": SEED}}).encode()
        read[kind] = tgi.parse_completed(reply, request, 32, SEED)
        assert tgi.parse_completed(reply, request, 33, SEED).logprob is None
        with pytest.raises(ForeignReplyError, match="seed"):
            tgi.parse_completed(reply, request, 32, SEED + 1)
    assert read == {"flash": tgi.Completed(False), "causal": tgi.Completed(True, -8.401895)}
