"""What a running TGI answered of the shipped checkpoint, held to the limits of `make agreement`."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from agreement import BF16, FP32
from tests.conftest import ROOT
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY
from tgi_stack.types import ScoreRequest

FILE = ROOT / "tests" / "payloads" / "tgi-3.3.6-dev0" / "replies.json"
RECORDED: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in json.loads(FILE.read_text())}
# With its attention kernels it computed in fp16, without them in fp32.
LIMITS = {"flash": BF16, "causal": FP32}


@pytest.fixture(scope="module")
def logprobs(text_model: Any) -> Any:
    """Of every token after a prompt, by transformers' forward in fp32."""
    tokenizer = Tokenizer(TINY / "text" / "tokenizer.json")

    @torch.inference_mode()
    def after(prompt: str) -> Any:
        ids = torch.tensor([tokenizer.encode(prompt)])
        return torch.log_softmax(text_model(input_ids=ids).logits[0, -1].double(), -1)

    return after


@pytest.mark.parametrize("manner", LIMITS)
def test_recorded_labels_agree_with_torch(manner: str, logprobs: Any) -> None:
    entry = RECORDED[f"{manner}: label read by grammar"]
    ids = {"A": 32, "B": 33, "C": 34}
    prompt = entry["request"]["inputs"]
    tokens = int(entry["headers"]["x-prompt-tokens"])
    request = ScoreRequest(prompt, tuple(range(tokens)), tuple(ids), tuple(ids.values()))
    wanted = logprobs(prompt)[list(ids.values())].softmax(-1)
    shown = {one["id"]: one["logprob"] for one in entry["body"]["details"]["top_tokens"][0]}
    found = [math.exp(shown[id]) if id in shown else None for id in request.label_ids]
    for name, one, other in zip(ids, found, wanted.tolist(), strict=True):
        assert manner == "causal" or one == pytest.approx(other, abs=LIMITS[manner]), name
    chosen = entry["body"]["details"]["tokens"][0]
    assert math.exp(chosen["logprob"]) == pytest.approx(
        float(wanted[list(ids.values()).index(chosen["id"])]), abs=LIMITS[manner]
    )


@pytest.mark.parametrize("manner", LIMITS)
@pytest.mark.parametrize("name", ["top_n without grammar", "greedy text"])
def test_recorded_logprobs_agree_with_torch(manner: str, name: str, logprobs: Any) -> None:
    entry = RECORDED[f"{manner}: {name}"]
    wanted = logprobs(entry["request"]["inputs"])
    details = entry["body"]["details"]
    shown = details["top_tokens"][0] if details.get("top_tokens") else details["tokens"][:1]
    for one in shown:
        assert math.exp(one["logprob"]) == pytest.approx(math.exp(wanted[one["id"]]), abs=LIMITS[manner])


def test_labels_out_of_sight_are_in_the_prefill(logprobs: Any) -> None:
    """Without kernels a server tells the logprob of a prompt's last token over the whole vocabulary."""
    entry = RECORDED["causal: logprobs of the prompt"]
    inputs = entry["request"]["inputs"]
    last = entry["body"]["details"]["prefill"][-1]
    assert inputs.endswith(last["text"])
    assert last["logprob"] == pytest.approx(
        float(logprobs(inputs[: -len(last["text"])])[last["id"]]), abs=1e-3
    )
