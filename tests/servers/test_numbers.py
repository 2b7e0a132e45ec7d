"""Numbers of replies: what is no logarithm is none, in either dialect and on every route."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from tests.loopback import bf16, log_softmax
from tests.servers.test_protocols import (
    IDS,
    LABEL_IDS,
    LABELS,
    REQUEST,
    read_tgi,
    read_vllm,
    tgi_reply,
    vllm_reply,
)
from tgi_stack.backends.servers.protocols import vllm
from tgi_stack.backends.servers.protocols.numbers import (
    NOT_SEEN,
    SUM_TOLERANCE,
    ReplyError,
    count,
    distribution,
    logprob,
)
from tgi_stack.backends.servers.reads.readings import bounded, refuse_impossible
from tgi_stack.errors import AnswerError, ScoreError

NONE = [
    None, True, False, "x", "-0.5", "NaN", "-0.1 ", [], [-0.5], {}, {"value": -0.5}, float("nan"),
    float("inf"),
    float("-inf"), 0.5, 1, 2**63, -(10**400), 10**400, -1e39, 1e308, -1e308, -(2**2000),
]  # fmt: skip
UNSEEN = [-9999, -9999.0, -65504.0, -1e30, -3.4e38, -(2**100), NOT_SEEN - 1]
READ = [(0, 0.0), (0.0, 0.0), (-0.0, 0.0), (1e-4, 0.0), (-1, -1.0), (-0.0039, -0.0039), (-699.5, -699.5)]


@pytest.mark.parametrize("value", NONE, ids=lambda value: repr(value)[:20])
def test_what_is_no_number_is_no_logarithm(value: Any) -> None:
    with pytest.raises(ReplyError):
        logprob(value)


@pytest.mark.parametrize("value", UNSEEN)
def test_what_was_masked_was_not_seen(value: Any) -> None:
    assert logprob(value) is None
    assert distribution([(1, -0.5), (2, value)]) == {1: -0.5}


@pytest.mark.parametrize(("value", "read"), READ)
def test_what_is_a_logarithm_is_read(value: Any, read: float) -> None:
    assert logprob(value) == read
    assert math.exp(read) > 0.0


@pytest.mark.parametrize("value", [*NONE, *UNSEEN], ids=lambda value: repr(value)[:20])
def test_every_route_reads_numbers_alike(value: Any) -> None:
    """A label that is not read fails its row; it is never an answer."""
    text = "null" if value is None else _text(value)
    spoilt_vllm = vllm_reply({f"token_id:{LABEL_IDS[1]}": "@"}).replace(b'"@"', text.encode())
    with pytest.raises(ReplyError):
        read_vllm(spoilt_vllm)
    spoilt_tgi = tgi_reply().replace(b'"logprob": -0.5', b'"logprob": ' + text.encode())
    assert text.encode() in spoilt_tgi
    with pytest.raises(ReplyError):
        read_tgi(spoilt_tgi)
    chat = {
        "id": "chatcmpl-n",
        "model": "tiny",
        "usage": {"prompt_tokens": len(IDS)},
        "choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "token_id:1", "logprob": "@"}]}]}}],
    }
    body = json.dumps(chat).replace('"@"', text).encode()
    with pytest.raises(ReplyError):
        vllm.read_labels(vllm.parse_chat_top(body, REQUEST, "tiny", "n"), (1,))


def _text(value: Any) -> str:
    return (
        f"-1{'0' * 400}"
        if value == -(10**400)
        else f"1{'0' * 400}"
        if value == 10**400
        else json.dumps(value)
    )


@pytest.mark.parametrize("value", [-1, 2**31, 2**63, 1.0, "3", True, None, [], 10**400])
def test_what_is_no_count_is_none(value: Any) -> None:
    with pytest.raises(ReplyError):
        count(value)


def test_probabilities_of_half_precision_add_up() -> None:
    """The tolerance holds a whole vocabulary in bf16, and nothing that is far over 1."""
    rng = np.random.default_rng(1)
    for size in (2, 52, 1024, 151_936):
        for spread in (0.01, 2.0, 8.0):
            values = bf16(log_softmax(rng.normal(size=size, scale=spread)))
            total = math.fsum(map(math.exp, values))
            assert abs(total - 1.0) < SUM_TOLERANCE / 2
            distribution(enumerate(values.tolist()))
    with pytest.raises(ReplyError, match="add up"):
        distribution([(1, 0.0), (2, 0.0)])
    with pytest.raises(ReplyError, match="add up"):
        distribution([(1, -0.6), (2, -0.6)])


def test_a_token_of_two_values_has_none() -> None:
    with pytest.raises(ReplyError, match="twice"):
        distribution([(1, -1.0), (1, -1.0)])
    with pytest.raises(ReplyError):
        read_vllm(vllm_reply().replace(b'"choices"', b'"choices": [], "choices"'))


def test_a_bound_comes_from_a_seen_value() -> None:
    found = distribution([(LABEL_IDS[0], -0.1), (7, -5.0), (8, -9999.0)])
    scores = bounded(REQUEST, found, "route", None, 1)
    assert scores.logprobs == (-0.1, -5.0, -5.0)
    assert not scores.exact
    with pytest.raises(ScoreError):
        bounded(REQUEST, distribution([(LABEL_IDS[0], -9999.0), (7, -0.1)]), "route", None, 1)


@pytest.mark.parametrize("values", [(0.0, 0.0), (-0.1, -0.2, -3.0), (-0.1, NOT_SEEN - 100)])
def test_replies_that_do_not_agree_are_none(values: tuple[float, ...]) -> None:
    with pytest.raises(AnswerError) as failed:
        refuse_impossible(values, 2)
    assert failed.value.type == "server.bad_response"


def test_labels_of_the_reply_are_all_there() -> None:
    assert len(read_tgi(tgi_reply())) == len(LABELS)
