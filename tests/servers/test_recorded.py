"""What a real vLLM answered (`tests/live/record.py`) is read as what it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.live.record import (
    LABEL_IDS,
    NAME,
    calls,
    caption_request,
    chat_score_request,
    score_request,
)
from tgi_stack.backends.servers import retry
from tgi_stack.backends.servers.protocols import vllm
from tgi_stack.backends.servers.protocols.reply import ForeignReplyError, MismatchError, error_text, gauge
from tgi_stack.backends.servers.retry import Decision

FOLDER = ROOT / "tests" / "payloads" / "vllm-0.32.0"
RECORDED = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}


def body(name: str) -> bytes:
    text: str = RECORDED[name]["body"]
    return text.encode()


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recording_says_of_what(name: str) -> None:
    assert RECORDED[name]["server"] == "vllm 0.32.0"


@pytest.mark.parametrize("name", sorted(calls()))
def test_what_was_recorded_is_what_is_sent_today(name: str) -> None:
    sent: dict[str, Any] = json.loads(json.dumps(calls()[name][1].body))
    asked = RECORDED[name]["request"]
    assert asked["path"] == calls()[name][1].path
    if not name.startswith("chat"):  # whose images were cut out
        assert asked["body"] == sent


def test_a_read_of_labels() -> None:
    request = score_request("Which? Answer A, B or C:\n")
    (found,) = vllm.parse_tops(body("scores"), [request], "tiny", NAME)
    assert vllm.read_labels(found, LABEL_IDS) == pytest.approx((-8.975430, -5.366055, -3.436367), abs=1e-5)
    with pytest.raises(ForeignReplyError, match="came for"):
        vllm.parse_tops(body("scores"), [request], "tiny", "another")
    with pytest.raises(MismatchError, match="prompt tokens"):
        vllm.parse_tops(body("scores"), [score_request("short")], "tiny", NAME)


def test_a_read_of_two_prompts() -> None:
    requests = [score_request("Which? Answer A, B or C:\n"), score_request("And now? A, B or C:\n")]
    first, second = vllm.parse_tops(body("scores-of-two"), requests, "tiny", NAME)
    (alone,) = vllm.parse_tops(body("scores"), requests[:1], "tiny", NAME)
    assert first == alone != second
    assert set(LABEL_IDS) <= second.keys()


def test_the_likeliest_tokens() -> None:
    request = score_request("Which? Answer A, B or C:\n")
    (found,) = vllm.parse_tops(body("top-logprobs"), [request], "tiny", NAME)
    assert len(found) == 20
    assert LABEL_IDS[2] in found
    assert LABEL_IDS[0] not in found  # label A is not among them
    assert vllm.most_of(error_text(body("too-many-logprobs"))) == 20


def test_a_read_after_images() -> None:
    (found, request) = (body("chat-scores"), chat_score_request())
    tops = vllm.parse_chat_top(found, request, "tiny", NAME)
    assert all(value < 0 for value in vllm.read_labels(tops, LABEL_IDS))


def test_a_chat_about_an_image() -> None:
    caption = vllm.parse_caption(body("chat-with-image"), caption_request(), "tiny", NAME)
    assert caption.text == "A blue dotted mug for hot drinks, used at home or in the office."
    assert (caption.finish_reason, caption.prompt_tokens, caption.completion_tokens) == ("stop", 55, 17)


def test_what_it_says_it_is() -> None:
    (served,) = vllm.described(body("models"), body("version"))
    assert (served.model, served.version, served.context) == ("tiny", "0.32.0", 2048)
    assert gauge(body("metrics"), "vllm:num_requests_waiting") == 0.0
    assert gauge(body("metrics"), "vllm:num_requests_running") == 0.0


@pytest.mark.parametrize(
    ("name", "decision", "message"),
    [
        ("unknown-model", Decision.ASIDE, "does not exist"),
        ("too-long", Decision.ROW, "maximum context length is 2048"),
        ("too-many-logprobs", Decision.ROW, "greater than max allowed: 20"),
        ("broken-image", Decision.ROW, "cannot identify image"),
    ],
)
def test_a_refusal(name: str, decision: Decision, message: str) -> None:
    assert retry.of_status(RECORDED[name]["status"]) is decision
    assert message in error_text(body(name))
