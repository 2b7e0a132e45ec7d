"""Ways from label probabilities to rankings: orders, windows, one by one, calibrated, with images."""

from __future__ import annotations

import asyncio
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tests.loopback import serve
from tests.tolerances import FP32
from tgi_stack.jobs.rerank.prompts import Candidate, Query
from tgi_stack.jobs.rerank.rankings import Listwise
from tgi_stack.prompting import rerankers
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.tiny import TINY
from tgi_stack.types import LabelScores

TORCH = ("--engine", "torch", "--model", "tiny", "--device", "cpu")
SESSIONS = ("rerank", CATALOGUE / "sessions.jsonl", "--items", CATALOGUE / "items.jsonl")
SCRIPTED = ("--engine", "scripted")


def p_of(record: dict[str, Any]) -> dict[str, float]:
    return {entry["id"]: entry["probability"] for entry in record["ranking"]}


@pytest.mark.slow
def test_orders_are_averaged_until_the_top_settles(fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    done = fastqwen(*SESSIONS, "-o", out, *TORCH, "--permutations", "4")
    counts = set()
    for record in read_records(out):
        reads = record["reads"]
        counts.add(len(reads))
        tables = [dict(zip(r["order"], distributions.softmax(r["logprobs"]), strict=True)) for r in reads]
        for id, probability in p_of(record).items():
            values = [table[id] for table in tables]
            assert probability == pytest.approx(math.fsum(values) / len(values))
        assert math.fsum(p_of(record).values()) == pytest.approx(1.0)
        assert all("spread" in entry and entry["logprob"] is None for entry in record["ranking"])
        ranked = [tuple(sorted(table, key=lambda id: -table[id])[:3]) for table in tables]
        assert len(set(ranked)) == 1 or len(reads) == min(4, len(reads[0]["order"]))
        doubled = reads[0]["order"] * 2
        assert all(
            read["order"] == doubled[doubled.index(read["order"][0]) :][: len(reads[0]["order"])]
            for read in reads
        )
    assert min(counts) == 2
    assert "mean probability by position in the prompt: 1: 0." in done.stderr


def test_a_rerun_of_one_order_is_identical(fastqwen: Fastqwen, tmp_path: Path) -> None:
    fastqwen(*SESSIONS, "-o", tmp_path / "a.jsonl", *TORCH)
    record = read_records(tmp_path / "a.jsonl")[0]
    assert len(record["reads"]) == 1
    assert "spread" not in record["ranking"][0]
    assert record["ranking"][0]["logprob"] == pytest.approx(max(record["reads"][0]["logprobs"]))


def test_a_prior_without_content_is_divided_out(fastqwen: Fastqwen, tmp_path: Path) -> None:
    fastqwen(*SESSIONS, "-o", tmp_path / "plain.jsonl", *TORCH)
    fastqwen(*SESSIONS, "-o", tmp_path / "c.jsonl", *TORCH, "--calibrate")
    pairs = zip(read_records(tmp_path / "plain.jsonl"), read_records(tmp_path / "c.jsonl"), strict=True)
    moved = 0
    for plain, calibrated in pairs:
        (read,) = calibrated["reads"]
        assert read["logprobs"] == pytest.approx(plain["reads"][0]["logprobs"], abs=1e-4)
        weights = [math.exp(a - b) for a, b in zip(read["logprobs"], read["prior"], strict=True)]
        wanted = {id: weight / sum(weights) for id, weight in zip(read["order"], weights, strict=True)}
        assert p_of(calibrated) == pytest.approx(wanted)
        moved += p_of(calibrated) != pytest.approx(p_of(plain), abs=1e-3)
    assert moved > 0
    (tmp_path / "t.txt").unlink(missing_ok=True)
    fastqwen("eval", tmp_path / "c.jsonl", "--temperature", "1", "--trec", tmp_path / "t.txt")
    assert (tmp_path / "t.txt").read_text().count("\n") == sum(
        len(record["ranking"]) for record in read_records(tmp_path / "c.jsonl")
    )


def long_row(tmp_path: Path, count: int) -> Path:
    candidates = [{"id": f"c{n}", "text": f"candidate number {n}"} for n in range(count)]
    return write_rows(tmp_path / "l.jsonl", {"id": "r", "query": "a mug", "candidates": candidates})


def test_windows_rank_more_than_fit_one_prompt(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = long_row(tmp_path, 700)
    done = fastqwen("rerank", rows, "-o", tmp_path / "no.jsonl", *SCRIPTED, check=1)
    assert "1 x label.too_many" in done.stderr
    assert "windows" in read_records(tmp_path / "no.jsonl")[0]["error"]["message"]
    fastqwen("rerank", rows, "-o", tmp_path / "o.jsonl", *SCRIPTED, "--window", "20", "--stride", "10")
    (record,) = read_records(tmp_path / "o.jsonl")
    assert record["window"] == {"size": 20, "stride": 10}
    assert sorted(entry["id"] for entry in record["ranking"]) == sorted(f"c{n}" for n in range(700))
    assert {entry["probability"] for entry in record["ranking"]} == {None}
    assert [entry["score"] for entry in record["ranking"]] == [1 / rank for rank in range(1, 701)]
    assert len(record["reads"]) == 69
    # The winner of each window is in the next one, and ends where it won last.
    reads = record["reads"]
    for one, following in pairwise(reads):
        best = max(zip(one["logprobs"], one["order"], strict=True))[1]
        assert best in following["order"]
    assert record["ranking"][0]["id"] == max(zip(reads[-1]["logprobs"], reads[-1]["order"], strict=True))[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stride", "5"], "give --window"),
        (["--window", "5", "--stride", "6"], "--stride is at most --window"),
        (["--mode", "pointwise", "--permutations", "2"], "--mode listwise"),
        (["--mode", "votes"], "--mode"),
    ],
)
def test_ways_that_do_not_go_together(fastqwen: Fastqwen, options: list[str], said: str) -> None:
    assert said in fastqwen(*SESSIONS, *SCRIPTED, *options, check=2).stderr


def test_pointwise_is_the_reference_recipe(
    fastqwen: Fastqwen, tmp_path: Path, text_model: Any, tokenizer: Tokenizer
) -> None:
    candidates = [{"id": "a", "text": "a red mug"}, {"id": "b", "text": "a blue hat."}]
    rows = write_rows(
        tmp_path / "p.jsonl", {"id": "1", "query": "something to drink from", "candidates": candidates}
    )
    fastqwen(
        "rerank", rows, "-o", tmp_path / "o.jsonl", *TORCH, "--mode", "pointwise", "--instruction", "Find it"
    )
    (record,) = read_records(tmp_path / "o.jsonl")
    ids = {word: tokenizer.encode(word)[0] for word in ("yes", "no")}
    for text, id in (("a red mug", "a"), ("a blue hat.", "b")):
        # Qwen3-Reranker's model card: the pieces are tokenized apart, and joined.
        pieces = (
            f"<|im_start|>system\n{rerankers.JUDGE}<|im_end|>\n<|im_start|>user\n",
            f"<Instruct>: Find it\n<Query>: something to drink from\n<Document>: {text}",
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        )
        asked = [token for piece in pieces for token in tokenizer.encode(piece)]
        with torch.no_grad():
            logits = text_model(torch.tensor([asked])).logits[0, -1]
        wanted = torch.softmax(logits[[ids["no"], ids["yes"]]], -1)[1].item()
        assert p_of(record)[id] == pytest.approx(wanted, abs=FP32)
    assert [read["order"] for read in record["reads"]] == [["a"], ["b"]]
    fastqwen(
        "eval", tmp_path / "o.jsonl", "--qrels", write_qrels(tmp_path), "--temperature", "2", "--drop", "a"
    )


def write_qrels(folder: Path) -> Path:
    path = folder / "qrels.txt"
    path.write_text("1 0 b 1\n")
    return path


def test_pointwise_asks_for_the_same_beginning(fastqwen: Fastqwen, tmp_path: Path) -> None:
    asked: list[str] = []
    with serve("tgi") as server:
        answer = server._generate

        def noting(inputs: str, options: dict[str, Any]) -> Any:
            asked.append(inputs)
            return answer(inputs, options)

        server._generate = noting  # type: ignore[method-assign,assignment]  # to see what is sent
        options = ["--endpoint", server.url, "--model", "tiny", "--mode", "pointwise", "--limit", "1"]
        fastqwen(*SESSIONS, "-o", tmp_path / "o.jsonl", *options, "--calibrate")
    reads = [text for text in asked if "<Document>" in text]
    (record,) = read_records(tmp_path / "o.jsonl")
    assert len(reads) == len(record["ranking"]) + 1  # and the prior
    heads = {text.partition("<Document>")[0] for text in reads if "N/A" not in text}
    assert len(heads) == 1


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two candidates known by their images, one by its text."""
    names = ["mug-02.jpg", "shirt-01.jpg"]
    items = [{"id": name, "image": str(CATALOGUE / "images" / name)} for name in names]
    write_rows(tmp_path / "items.jsonl", *items, {"id": "text", "title": "A blue hat", "image": None})
    row = {"id": "r", "query": "a mug", "candidates": [*names, "text"]}
    return write_rows(tmp_path / "rows.jsonl", row)


def test_images_of_candidates_stand_in_the_prompt(fastqwen: Fastqwen, tmp_path: Path, pictures: Path) -> None:
    job = ("rerank", pictures, "--items", tmp_path / "items.jsonl", "--item-images", "--max-side", "128")
    fastqwen(*job, "-o", tmp_path / "t.jsonl", *TORCH)
    fastqwen(*job, "-o", tmp_path / "m.jsonl", *TORCH, "--permutations", "2", "--calibrate")
    with serve("vllm") as server:
        options = ["--endpoint", server.url, "--model", "tiny"]
        fastqwen(*job, "-o", tmp_path / "v.jsonl", *options)
    (local,), (served,) = read_records(tmp_path / "t.jsonl"), read_records(tmp_path / "v.jsonl")
    assert local["usage"] == served["usage"]  # the server counts the same visual tokens
    assert local["label_mass"] is not None
    assert len(local["ranking"]) == 3
    fastqwen("rerank", pictures, "--items", tmp_path / "items.jsonl", *TORCH, check=1)  # without their images


def test_a_text_model_reads_no_images(fastqwen: Fastqwen, tmp_path: Path, pictures: Path) -> None:
    text = TINY / "text"
    job = ("rerank", pictures, "--items", tmp_path / "items.jsonl", "--item-images", "--engine", "torch")
    assert "reads no images" in fastqwen(*job, "--model", text, check=2).stderr


def test_a_broken_image_fails_its_row_alone(fastqwen: Fastqwen, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    items = [{"id": "x", "image": "x.jpg"}, {"id": "y", "title": "A mug"}]
    write_rows(tmp_path / "items.jsonl", *items)
    rows = ({"id": str(n), "query": "q", "candidates": found} for n, found in enumerate((["x", "y"], ["y"])))
    path = write_rows(tmp_path / "rows.jsonl", *rows)
    fastqwen("rerank", path, "--items", "items.jsonl", "--item-images", "-o", "o.jsonl", *SCRIPTED, check=1)
    broken, sound = read_records(tmp_path / "o.jsonl")
    assert broken["error"]["type"] == "image.unrecognised"
    assert sound["status"] == "ok"


def test_all_reads_agree_on_a_settled_order() -> None:
    assert not distributions.settled([[0.5, 0.3, 0.2]])
    assert distributions.settled([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    assert not distributions.settled([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2]])
    assert distributions.rotations(5, 2) == (0, 2)
    assert distributions.rotations(3, 10) == (0, 1, 2)


@pytest.mark.slow
def test_reads_hold_all_of_a_ranking(fastqwen: Fastqwen, tmp_path: Path) -> None:
    fastqwen(*SESSIONS, "-o", tmp_path / "o.jsonl", *TORCH, "--permutations", "3", "--calibrate")
    done = fastqwen("eval", tmp_path / "o.jsonl", "--json", "--k", "1")
    again = fastqwen("eval", tmp_path / "o.jsonl", "--json", "--k", "1", "--temperature", "1")
    first, second = (json.loads(one.stdout)["measures"] for one in (done, again))
    assert first == second


def test_images_of_items_lie_where_their_file_says(fastqwen: Fastqwen, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "mug.jpg").write_bytes((CATALOGUE / "images" / "mug-02.jpg").read_bytes())
    write_rows(folder / "items.jsonl", {"id": "m", "image": "mug.jpg"}, {"id": "t", "title": "A hat"})
    write_rows(tmp_path / "rows.jsonl", {"id": "r", "query": "a mug", "candidates": ["m", "t"]})
    job = ("rerank", "rows.jsonl", "--items", "shop/items.jsonl", "--item-images", "-o", "o.jsonl")
    fastqwen(*job, *SCRIPTED)
    template = tmp_path / "twice.txt"
    template.write_text("{{candidates}} and again {{candidates}}")
    done = fastqwen(*job, *SCRIPTED, "--overwrite", "--prompt-file", template, check=2)
    assert "stands twice" in done.stderr


class Watched:
    """A reader and its prompts: each read waits until nobody else asks, and is counted with its company."""

    def __init__(self, favourites: tuple[str, ...]) -> None:
        self.encoder = self.prover = self
        self._favourites = list(favourites)
        self.rounds: list[int] = []
        self._asked = 0

    def default(self, count: int) -> tuple[str, ...]:
        return tuple("ABCDEFGH"[:count])

    def listwise(self, query: Query, candidates: list[Candidate], labels: Any) -> tuple[Any, bool]:
        favourite = self._favourites.pop(0)
        return [-float(one.id != favourite) - 0.01 * ord(one.id) for one in candidates], False

    async def read(self, context: Any, labels: tuple[str, ...]) -> LabelScores:
        self._asked += 1
        await asyncio.sleep(0.01)
        if self._asked:
            self.rounds.append(self._asked)
            self._asked = 0
        return LabelScores(tuple(context), "vocabulary", 0.9, True, "none", 7)


@pytest.mark.parametrize(("favourites", "rounds"), [("aaaa", [2]), ("baaa", [2, 2])])
def test_orders_of_a_row_are_asked_together(favourites: str, rounds: list[int]) -> None:
    watched: Any = Watched(tuple(favourites))
    ranker = Listwise(watched, watched, Settings.model_validate({"permutations": 4}))
    candidates = [Candidate.of(id, id) for id in "abcd"]
    outcome = asyncio.run(ranker.rank(Query((), "q"), candidates))
    assert watched.rounds == rounds
    assert [read.order for read in outcome.reads] == [
        tuple((place + turn) % 4 for place in range(4)) for turn in range(sum(rounds))
    ]
