"""fastqwen from Python: the optimisation guide's functions, with and without an event loop, and records."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tgi_stack
from tests.conftest import CATALOGUE, write_rows
from tests.loopback import serve
from tests.tolerances import FP32
from tgi_stack import PartialFailure, Reranker, Summarizer, predict_probs, predict_probs_batch
from tgi_stack.errors import RowError, UsageError
from tgi_stack.jobs.probs import candidate_counts

OPTIONS = {"engine": "torch", "model": "tiny", "device": "cpu"}


def test_the_seeds_functions() -> None:
    one = predict_probs("Which of these?\n", 20, **OPTIONS)
    assert isinstance(one, np.ndarray)
    assert one.shape == (20,)
    assert one.dtype == np.float64
    assert one.sum() == pytest.approx(1.0)
    several = predict_probs(["Which of these?\n", "And of those?\n"], [20, 7], **OPTIONS)
    assert [p.shape for p in several] == [(20,), (7,)]
    assert several[0] == pytest.approx(one, abs=FP32)
    batch = predict_probs_batch(["Which of these?\n"], [20], **OPTIONS)
    assert batch[0] == pytest.approx(one, abs=FP32)


async def test_inside_a_running_event_loop() -> None:
    plain = predict_probs("Which of these?\n", 3, **OPTIONS)  # as a notebook's cell does
    with Reranker(**OPTIONS) as reranker:
        awaited = await reranker.apredict_probs("Which of these?\n", 3)
    assert awaited == pytest.approx(plain)


@pytest.mark.parametrize("dialect", ["tgi", "vllm"])
def test_any_engine(dialect: str) -> None:
    with serve(dialect) as server, Reranker(endpoint=(server.url,), model="tiny") as reranker:
        found = reranker.predict_probs([f"Question {n}\n" for n in range(50)], 5)
    assert len(found) == 50
    assert len({tuple(p) for p in found}) == 50


def test_a_failed_prompt_fails_alone() -> None:
    with pytest.raises(PartialFailure) as caught:
        predict_probs(["Which?\n", "", "Or which?\n"], [3, 3, 9999], **OPTIONS)
    assert [result is not None for result in caught.value.results] == [True, False, False]
    assert {place: error.type for place, error in caught.value.errors.items()} == {
        1: "text.empty",
        2: "label.too_many",
    }
    with pytest.raises(RowError, match="empty"):
        predict_probs("", 3, **OPTIONS)


def test_what_is_asked_wrongly_is_said() -> None:
    with pytest.raises(UsageError, match="2 prompts, but 1"):
        predict_probs(["a", "b"], [1], **OPTIONS)
    with pytest.raises(UsageError, match="unknown option 'modle'"):
        Reranker(modle="tiny")
    reranker = Reranker(**OPTIONS)
    reranker.close()
    with pytest.raises(UsageError, match="closed"):
        reranker.predict_probs("x", 2)


def test_records_to_iterate(tmp_path: Path) -> None:
    with Reranker(engine="scripted") as reranker:
        records = list(reranker.run(CATALOGUE / "sessions.jsonl", items=CATALOGUE / "items.jsonl"))
    assert len(records) == 24
    assert {record["status"] for record in records} == {"ok"}
    with Summarizer(engine="scripted") as summarizer:
        summaries = {record["id"]: record for record in summarizer.run(CATALOGUE / "images")}
    assert len(summaries) == 70


def test_whoever_stops_iterating_stops_the_run(tmp_path: Path) -> None:
    row = {"query": "q", "candidates": [{"id": "a", "text": "a"}]}
    rows = write_rows(tmp_path / "r.jsonl", *({"id": str(n), **row} for n in range(5000)))
    with Reranker(engine="scripted") as reranker:
        for number, _ in enumerate(reranker.run(rows)):
            if number == 10:
                break


def test_records_to_await(tmp_path: Path) -> None:
    async def ids() -> list[str]:
        with Reranker(engine="scripted") as reranker:
            found = reranker.arun(CATALOGUE / "sessions.jsonl", items=CATALOGUE / "items.jsonl")
            return [record["id"] async for record in found]

    assert len(asyncio.run(ids())) == 24


def test_an_input_that_is_not_there_is_raised() -> None:
    with Summarizer(engine="scripted") as summarizer, pytest.raises(UsageError, match="no such file"):
        list(summarizer.run("gone.jsonl"))


def test_public_names_are_documented() -> None:
    for name in tgi_stack.__all__:
        assert getattr(tgi_stack, name).__doc__
    with pytest.raises(AttributeError):
        _ = tgi_stack.nothing


@pytest.mark.parametrize("counts", [2, np.int64(2), [2, np.int32(2)], np.array([2, 2]), (2, 2)])
def test_counts_are_pythons_or_numpys(counts: Any) -> None:
    assert candidate_counts(counts, 2) == [2, 2]


@pytest.mark.parametrize("counts", [True, 2.0, "2", None, [2, 2.0], np.array([2.0, 2.0]), [2], np.True_])
def test_what_counts_nothing_is_refused(counts: Any) -> None:
    with pytest.raises(UsageError, match="number"):
        candidate_counts(counts, 2)


def test_a_prompt_that_is_no_text() -> None:
    with Reranker(engine="torch", model="tiny") as ranker, pytest.raises(UsageError, match="not 3"):
        ranker.predict_probs(["a\n", 3], 2)


class StoppedError(Exception):
    """What a handler of signals raises, as Ctrl-C's does."""


def test_whoever_stops_waiting_stops_the_work() -> None:
    def stop(*_: object) -> None:
        raise StoppedError

    def fault(number: int, path: str) -> None:
        if number == 5:
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with (
            serve("vllm", fault=fault, delay_s=0.01) as server,
            Reranker(endpoint=(server.url,), model="tiny", llm_batch_size=1) as reranker,
        ):
            with pytest.raises(StoppedError):
                reranker.predict_probs([f"Question {n}\n" for n in range(300)], 5)
            assert reranker.predict_probs("Which?\n", 5).shape == (5,)
            tasks = asyncio.all_tasks(reranker._loop)
            assert not [task for task in tasks if "_predict" in repr(task)]
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("form", ["run", "wait", "await"])
def test_closed_while_it_works_is_said(tmp_path: Path, form: str) -> None:
    engines: list[Reranker] = []

    def fault(number: int, path: str) -> None:
        if number == 5:
            threading.Thread(target=engines[0].close).start()

    rows = write_rows(tmp_path / "p.jsonl", *({"prompt": f"{n}\n", "num_candidates": 3} for n in range(300)))
    prompts = [f"Question {n}\n" for n in range(3000)]
    with serve("vllm", fault=fault) as server:
        engine = Reranker(endpoint=(server.url,), model="tiny", llm_batch_size=1, no_cache=True)
        engines.append(engine)
        forms: dict[str, Callable[[], object]] = {
            "run": lambda: list(engine.run_probs(rows)),
            "wait": lambda: engine.predict_probs(prompts, 3),
            "await": lambda: asyncio.run(engine.apredict_probs(prompts, 3)),
        }
        with pytest.raises(UsageError, match="closed"):
            forms[form]()
