"""SGLang's dialect: what is sent, what is taken for an answer, and the ways round what it can't do."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Fastqwen, read_records, write_rows
from tests.loopback import MODEL, TOKENIZER, Loopback, RefusedError, listening, serve
from tests.loopback_sglang import VOCABULARY_SIZE
from tests.servers.test_servers import _use, questions, same_as_scripted, use
from tgi_stack.backends.servers.protocols import sglang
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import (
    ForeignReplyError,
    MismatchError,
    OtherWeightsError,
    Served,
    error_text,
)
from tgi_stack.types import PreparedImage, ScoreRequest

PROMPT = "Which? Answer A or B:\n"
IDS = TOKENIZER.encode(PROMPT)
REQUEST = ScoreRequest(PROMPT, IDS, ("A", "B"), (32, 33))
OTHER = ScoreRequest("?", IDS[:3], ("A", "B", "C"), (32, 33, 34))
SERVED = Served("sglang", MODEL, MODEL, "0.5.23", 4096, weights="default")
NAME = f"{4242:014x}"


def scored(**changes: Any) -> bytes:
    reply = {
        "scores": [[0.6, 0.3], [0.1, 0.2, 0.3]],
        "token_logprobs": [[-0.5, -1.25], [-2.5, -1.5, -1.0]],
        "model": f"{MODEL}#{NAME}",
        "usage": {"prompt_tokens": len(IDS) + 3, "total_tokens": len(IDS) + 3, "completion_tokens": 0},
        "object": "scoring",
    }
    return json.dumps(reply | changes).encode()


def generated(**changes: Any) -> bytes:
    meta = {
        "id": NAME,
        "prompt_tokens": len(IDS),
        "weight_version": "default",
        "output_token_ids_logprobs": [[[-0.5, 32, None], [-1.25, 33, "B"]]],
    }
    return json.dumps({"text": "", "output_ids": [], "meta_info": meta | changes}).encode()


def read_scores(body: bytes) -> list[tuple[float, ...]]:
    return sglang.parse_scores(body, [REQUEST, OTHER], MODEL, NAME)


def read_generated(body: bytes) -> tuple[float, ...]:
    return sglang.parse_generate(body, REQUEST, SERVED, NAME)


def test_scores_ask_ids_and_raw_logprobs() -> None:
    body = sglang.score_call([REQUEST, OTHER], MODEL, NAME).body
    assert (body["query"], body["items"]) == ([], [list(IDS), list(IDS[:3])])
    assert body["label_token_ids"] == [[32, 33], [32, 33, 34]]
    assert (body["apply_softmax"], body["return_token_logprobs"]) == (False, True)
    assert read_scores(scored()) == [(-0.5, -1.25), (-2.5, -1.5, -1.0)]
    assert read_generated(generated()) == (-0.5, -1.25)


@pytest.mark.parametrize(
    "rows",
    [
        None, [], [[-0.5, -1.25]], [[-0.5, -1.25], [-2.5, -1.5]], [[-0.5], [-2.5, -1.5, -1.0]],
        [[-0.5, None], [-2.5, -1.5, -1.0]], [[-0.5, -9999.0], [-2.5, -1.5, -1.0]], "x", [0.5, 0.5],
        [[-0.5, "x"], [-2.5, -1.5, -1.0]], [[-0.1, -0.1], [-2.5, -1.5, -1.0]],
    ],
)  # fmt: skip
def test_a_missing_label_is_no_zero(rows: Any) -> None:
    with pytest.raises(ReplyError):
        read_scores(scored(token_logprobs=rows))
    spoilt = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], list) else rows
    if spoilt == [-0.5, -1.25]:
        spoilt = spoilt[:1]
    entries = [[[value, 32 + i, None] for i, value in enumerate(spoilt)]] if spoilt else spoilt
    with pytest.raises(ReplyError):
        read_generated(generated(output_token_ids_logprobs=entries))


@pytest.mark.parametrize("model", [MODEL, "default", f"{MODEL}#{NAME[::-1]}", None])
def test_scores_are_known_by_the_name_sent(model: Any) -> None:
    with pytest.raises(ForeignReplyError):
        read_scores(scored(model=model))


def test_a_reply_is_to_its_request_and_weights() -> None:
    with pytest.raises(MismatchError):
        read_scores(scored(usage={"prompt_tokens": len(IDS)}))
    with pytest.raises(ForeignReplyError):
        read_generated(generated(id="other"))
    with pytest.raises(MismatchError):
        read_generated(generated(prompt_tokens=1))
    with pytest.raises(OtherWeightsError, match="version default, now 2"):
        read_generated(generated(weight_version="2"))
    assert read_generated(generated(weight_version=None)) == (-0.5, -1.25)  # of a release that tells none


def test_a_long_version_of_weights_stays_one() -> None:
    before, after = (f"/checkpoints/{'x' * 100}/{step}" for step in (1, 2))
    served = described(weights=before)
    assert len(served.version) < 100
    body = json.loads(generated(weight_version=before))
    assert sglang.parse_generate(json.dumps(body).encode(), REQUEST, served, NAME)
    assert (
        sglang.weights_of(json.dumps({"weight_version": before, "model_path": "x"}).encode())
        == served.weights
    )
    body["meta_info"]["weight_version"] = after
    with pytest.raises(OtherWeightsError):
        sglang.parse_generate(json.dumps(body).encode(), REQUEST, served, NAME)


def test_images_go_inline_each_at_its_mark() -> None:
    image = PreparedImage(b"\xff\xd8jpeg", "0" * 64, 96, 96, 96, 96)
    pads = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
    seen = ScoreRequest(f"{pads}A{pads}B", (1, 2), ("A",), (32,), (image, "A", image, "B"))
    body = sglang.generate_call(seen, NAME).body
    assert body["text"].count("<|image_pad|>") == len(body["image_data"]) == 2
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in body["image_data"])
    assert "input_ids" not in body


def described(**changes: Any) -> Served:
    server = Loopback("sglang", started=changes.pop("started", {}), weights=changes.pop("weights", "default"))
    pages = (server._described(path) for path in ("/v1/models", "/model_info", "/server_info"))
    models, told, started = (json.dumps(page).encode() for page in pages)
    return sglang.described(models, json.dumps(json.loads(told) | changes).encode(), started)[0]


def test_it_says_what_numbers_depend_on() -> None:
    assert (described().version, described().context, described().longest_prompt) == ("0.5.23", 4096, 4089)
    told = {"enable_fp32_lm_head": True, "dtype": "bfloat16", "quantization": "fp8", "revision": "abc1234"}
    one = described(started=told)
    assert (one.version, one.dtype, one.quantization) == ("0.5.23 fp32-head", "bf16", "fp8")
    assert (one.revision, described(started=told, weights="7").revision) == ("abc1234", None)
    assert described(weights="7").version == "0.5.23 weights 7"
    assert described(served_model_name=None).model == MODEL
    assert described(is_generation=False).fault == "it generates nothing"
    with pytest.raises(ReplyError):
        described(started={"max_req_input_len": 0})


def test_errors_are_said_in_both_forms() -> None:
    assert error_text(b'{"object":"error","message":"too long","code":400}') == "too long"
    assert error_text(b'{"error":{"message":"The request queue is full."}}') == "The request queue is full."


ROUND_WAYS: dict[str, dict[str, Any]] = {
    "an older release": {"scores_items": False},
    "a gateway": {"echoes": False},
    "several items in a pass": {"started": {"enable_mis": True}},
}


@pytest.mark.parametrize("way", ROUND_WAYS)
def test_what_scores_cannot_tell_generate_does(fastqwen: Fastqwen, tmp_path: Path, way: str) -> None:
    rows, out = questions(tmp_path, 20), tmp_path / "o.jsonl"
    with serve("sglang", **ROUND_WAYS[way]) as server:
        fastqwen("probs", rows, "-o", out, *use(server, group=4))
    assert {record["route"] for record in read_records(out)} == {"sglang.generate"}
    same_as_scripted(fastqwen, out, "probs", rows)


def test_added_tokens_are_read_as_labels(fastqwen: Fastqwen, tmp_path: Path) -> None:
    assert TOKENIZER.encode("<think>")[0] >= VOCABULARY_SIZE
    labels = [["A", "B"], ["<think>", "A"], ["B", "C"]]
    rows = write_rows(tmp_path / "r.jsonl", *({"prompt": "Which?\n", "labels": pair} for pair in labels))
    out = tmp_path / "o.jsonl"
    with serve("sglang") as server:
        fastqwen("probs", rows, "-o", out, *use(server, group=3))
    routes = [record["route"] for record in read_records(out)]
    assert routes == ["sglang.score", "sglang.generate", "sglang.score"]
    same_as_scripted(fastqwen, out, "probs", rows)


def test_one_bad_item_fails_no_other(fastqwen: Fastqwen, tmp_path: Path) -> None:
    bad = list(TOKENIZER.encode("Question 00003\n"))

    class Picky(Loopback):
        def _answer(self, path: str, asked: dict[str, Any], headers: dict[str, str]) -> Any:
            if bad in asked.get("items", []):
                raise RefusedError(400, {"object": "error", "message": "bad item", "code": 400})
            return super()._answer(path, asked, headers)

    rows, out = questions(tmp_path, 16), tmp_path / "o.jsonl"
    with listening(Picky("sglang")) as server:
        fastqwen("probs", rows, "-o", out, *use(server, group=8), check=1)
    failed = [record for record in read_records(out) if record["status"] == "failed"]
    assert [(one["id"], one["error"]["type"]) for one in failed] == [("row-3", "server.refused")]
    assert "bad item" in failed[0]["error"]["message"]


def test_a_missing_label_fails_its_row_alone(fastqwen: Fastqwen, tmp_path: Path) -> None:
    bad = list(TOKENIZER.encode("Question 00003\n"))

    class Blind(Loopback):
        def _answer(self, path: str, asked: dict[str, Any], headers: dict[str, str]) -> Any:
            more, reply = super()._answer(path, asked, headers)
            for index, ids in enumerate(asked.get("items", [])):
                if ids == bad:
                    reply["token_logprobs"][index][1] = None
            return more, reply

    rows, out = questions(tmp_path, 16), tmp_path / "o.jsonl"
    with listening(Blind("sglang")) as server:
        fastqwen("probs", rows, "-o", out, *use(server, group=8), "--fallback", "fail", check=1)
    failed = [record for record in read_records(out) if record["status"] == "failed"]
    assert [(one["id"], one["error"]["type"]) for one in failed] == [("row-3", "server.bad_response")]


@pytest.mark.slow
@pytest.mark.parametrize("route", ["/v1/score", "/generate"])
def test_swapped_weights_end_the_run(fastqwen: Fastqwen, tmp_path: Path, route: str) -> None:
    rows, out = questions(tmp_path, 4000), tmp_path / "o.jsonl"
    with serve("sglang", delay_s=0.02, scores_items=route == "/v1/score") as server:

        def swap() -> None:
            while server.posts < 60:
                time.sleep(0.005)
            server.weights = "2"

        meddler = threading.Thread(target=swap)
        meddler.start()
        done = fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "8", check=4)
        meddler.join()
    assert "weights were swapped while the run went on (version default, now 2)" in done.stderr
    assert server.posts < 2000


def test_the_page_that_generates_is_not_polled(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = questions(tmp_path, 40)
    with serve("sglang") as server:
        server.fault = lambda number, path: "truncated" if number in (7, 11) else None
        fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *use(server))
        assert "/ready" in server.looked_at
        assert "/health" not in server.looked_at


def test_a_full_queue_is_waited_out(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows, out = questions(tmp_path, 40), tmp_path / "o.jsonl"
    with serve("sglang") as server:
        server.fault = lambda number, path: "503" if number in (5, 9) else None
        done = fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "4")
    assert "40 ok" in done.stderr
    same_as_scripted(fastqwen, out, "probs", rows)


def test_an_adapter_is_named_and_refused(fastqwen: Fastqwen, tmp_path: Path) -> None:
    class WithAdapter(Loopback):
        def _described(self, path: str) -> dict[str, Any] | None:
            page = super()._described(path)
            if page is not None and path == "/v1/models":
                page["data"].append({"id": "lora", "root": "/a", "parent": MODEL, "max_model_len": None})
            return page

    rows = questions(tmp_path, 2)
    with listening(WithAdapter("sglang")) as server:
        fastqwen("probs", rows, *_use(server))
        done = fastqwen("probs", rows, "--endpoint", server.url, "--model", "lora", check=4)
    assert "serve it merged into its model" in done.stderr
