"""Label probabilities by every route are those of a plain forward, or say that they are not."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Fastqwen, read_records, write_rows
from tests.loopback import Loopback, listening, serve
from tests.tolerances import FP32
from tgi_stack.prompting.labels import default_labels
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY

COUNTS = [2, 9, 10, 20, 26, 27, 52, 53, 100]
TORCH = ("--engine", "torch", "--model", "tiny", "--device", "cpu")


@pytest.fixture(scope="session")
def logits(text_model: Any) -> Any:
    def of(ids: Any) -> Any:
        with torch.no_grad():
            return text_model(torch.tensor([list(ids)])).logits[0, -1].double().numpy()

    return of


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    prompts = (
        f"Which of {n} fits {word}? The answer:\n" for n, word in zip(COUNTS, "abcdefghi", strict=True)
    )
    listed = zip(COUNTS, prompts, strict=True)
    return write_rows(tmp_path / "p.jsonl", *({"prompt": p, "num_candidates": n} for n, p in listed))


def use(server: Loopback, *options: str) -> list[str]:
    return ["--endpoint", server.url, "--model", "tiny", "--startup-timeout", "5", *options]


def expected(row: dict[str, Any], logits: Any, tokenizer: Tokenizer, prompt: str) -> tuple[Any, float]:
    """Probabilities and mass by a plain softmax over a plain forward's logits."""
    values = logits(tokenizer.encode(prompt))
    full = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
    ids = [tokenizer.encode(prompt + label)[-1] for label in row["labels"]]
    return full[ids] / full[ids].sum(), float(full[ids].sum())


def assert_right(path: Path, rows: Path, logits: Any, tokenizer: Tokenizer, abs: float = FP32) -> list[Any]:
    records = read_records(path)
    for record, asked in zip(records, read_records(rows), strict=True):
        assert record["status"] == "ok", record
        probabilities, mass = expected(record, logits, tokenizer, asked["prompt"])
        assert len(record["probabilities"]) == asked["num_candidates"]
        assert min(record["probabilities"]) > 0
        assert math.fsum(record["probabilities"]) == pytest.approx(1.0, abs=1e-6)
        assert record["probabilities"] == pytest.approx(probabilities, abs=abs)
        assert record["exact"] is True
        if record["label_mass"] is not None:
            assert record["label_mass"] == pytest.approx(mass, abs=FP32)
    return records


@pytest.mark.parametrize("batch", ["1", "4", "9"])
def test_torch(
    fastqwen: Fastqwen, tmp_path: Path, rows: Path, logits: Any, tokenizer: Tokenizer, batch: str
) -> None:
    fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *TORCH, "--llm-batch-size", batch)
    records = assert_right(tmp_path / "o.jsonl", rows, logits, tokenizer)
    assert {record["route"] for record in records} == {"torch"}


ROUTES = {
    "tgi": ("tgi.grammar", {}, []),
    "tgi of five": ("tgi.grammar.groups", {"max_top_n": 5}, []),
    "tgi with mass": ("tgi.grammar", {"max_top_n": 2000}, ["--label-mass"]),
    "tgi without grammars": ("tgi.top_n", {"grammars": False, "max_top_n": 2000}, ["--fallback", "fail"]),
    "tgi without kernels": ("tgi.top_n", {"kernels": False, "max_top_n": 5}, ["--fallback", "fail"]),
    "vllm": ("vllm.logprob_token_ids", {}, []),
    "older vllm": ("vllm.top_logprobs", {"reads_ids": False, "max_top_n": 2000}, ["--fallback", "fail"]),
}


@pytest.mark.parametrize("name", ROUTES)
def test_servers(
    fastqwen: Fastqwen, tmp_path: Path, rows: Path, logits: Any, tokenizer: Tokenizer, name: str
) -> None:
    route, options, flags = ROUTES[name]
    # For more labels see below; without kernels each label out of sight is a request.
    most = {"tgi of five": 52, "tgi with mass": 52, "tgi without kernels": 9}.get(name, 1000)
    write_rows(rows, *(row for row in read_records(rows) if row["num_candidates"] <= most))
    with serve(route.partition(".")[0], logits=logits, **options) as server:
        fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *use(server, *flags))
    records = assert_right(tmp_path / "o.jsonl", rows, logits, tokenizer)
    assert {record["route"] for record in records[1:]} == {route}
    known = [record["label_mass"] is not None for record in records]
    if name == "tgi with mass":  # known where a label is among the 128 likeliest
        assert any(known)
    else:
        assert not any(known) if route.startswith("tgi.grammar") else all(known)


@pytest.mark.parametrize("told", ["nothing", "another prompt"])
def test_untold_labels_out_of_sight_are_bounds(
    fastqwen: Fastqwen, tmp_path: Path, logits: Any, told: str
) -> None:
    class Untold(Loopback):
        def _prefill(self, ids: Sequence[int]) -> list[dict[str, Any]]:
            return [] if told == "nothing" else super()._prefill([*ids[:-2], 5, ids[-1]])

    rows = [{"prompt": f"Answer with A or {letter}.\n", "num_candidates": 9} for letter in "BCD"]
    path = write_rows(tmp_path / "p.jsonl", *rows)
    with listening(Untold("tgi", logits=logits, kernels=False, max_top_n=70)) as server:
        fastqwen("probs", path, "-o", tmp_path / "o.jsonl", *use(server, "--fallback", "bounds"))
    for record in read_records(tmp_path / "o.jsonl"):
        assert record["exact"] is False
        assert "labels.bounded" in record["flags"]
    asked = 1 if told == "nothing" else 3  # a server that tells nothing is asked once
    assert server.completed == asked


def test_labels_out_of_sight_are_no_likelier(fastqwen: Fastqwen, tmp_path: Path, logits: Any) -> None:
    class Wrong(Loopback):
        def _prefill(self, ids: Sequence[int]) -> list[dict[str, Any]]:
            told = super()._prefill(ids)
            return [*told[:-1], told[-1] | {"logprob": -0.5}]

    path = write_rows(tmp_path / "p.jsonl", {"prompt": "Answer with A or B.\n", "num_candidates": 9})
    with listening(Wrong("tgi", logits=logits, kernels=False, max_top_n=70)) as server:
        done = fastqwen("probs", path, *use(server, "--fallback", "bounds"), check=1)
    assert "replies that don't agree" in done.stdout


def test_labels_by_another_order_get_the_same_numbers(
    fastqwen: Fastqwen, tmp_path: Path, logits: Any
) -> None:  # S06
    labels = list("ABCDEFGHIJ")
    orders = [labels, labels[::-1], random.Random(1).sample(labels, 10)]
    path = write_rows(tmp_path / "p.jsonl", *({"prompt": "Which?\n", "labels": order} for order in orders))
    for dialect in ("tgi", "vllm"):
        with serve(dialect, logits=logits, max_top_n=5) as server:
            fastqwen("probs", path, "-o", tmp_path / f"{dialect}.jsonl", *use(server))
        found = [
            dict(zip(record["labels"], record["probabilities"], strict=True))
            for record in read_records(tmp_path / f"{dialect}.jsonl")
        ]
        assert found[1] == pytest.approx(found[0])
        assert found[2] == pytest.approx(found[0])


def test_no_more_groups_than_a_server_keeps_grammars(
    fastqwen: Fastqwen, tmp_path: Path, rows: Path, logits: Any, tokenizer: Tokenizer
) -> None:
    with serve("tgi", logits=logits, max_top_n=5) as server:
        done = fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *use(server))
    records = assert_right(tmp_path / "o.jsonl", rows, logits, tokenizer)
    assert [record["route"] for record in records[-2:]] == ["torch", "torch"]  # 53 and 100 labels
    assert records[-1]["flags"][-1] == "fallback.torch"
    assert "tiny" in done.stderr


@pytest.mark.parametrize("dialect", ["tgi", "vllm"])
def test_bounds_are_said_to_be_bounds(
    fastqwen: Fastqwen, tmp_path: Path, logits: Any, tokenizer: Tokenizer, dialect: str
) -> None:  # S05
    prompt = "Answer with A or B.\n"
    values = logits(tokenizer.encode(prompt))
    logprobs = values - np.log(np.exp(values - values.max()).sum()) - values.max()
    shown = sorted(logprobs, reverse=True)[:20]
    labels = list(default_labels(26, tokenizer))
    row = {"prompt": prompt, "labels": labels}
    path = write_rows(tmp_path / "p.jsonl", row, {"prompt": prompt, "labels": ["~", "{"]})
    options = {"reads_ids": False, "grammars": False, "max_top_n": 20, "logits": logits}
    with serve(dialect, **options) as server:
        out = tmp_path / "o.jsonl"
        fastqwen("probs", path, "-o", out, *use(server, "--fallback", "bounds"), check=1)
        fastqwen("probs", path, "-o", tmp_path / "f.jsonl", *use(server, "--fallback", "fail"), check=1)
        fastqwen("probs", path, "-o", tmp_path / "t.jsonl", *use(server, "--fallback", "torch"))
    bound, unseen = read_records(out)
    assert bound["exact"] is False
    assert bound["label_mass"] is None
    assert "labels.bounded" in bound["flags"]
    for label, value in zip(labels, bound["logprobs"], strict=True):
        true = logprobs[tokenizer.encode(label)[0]]
        assert value == pytest.approx(max(true, shown[-1]))
    assert unseen["error"]["type"] == "score.unseen"
    assert [record["error"]["type"] for record in read_records(tmp_path / "f.jsonl")] == [
        "score.inexact",
        "score.unseen",
    ]
    assert [record["route"] for record in read_records(tmp_path / "t.jsonl")] == ["torch", "torch"]


def test_without_weights_here_bounds_are_what_there_is(
    fastqwen: Fastqwen, tmp_path: Path, logits: Any
) -> None:
    path = write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "num_candidates": 52})
    tokenizer = Path(__file__).parents[2] / "tgi_stack" / "tiny" / "text"
    with serve("vllm", logits=logits, reads_ids=False, max_top_n=20, model="nobody/has-this") as server:
        options = ["--endpoint", server.url, "--tokenizer", str(tokenizer)]
        done = fastqwen("probs", path, *options, check=None, HF_HUB_OFFLINE="1")
    assert "tokenizer" in done.stderr


def test_labels_of_several_tokens_by_the_chain_rule(
    fastqwen: Fastqwen, tmp_path: Path, logits: Any, tokenizer: Tokenizer
) -> None:
    labels, prompt = ["mug", "blue mug", "blue hat", "nonsense"], "It is a\n"
    row = write_rows(tmp_path / "p.jsonl", {"prompt": prompt, "labels": labels})
    expected = []
    for label in labels:
        ids, total = tokenizer.encode(prompt), 0.0
        for token in tokenizer.encode(prompt + label)[len(ids) :]:
            values = logits(ids)
            total += values[token] - values.max() - np.log(np.exp(values - values.max()).sum())
            ids = (*ids, token)
        expected.append(total)
    fastqwen("probs", row, "-o", tmp_path / "t.jsonl", *TORCH)
    with serve("vllm", logits=logits) as server:
        fastqwen("probs", row, "-o", tmp_path / "v.jsonl", *use(server))
    with serve("tgi", logits=logits) as server:
        fastqwen("probs", row, "-o", tmp_path / "g.jsonl", *use(server), check=1)
    for name in ("t.jsonl", "v.jsonl"):
        (record,) = read_records(tmp_path / name)
        assert record["logprobs"] == pytest.approx(expected, abs=1e-5)
        assert record["label_mass"] == pytest.approx(sum(map(math.exp, expected)))
    assert read_records(tmp_path / "g.jsonl")[0]["error"]["type"] == "label.not_one_token"


MERGES_WITH_B = "The letter after this one is A"  # AB is a token of tiny's vocabulary


@pytest.mark.parametrize("dialect", ["torch", "vllm"])
def test_merging_labels_refused_prefixed_or_read(
    fastqwen: Fastqwen, tmp_path: Path, logits: Any, tokenizer: Tokenizer, dialect: str
) -> None:
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": MERGES_WITH_B, "num_candidates": 2})
    assert tokenizer.encode(MERGES_WITH_B + "B") != (*tokenizer.encode(MERGES_WITH_B), *tokenizer.encode("B"))
    cache = {"FASTQWEN_NO_CACHE": "0", "FASTQWEN_CACHE_DIR": str(tmp_path / "cache")}
    with serve("vllm", logits=logits) as server:
        engine = TORCH if dialect == "torch" else use(server)

        def asked(*options: str, check: int = 0) -> dict[str, Any]:
            done = fastqwen("probs", rows, *engine, *options, check=check, **cache)
            return dict(json.loads(done.stdout))

        read = asked("--merging-labels", "read")
        refused = asked(check=1)  # not from what was read before
        prefixed = asked("--label-prefix", "\n")
        assert asked("--merging-labels", "read")["from_cache"]
    assert refused["error"]["type"] == "label.merges"
    assert read["labels"] == ["A", "B"]
    assert "label.merges" in read["flags"]
    values = logits(tokenizer.encode(MERGES_WITH_B))
    own = np.exp(values[[*tokenizer.encode("A"), *tokenizer.encode("B")]] - values.max())
    # fp32 in both; see docs/probabilities.md.
    assert read["probabilities"] == pytest.approx(own / own.sum(), abs=1e-5)
    assert prefixed["labels"] == ["\nA", "\nB"]
    assert "label.merges" not in prefixed["flags"]


def test_more_labels_than_vllm_reads_at_once(
    fastqwen: Fastqwen, tmp_path: Path, logits: Any, tokenizer: Tokenizer
) -> None:
    start = tokenizer.encode("Which?\n")
    texts = sorted({tokenizer.decode([id]) for id in range(tokenizer.size)})
    labels = [text for text in texts if tokenizer.encode("Which?\n" + text)[:-1] == start][:300]
    row = {"prompt": "Which?\n", "labels": labels, "num_candidates": 300}
    rows = write_rows(tmp_path / "p.jsonl", row)
    with serve("vllm", logits=logits) as server:
        fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *use(server))
    (record,) = assert_right(tmp_path / "o.jsonl", rows, logits, tokenizer)
    assert record["attempts"] == 3


def test_half_precision_ties_are_named(fastqwen: Fastqwen, tmp_path: Path, logits: Any) -> None:
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "Which of these?\n", "num_candidates": 52})
    flags = {}
    for half in (True, False):
        with serve("tgi", logits=logits, half=half) as server:
            fastqwen("probs", rows, "-o", tmp_path / f"{half}.jsonl", *use(server))
        (record,) = read_records(tmp_path / f"{half}.jsonl")
        assert math.fsum(record["probabilities"]) == pytest.approx(1.0, abs=1e-6)
        flags[half] = record["flags"]
    assert "resolution.bf16" in flags[True]
    assert "resolution.bf16" not in flags[False]


def test_a_label_likelier_after_space_is_named(fastqwen: Fastqwen, tmp_path: Path) -> None:
    def logits(ids: Any) -> Any:
        values = np.arange(1006) / 1e4
        values[[497, 499]] = 9.0  # " yes" and " no"
        return values

    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "Is it?\n", "labels": ["yes", "no"]})
    with serve("vllm", logits=logits) as server:
        done = fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *use(server))
    (record,) = read_records(tmp_path / "o.jsonl")
    assert record["flags"] == ["label_mass.low", "labels.spaced_likelier"]
    assert record["attempts"] == 2
    assert "with a space before them the labels are likelier" in done.stderr


@pytest.mark.parametrize("cache", [(), ("--no-cache",)], ids=["cache", "no-cache"])
def test_torch_reads_spaced_labels_along(
    cached: Fastqwen, tmp_path: Path, text_model: Any, tokenizer: Tokenizer, cache: tuple[str, ...]
) -> None:
    model, weights = untied(tmp_path / "model")
    prompts = [f"Question {n}: is it?\n" for n in range(12)]
    with torch.no_grad():
        top = int(text_model(torch.tensor([tokenizer.encode(prompts[0])])).logits[0, -1].argmax())
    weights["lm_head.weight"][tokenizer.encode("\n yes")[-1]] = 2 * weights["lm_head.weight"][top]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    asked = [{"prompt": p, "labels": ["yes", "no"]} for p in prompts]
    rows = write_rows(tmp_path / "p.jsonl", *asked, {"prompt": "Which?\n", "num_candidates": 4})
    options = ("--engine", "torch", "--model", model, "--device", "cpu", "--dtype", "fp32", *cache)
    read = []
    for name, more in (("plain", ()), ("spaced", ("--label-prefix", " ")), ("again", ())):
        cached("probs", rows, "-o", tmp_path / f"{name}.jsonl", *options, *more)
        read.append(read_records(tmp_path / f"{name}.jsonl"))
    plain, spaced, again = read
    assert {record["attempts"] for record in plain} == {1}
    likelier = ["labels.spaced_likelier" in record["flags"] for record in plain]
    assert any(likelier)
    for flagged, one, other in zip(likelier, plain, spaced, strict=True):
        low = one["label_mass"] < 0.5
        assert flagged == (low and other["label_mass"] > one["label_mass"])
        assert ("label_mass.low" in one["flags"]) == low
        assert math.fsum(map(math.exp, one["logprobs"])) == pytest.approx(one["label_mass"], abs=1e-9)
    assert [record["flags"] for record in again] == [record["flags"] for record in plain]
    assert all(record["from_cache"] != bool(cache) for record in again)


@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_spaced_labels_of_several_tokens_are_bounded(
    cached: Fastqwen, tmp_path: Path, tokenizer: Tokenizer, logits: Any, engine: str
) -> None:
    prompts = [f"Question {n}: which?\n" for n in range(12)]
    rows = write_rows(tmp_path / "p.jsonl", *({"prompt": p, "num_candidates": 20} for p in prompts))
    assert len(tokenizer.encode("\n T")) == 3  # a space of its own
    with serve("vllm", logits=logits) as server:
        given = TORCH if engine == "torch" else use(server)
        cached("probs", rows, "-o", tmp_path / "cold.jsonl", *given)
        cached("probs", rows, "-o", tmp_path / "warm.jsonl", *given)
        cached("probs", rows, "-o", tmp_path / "spaced.jsonl", *given, "--label-prefix", " ")
    cold, warm, spaced = (read_records(tmp_path / f"{name}.jsonl") for name in ("cold", "warm", "spaced"))
    for one, again, other in zip(cold, warm, spaced, strict=True):
        assert again["from_cache"]
        assert again["flags"] == one["flags"]
        likelier = one["label_mass"] < 0.5 and other["label_mass"] > one["label_mass"]
        assert ("labels.spaced_likelier" in one["flags"]) == likelier


def untied(model: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A copy of the tiny model with a head of its own, and its weights."""
    shutil.copytree(TINY / "text", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    return model, weights


def test_a_row_of_nan_logits_fails_alone(fastqwen: Fastqwen, tmp_path: Path, tokenizer: Tokenizer) -> None:
    model, weights = untied(tmp_path / "model")
    embedding = weights["model.embed_tokens.weight"]
    embedding[tokenizer.encode("~")[0]] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    prompts = [f"Question {n}?\n" for n in range(9)] + ["What is ~?\n"]
    rows = write_rows(tmp_path / "p.jsonl", *({"prompt": p, "num_candidates": 4} for p in prompts))
    torch = ("--engine", "torch", "--model", model, "--device", "cpu", "--dtype", "fp32")
    done = fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *torch, check=1)
    *whole, broken = read_records(tmp_path / "o.jsonl")
    assert [record["status"] for record in whole] == ["ok"] * 9
    assert broken["error"]["type"] == "score.not_finite"
    assert broken["error"]["row"] == 10
    assert "9 ok" in done.stderr
