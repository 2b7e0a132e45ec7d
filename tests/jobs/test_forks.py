"""Engines in forked children and other processes: they answer, or say at once what to do."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cache.test_forks import in_child
from tests.loopback import Loopback, listening
from tgi_stack import Reranker, Summarizer, predict_probs


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTQWEN_CACHE_DIR", str(tmp_path / "cache"))


def ask(reranker: Reranker, prompt: str = "Question 2: ") -> list[float]:
    return [round(float(p), 6) for p in reranker.predict_probs(prompt, 3)]


def test_a_child_answers_as_its_parent() -> None:
    with (
        listening(Loopback("vllm")) as server,
        Reranker(engine="vllm", endpoint=[server.url], model="tiny") as reranker,
    ):
        ask(reranker, "Question 1: ")
        found = in_child(lambda: ask(reranker))
        assert found == str(ask(reranker))


def test_a_pool_answers_with_its_parents_engine() -> None:
    with (
        listening(Loopback("vllm")) as server,
        Reranker(engine="vllm", endpoint=[server.url], model="tiny") as reranker,
    ):
        expected = ask(reranker)
        for method in ("fork", "spawn"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                assert pool.map(ask, [reranker] * 3) == [expected] * 3


def test_kept_engines_answer_in_a_child() -> None:
    with listening(Loopback("vllm")) as server:
        options: dict[str, Any] = {"engine": "vllm", "endpoint": [server.url], "model": "tiny"}
        expected = list(predict_probs("Question: ", 3, **options))
        assert in_child(lambda: list(predict_probs("Question: ", 3, **options)) == expected) == "True"


def test_torch_in_a_child_says_what_to_do() -> None:
    with Reranker(engine="torch", model="tiny") as reranker:
        expected = ask(reranker)
        found = in_child(lambda: ask(reranker))
        assert found.startswith(
            "UsageError: torch does not go on in a forked child; make the engine in the child"
        )
        assert ask(reranker) == expected


def test_a_run_stays_where_it_began(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"id":"r{i}","history":["a"],"candidates":["x","y{i}"]}}\n' for i in range(4)))
    with Reranker(engine="scripted") as reranker:
        records = reranker.run(rows)
        first = next(records)
        assert "begun before a fork; begin another one" in in_child(lambda: next(records))
        assert len([first, *records]) == 4


@pytest.mark.parametrize("engine", [Reranker, Summarizer])
def test_an_engine_is_pickled_by_its_options(engine: Callable[..., Any]) -> None:
    with engine(engine="scripted", concurrency=3) as made:
        again = pickle.loads(pickle.dumps(made))  # noqa: S301  # our own
        assert type(again) is engine
        assert again.settings == made.settings
        again.close()
