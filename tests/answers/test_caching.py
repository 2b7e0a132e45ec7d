"""What was computed once is never computed again, and offline means offline: through the command line."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_socket import disable_socket, enable_socket

from tests.conftest import CATALOGUE, ROOT, Fastqwen, read_records, write_rows
from tests.loopback import Loopback, serve
from tgi_stack.tiny import TINY

TORCH = ("--engine", "torch", "--model", "tiny", "--device", "cpu")
SESSIONS = ("rerank", CATALOGUE / "sessions.jsonl", "--items", CATALOGUE / "items.jsonl")
IMAGES = ("summarize", CATALOGUE / "images")
NOT_COMPARED = ("from_cache", "attempts")


def plain(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in NOT_COMPARED} for record in read_records(path)]


def all_cached(path: Path) -> bool:
    return all(record["from_cache"] and record["attempts"] == 0 for record in read_records(path))


@pytest.mark.parametrize("job", [SESSIONS, IMAGES, (*SESSIONS, "--permutations", "3", "--calibrate")])
def test_a_rerun_offline_is_what_the_run_was(cached: Fastqwen, tmp_path: Path, job: tuple[Any, ...]) -> None:
    cached(*job, "-o", tmp_path / "a.jsonl", *TORCH)
    done = cached(*job, "-o", tmp_path / "b.jsonl", *TORCH, "--offline")
    assert plain(tmp_path / "a.jsonl") == plain(tmp_path / "b.jsonl")
    assert all_cached(tmp_path / "b.jsonl")
    assert "offline: answers of tiny (torch" in done.stderr
    assert "loaded" not in done.stderr


def test_a_failed_row_fails_alike_offline(cached: Fastqwen, tmp_path: Path) -> None:
    """Which is why offline what is not in the cache is prepared like any other before it is missed."""
    whole = (CATALOGUE / "images" / "mug-02.jpg").read_bytes()
    for name, content in (("good.jpg", whole), ("cut.jpg", whole[:2000]), ("text.jpg", b"<html>")):
        (tmp_path / name).write_bytes(content)
    images = write_rows(
        tmp_path / "i.jsonl",
        *({"id": n, "image": n} for n in ("good.jpg", "cut.jpg", "text.jpg", "gone.jpg")),
    )
    prompts = write_rows(
        tmp_path / "p.jsonl",
        {"prompt": "Which?\n", "labels": ["A", "B"]},
        {"prompt": "Which?\n", "labels": ["A", "A"]},
        {"prompt": "a b " * 5000, "labels": ["A", "B"]},
    )
    for job, ok in ((("summarize", images), 1), (("probs", prompts), 1)):
        cached(*job, "-o", tmp_path / "a.jsonl", *TORCH, "--overwrite", check=1)
        cached(*job, "-o", tmp_path / "b.jsonl", *TORCH, "--overwrite", "--offline", check=1)
        assert plain(tmp_path / "a.jsonl") == plain(tmp_path / "b.jsonl")
        assert [record["status"] for record in read_records(tmp_path / "b.jsonl")].count("ok") == ok


@pytest.mark.parametrize("dialect", ["tgi", "vllm"])
def test_offline_needs_no_server_that_was_asked(cached: Fastqwen, tmp_path: Path, dialect: str) -> None:
    with serve(dialect) as server:
        command = [*SESSIONS, "--endpoint", server.url, "--model", "tiny"]
        cached(*command, "-o", tmp_path / "a.jsonl")
        posts = server.posts
        cached(*command, "-o", tmp_path / "warm.jsonl")
        assert server.posts == posts + 1  # the question before the first row
    done = cached(*command, "-o", tmp_path / "b.jsonl", "--offline")
    assert plain(tmp_path / "a.jsonl") == plain(tmp_path / "warm.jsonl") == plain(tmp_path / "b.jsonl")
    assert all_cached(tmp_path / "b.jsonl")
    assert "24 ok (24 from cache)" in done.stderr
    moved = cached(*SESSIONS, "-o", tmp_path / "c.jsonl", "--offline")  # whoever answered last
    assert "24 ok (24 from cache)" in moved.stderr
    assert "knows nobody" in cached(*SESSIONS, "--offline", "--model", "another", check=2).stderr


def run_alone(arguments: list[str], cache: Path, *, network: bool) -> subprocess.CompletedProcess[str]:
    alone = [] if network else ["unshare", "-rn"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FASTQWEN_")}
    return subprocess.run(
        [*alone, sys.executable, "-m", "cli", *arguments],
        env=environ | {"FASTQWEN_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_offline_sends_no_packet(cached: Fastqwen, tmp_path: Path) -> None:  # C07
    rows = [{"id": str(n), "prompt": f"Question {n}\n", "labels": ["A", "B"]} for n in range(5)]
    path = write_rows(tmp_path / "p.jsonl", *rows[:4])
    cached("probs", path, "-o", tmp_path / "a.jsonl", *TORCH)
    more = write_rows(tmp_path / "q.jsonl", *rows)
    job = ["probs", str(more), "-o", str(tmp_path / "b.jsonl"), *TORCH, "--offline"]
    done = run_alone(job, tmp_path / "cache", network=False)
    if "unshare" in done.stderr and "ermitted" in done.stderr:
        pytest.skip("no namespaces here")
    assert done.returncode == 1, done.stderr
    found = read_records(tmp_path / "b.jsonl")
    assert [record["status"] for record in found] == ["ok"] * 4 + ["failed"]
    assert found[4]["error"]["type"] == "offline.miss"
    assert "Question 4" in found[4]["error"]["message"]
    assert plain(tmp_path / "b.jsonl")[:4] == plain(tmp_path / "a.jsonl")


def test_offline_no_socket_is_opened(cached: Fastqwen, tmp_path: Path) -> None:  # C07
    with serve("vllm") as server:
        command = [*SESSIONS, "--endpoint", server.url, "--model", "tiny"]
        cached(*command, "-o", tmp_path / "a.jsonl")
    disable_socket(allow_unix_socket=True)
    try:
        cached(*command, "-o", tmp_path / "b.jsonl", "--offline")
    finally:
        enable_socket()
    assert all_cached(tmp_path / "b.jsonl")


def test_whatever_tries_to_connect_offline_is_stopped(cached: Fastqwen, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "p.jsonl", {"prompt": "x\n", "labels": ["A"]})
    cached("probs", path, *TORCH)
    code = (
        "import sys, socket, cli, tgi_stack.jobs.probs as probs\n"
        "async def answer(self, row):\n"
        "    socket.create_connection(('127.0.0.1', 9), timeout=1)\n"
        "probs.Probs.answer = answer\n"
        "cli.app(sys.argv[1:])\n"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FASTQWEN_")}
    run = [sys.executable, "-c", code, "probs", str(path), "--offline", *TORCH]
    environ |= {"FASTQWEN_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, env=environ, capture_output=True, text=True)
    assert done.returncode == 2
    assert "tried to reach the network" in done.stderr


def test_offline_without_a_cache_that_knows(cached: Fastqwen, tmp_path: Path) -> None:
    assert "knows nobody" in cached(*SESSIONS, "--offline", check=2).stderr
    assert "--no-cache" in cached(*SESSIONS, "--offline", "--no-cache", check=2).stderr


def test_a_damaged_cache_offline_is_an_error(cached: Fastqwen, tmp_path: Path) -> None:  # K01
    cached(*SESSIONS, "-o", tmp_path / "a.jsonl", *TORCH, "--limit", "3")
    (tmp_path / "cache" / "v1" / "small" / "cache.db").write_bytes(b"garbage" * 999)
    done = cached(*SESSIONS, "-o", tmp_path / "b.jsonl", *TORCH, "--limit", "3", "--offline", check=3)
    assert "damaged" in done.stderr
    again = cached(*SESSIONS, "-o", tmp_path / "b.jsonl", *TORCH, "--limit", "3")
    assert "set aside" in again.stderr
    assert "3 ok (0 from cache)" in again.stderr


def test_the_same_from_a_bundle_on_another_machine(cached: Fastqwen, tmp_path: Path) -> None:
    cached(*IMAGES, "-o", tmp_path / "a.jsonl", *TORCH, "--limit", "6")
    key = tmp_path / "key"
    key.write_text("the key of our team, 32 bytes ok")
    cached("cache", "export", tmp_path / "c.fqc", FASTQWEN_CACHE_KEY_FILE=str(key))
    cached("cache", "import", tmp_path / "c.fqc", "--cache-dir", tmp_path / "other")
    offline = ("--limit", "6", "--offline", "--cache-dir", tmp_path / "other")
    cached(*IMAGES, "-o", tmp_path / "b.jsonl", *TORCH, *offline)
    assert plain(tmp_path / "a.jsonl") == plain(tmp_path / "b.jsonl")
    key.write_text("not the key of our team, and long")
    assert "entries" in cached("cache", "import", tmp_path / "c.fqc", check=2).stderr


@pytest.mark.slow
def test_one_output_however_it_came_to_be(cached: Fastqwen, tmp_path: Path) -> None:  # K18
    rows = [{"id": str(n), "prompt": f"Question {n}\n", "num_candidates": 5 + n % 9} for n in range(300)]
    path = write_rows(tmp_path / "p.jsonl", *rows)
    ways: dict[str, list[str]] = {
        "off": ["--no-cache"],
        "cold": [],
        "warm": [],
        "offline": ["--offline"],
        "one": ["--concurrency", "1"],
        "many": ["--concurrency", "1000", "--no-cache"],
    }
    found = {}
    for name, options in ways.items():
        cached("probs", path, "-o", tmp_path / f"{name}.jsonl", "--engine", "scripted", *options)
        found[name] = plain(tmp_path / f"{name}.jsonl")
    cached("probs", path, "-o", tmp_path / "resumed.jsonl", "--engine", "scripted", "--limit", "100")
    cached("probs", path, "-o", tmp_path / "resumed.jsonl", "--engine", "scripted", "--no-cache")
    found["resumed"] = plain(tmp_path / "resumed.jsonl")
    shuffled = write_rows(tmp_path / "s.jsonl", *rows[::-1])
    cached("probs", shuffled, "-o", tmp_path / "shuffled.jsonl", "--engine", "scripted", "--offline")
    found["shuffled"] = plain(tmp_path / "shuffled.jsonl")[::-1]
    for name, records in found.items():
        assert records == found["off"], name
    text = [line for line in (tmp_path / "off.jsonl").read_bytes().split(b"\n") if line]
    assert len(text) == 300


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serve("vllm") as made:
        yield made


def asked(cached: Fastqwen, server: Loopback, *arguments: Any, check: int | None = 0) -> int:
    """How many requests a run sends, those before the first row aside: a question, and of pictures two."""
    before = server.posts + (3 if arguments[0] == "summarize" else 1)
    alone = () if arguments[0] == "summarize" else ("--llm-batch-size", "1")
    cached(*arguments, "--endpoint", server.url, *alone, check=check)
    return server.posts - before


def test_what_changes_an_answer_is_another_question(
    cached: Fastqwen, tmp_path: Path, server: Loopback
) -> None:  # C09
    path = write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "labels": ["A", "B", "C"]})
    ask = ("probs", path, "--model", "tiny")
    assert asked(cached, server, *ask) == 2  # whether it reads ids, and the read
    assert asked(cached, server, *ask) == 0
    assert asked(cached, server, *ask, "--chat") == 2
    assert asked(cached, server, *ask, "--revision", "other") == 2
    assert asked(cached, server, *ask, "--concurrency", "3") == 0
    other = write_rows(tmp_path / "q.jsonl", {"prompt": "Which? \n", "labels": ["A", "B", "C"]})
    assert asked(cached, server, "probs", other, "--model", "tiny") == 2


def test_any_subset_of_read_labels_is_known(cached: Fastqwen, tmp_path: Path, server: Loopback) -> None:
    def rows(labels: str) -> Path:
        return write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "labels": list(labels)})

    assert asked(cached, server, "probs", rows("ABCD"), "-o", tmp_path / "a.jsonl") == 2
    assert asked(cached, server, "probs", rows("DBA"), "-o", tmp_path / "b.jsonl") == 0
    assert asked(cached, server, "probs", rows("ABE"), "-o", tmp_path / "c.jsonl") == 2
    whole, part = read_records(tmp_path / "a.jsonl")[0], read_records(tmp_path / "b.jsonl")[0]
    assert part["logprobs"] == [whole["logprobs"][place] for place in (3, 1, 0)]
    weights = [whole["probabilities"][place] for place in (3, 1, 0)]
    assert part["probabilities"] == pytest.approx([weight / sum(weights) for weight in weights])


def test_part_of_a_grammars_labels_is_normalised_anew(cached: Fastqwen, tmp_path: Path) -> None:
    with serve("tgi") as server:
        for name, labels in (("a", "ABCD"), ("b", "DB")):
            path = write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "labels": list(labels)})
            cached(
                "probs", path, "-o", tmp_path / f"{name}.jsonl", "--endpoint", server.url, "--model", "tiny"
            )
        assert server.posts == 3
    part = read_records(tmp_path / "b.jsonl")[0]
    assert sum(part["probabilities"]) == pytest.approx(1.0)
    assert part["label_mass"] is None


@pytest.mark.slow
def test_summaries_by_what_is_asked_of_which_bytes(
    cached: Fastqwen, tmp_path: Path, server: Loopback
) -> None:  # I11, I25
    image = CATALOGUE / "images" / "mug-02.jpg"
    for name in ("one.jpg", "two.jpg"):
        shutil.copy(image, tmp_path / name)

    def rows(**more: Any) -> Path:
        listed = ({"id": name, "image": name, **more} for name in ("one.jpg", "two.jpg"))
        return write_rows(tmp_path / "s.jsonl", *listed)

    ask = ("summarize", rows(), "--model", "tiny")
    assert asked(cached, server, *ask) == 1
    assert asked(cached, server, *ask) == 0
    assert asked(cached, server, *ask, "--max-new-tokens", "64") == 1
    assert asked(cached, server, *ask, "--max-side", "128") == 1
    assert asked(cached, server, *ask, "--temperature", "0.5", "--seed", "1") == 1
    assert asked(cached, server, *ask, "--temperature", "0.5", "--seed", "1") == 0
    assert asked(cached, server, *ask, "--temperature", "0.5") == 2  # another draw each time
    assert asked(cached, server, *ask, "--temperature", "0.5") == 2
    assert asked(cached, server, *ask, "--instruction", "What is it?") == 1
    assert asked(cached, server, "summarize", rows(title="A mug"), "--model", "tiny") == 1
    shutil.copy(CATALOGUE / "images" / "shirt-01.jpg", tmp_path / "two.jpg")
    assert asked(cached, server, "summarize", rows(), "--model", "tiny") == 1


def test_failures_are_asked_again_and_flags_come_back(  # K17
    cached: Fastqwen, tmp_path: Path, server: Loopback
) -> None:
    path = write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "labels": ["A", "B"]})
    ask = ("probs", path, "--model", "tiny")
    server.fault = lambda number, where: "422" if number > 0 else None
    assert asked(cached, server, *ask, check=1) == 1
    server.fault = lambda number, where: None
    assert asked(cached, server, *ask) == 2
    torch = ("summarize", CATALOGUE / "images", "--limit", "2", "--max-new-tokens", "3", *TORCH)
    cached(*torch, "-o", tmp_path / "a.jsonl")
    cached(*torch, "-o", tmp_path / "b.jsonl", "--offline")
    for record in read_records(tmp_path / "b.jsonl"):
        assert record["from_cache"] is True
        assert "finish.length" in record["flags"]


@pytest.mark.parametrize(("fault", "posts"), [("422", 1), (None, 0)])
def test_equal_questions_fail_together_under_their_own_rows(
    cached: Fastqwen, tmp_path: Path, server: Loopback, fault: str | None, posts: int
) -> None:
    labels = ["A", "B"] if fault else ["A", "A"]
    rows = [{"id": f"r{n}", "prompt": "Which?\n", "labels": labels} for n in range(200)]
    path = write_rows(tmp_path / "p.jsonl", *rows)
    server.fault = lambda number, where: fault if number > 0 else None
    out = ("-o", tmp_path / "o.jsonl")
    sent = asked(cached, server, "probs", path, *out, "--model", "tiny", "--concurrency", "200", check=1)
    assert sent == posts
    errors = [record["error"] for record in read_records(tmp_path / "o.jsonl")]
    assert [error["row"] for error in errors] == list(range(1, 201))
    assert {error["type"] for error in errors} == {"server.refused" if fault else "label.duplicate"}
    assert "200 failed" in cached("probs", path, "--model", "tiny", "--offline", check=1).stderr


def test_an_image_is_decoded_once_for_all_runs(cached: Fastqwen, tmp_path: Path) -> None:
    job = ("summarize", CATALOGUE / "images", "--limit", "3", *TORCH)
    cached(*job, "-o", tmp_path / "a.jsonl")
    cached(*job, "-o", tmp_path / "b.jsonl", "--instruction", "What is it?")
    info = json.loads(cached("cache", "info", "--json").stdout)
    assert info["kinds"]["image"]["entries"] == 3
    assert info["kinds"]["image"]["hits"] == 3
    assert info["kinds"]["summary"]["entries"] == 6


def test_commands_of_the_cache(cached: Fastqwen, tmp_path: Path) -> None:
    assert "no entries" in cached("cache", "info").stdout
    cached(*SESSIONS, *TORCH, "-o", tmp_path / "a.jsonl")
    assert "24 entries" in cached("cache", "info").stdout
    assert "0 damaged" in cached("cache", "verify").stderr
    assert "give --older-than" in cached("cache", "gc", check=2).stderr
    assert "an age such as" in cached("cache", "gc", "--older-than", "soon", check=2).stderr
    assert "no machine holds" in cached("cache", "gc", "--to-size", f"{'9' * 400}GB", check=2).stderr
    assert "0 entries removed" in cached("cache", "gc", "--older-than", "1d").stderr
    assert "is no bundle" in cached("cache", "import", CATALOGUE / "items.jsonl", check=2).stderr
    assert "entries removed" in cached("cache", "clear").stderr
    assert "no entries" in cached("cache", "info").stdout


def test_a_model_that_was_swapped_is_noticed(cached: Fastqwen, tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "p.jsonl", *({"prompt": f"Question {n}\n", "num_candidates": 4} for n in range(80))
    )
    with serve("vllm") as server:
        options = ["--endpoint", server.url, "--model", "tiny"]
        cached("probs", path, "-o", tmp_path / "a.jsonl", *options)
        done = cached("cache", "verify", "--reask", "100%", *options)
        assert ", 0 differ" in done.stderr
        answer = server._completions

        def swapped(asked: dict[str, Any], id: str) -> dict[str, Any]:
            given = (
                asked["prompt"]
                if isinstance(asked["prompt"], str)
                else [[*ids[:-1], 1] for ids in asked["prompt"]]
            )
            return answer(asked | {"prompt": given}, id)

        server._completions = swapped  # type: ignore[method-assign]  # another model
        done = cached("cache", "verify", "--reask", "50%", *options, check=1)
    assert "another model gave these answers" in done.stderr


def test_a_small_cache_is_audited_by_one_question(cached: Fastqwen, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "labels": ["A", "B"]})
    with serve("vllm") as server:
        options = ["--endpoint", server.url, "--model", "tiny"]
        cached("probs", path, *options)
        posts = server.posts
        done = cached("cache", "verify", "--reask", "1%", "--json", *options)
    found = json.loads(done.stdout)
    assert (found["asked"], found["readings"], found["swapped"]) == (1, 1, False)
    assert server.posts == posts + 1 + 3  # whether it reads ids once, and the question twice


def test_summaries_of_a_swapped_model_are_noticed(cached: Fastqwen, tmp_path: Path, server: Loopback) -> None:
    options = ["--endpoint", server.url, "--model", "tiny"]
    cached(*IMAGES, "--limit", "6", "-o", tmp_path / "a.jsonl", *options)
    same = cached("cache", "verify", "--reask", "50%", *options)
    assert "asked again: 3 (0 failed)" in same.stderr
    assert "3 summaries, 0 are neither of the two" in same.stderr
    answer = server._chat

    def swapped(asked: dict[str, Any], id: str) -> dict[str, Any]:
        found = answer(asked, id)
        found["choices"][0]["message"]["content"] += " And more."
        return found

    server._chat = swapped  # type: ignore[method-assign]  # another model
    done = cached("cache", "verify", "--reask", "100%", *options, check=1)
    assert "another model gave these answers" in done.stderr
    cached("cache", "gc", "--older-than", "0s")
    assert "nothing could be asked again" in cached("cache", "verify", "--reask", "1%", *options).stderr


@pytest.mark.slow
def test_each_model_is_asked_again_for_its_own(cached: Fastqwen, tmp_path: Path) -> None:
    cached(*IMAGES, "--limit", "3", "-o", tmp_path / "a.jsonl", *TORCH)
    cached(*SESSIONS, "--limit", "5", "-o", tmp_path / "b.jsonl", *TORCH)
    found = json.loads(cached("cache", "verify", "--reask", "100%", "--json", *TORCH[:-2]).stdout)
    assert (found["readings"], found["texts"], found["failed"]) == (5, 3, 0)
    assert (found["differ"], found["changed"], found["wavering"], found["swapped"]) == (0, 0, 0, False)
    revisions = {read_records(tmp_path / name)[0]["revision"] for name in ("a.jsonl", "b.jsonl")}
    assert len(revisions) == 2


@pytest.mark.slow
def test_two_runs_of_one_job_share_the_work(cached: Fastqwen, tmp_path: Path) -> None:  # X15
    rows = [{"id": str(n), "prompt": f"Question {n}\n", "labels": ["A", "B"]} for n in range(60)]
    path = write_rows(tmp_path / "p.jsonl", *rows)
    cached("cache", "info")
    with serve("vllm", delay_s=0.05) as server:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FASTQWEN_")}
        environ |= {"FASTQWEN_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
        base = [sys.executable, "-m", "cli", "probs", str(path), "--endpoint", server.url, "--model", "tiny"]
        base += ["--llm-batch-size", "1", "--concurrency", "4"]
        running = [
            subprocess.Popen([*base, "-o", str(tmp_path / f"{n}.jsonl")], env=environ, stderr=subprocess.PIPE)
            for n in range(2)
        ]
        assert [process.wait(60) for process in running] == [0, 0]
    assert plain(tmp_path / "0.jsonl") == plain(tmp_path / "1.jsonl")
    assert server.posts <= 60 + 2 + 4  # each question once, and what each run asks before its first row


@pytest.mark.parametrize("offline", [False, True])
def test_a_cache_held_by_others_fails_no_row(
    cached: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    monkeypatch.setattr("cache.storage.database.BUSY_S", 0.05)
    job = (*SESSIONS, "--engine", "scripted")
    cached(*job, "-o", tmp_path / "a.jsonl")
    blockers = [
        sqlite3.connect(tmp_path / "cache" / "v1" / name / "cache.db", isolation_level=None)
        for name in ("small", "large")
    ]
    for blocker in blockers:
        blocker.execute("BEGIN EXCLUSIVE")
    if offline:  # misses would be untrue
        done = cached(*job, "-o", tmp_path / "b.jsonl", "--offline", check=3)
        assert "run it again later" in done.stderr
    else:
        done = cached(*job, "-o", tmp_path / "b.jsonl")
        assert done.stderr.count("is busy or can't be read") == 1
        assert plain(tmp_path / "a.jsonl") == plain(tmp_path / "b.jsonl")
    for blocker in blockers:
        blocker.close()


def test_a_run_without_room_for_a_cache_continues(cached: Fastqwen, tmp_path: Path) -> None:  # X07
    (tmp_path / "file").write_text("no folder")
    done = cached(
        *SESSIONS, "--engine", "scripted", "--cache-dir", tmp_path / "file", "-o", tmp_path / "a.jsonl"
    )
    assert "without a cache" in done.stderr
    assert "24 ok" in done.stderr


def test_a_dry_run_counts_questions_and_asks_none(cached: Fastqwen, tmp_path: Path, server: Loopback) -> None:
    use = ("--endpoint", server.url, "--model", "tiny")
    assert "knows nobody" in cached(*SESSIONS, *use, "--dry-run", check=2).stderr
    cached(*SESSIONS, *use, "--limit", "10", "-o", tmp_path / "a.jsonl")
    posts = server.posts
    out = tmp_path / "b.jsonl"
    found = json.loads(cached(*SESSIONS, *use, "--dry-run", "--json", "-o", out).stdout)
    assert (found["rows"], found["hits"], found["misses"], found["failed"]) == (24, 10, 14, 0)
    assert found["requests"] == 14
    assert found["seconds"] > 0
    assert not out.exists()
    assert server.posts == posts
    cached(*SESSIONS, *use, "-o", out)
    asked_for = sum(record["usage"]["prompt_tokens"] for record in read_records(out)[10:])
    assert found["prompt_tokens"] == asked_for
    assert "24 in the cache, 0 to compute" in cached(*SESSIONS, *use, "--dry-run").stderr


def test_a_checkpoint_trained_further_is_another_model(cached: Fastqwen, tmp_path: Path) -> None:  # C09
    model = tmp_path / "model"
    shutil.copytree(TINY / "text", model)
    path = write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "labels": ["A", "B"]})
    torch = ("--engine", "torch", "--model", model, "--device", "cpu")
    cached("probs", path, "-o", tmp_path / "a.jsonl", *torch)
    assert "1 ok (1 from cache)" in cached("probs", path, *torch, "-o", tmp_path / "b.jsonl").stderr
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "1 ok (0 from cache)" in cached("probs", path, *torch, "-o", tmp_path / "c.jsonl").stderr


def test_a_fallback_answer_is_keyed_by_torchs_identity(cached: Fastqwen, tmp_path: Path) -> None:
    """53 labels are more than this server shows: the row is torch's, and torch's dtype changes it."""

    def rows(count: int) -> Path:
        return write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "num_candidates": count})

    def ask(name: str, count: int, *options: str) -> dict[str, Any]:
        use = ("--endpoint", url, "--model", "tiny", "--device", "cpu")
        cached("probs", rows(count), "-o", tmp_path / f"{name}.jsonl", *use, *options)
        return read_records(tmp_path / f"{name}.jsonl")[0]

    with serve("vllm", reads_ids=False, max_top_n=20) as server:
        url = server.url
        first = ask("a", 60, "--dtype", "fp32")
        assert (first["route"], first["from_cache"]) == ("torch", False)
        posts = server.posts
        again = ask("b", 60, "--dtype", "fp32")
        assert server.posts == posts + 1  # the question before the first row
        assert again["from_cache"] is True
        assert again["logprobs"] == first["logprobs"]
        assert ask("c", 55, "--dtype", "fp32")["logprobs"] == first["logprobs"][:55]
        other = ask("d", 60, "--dtype", "bf16")
        assert other["from_cache"] is False
        assert other["logprobs"] != first["logprobs"]
        assert ask("e", 60, "--dtype", "bf16")["from_cache"] is True
        assert ask("f", 60)["logprobs"] == first["logprobs"]  # auto is fp32 on a CPU
    for name, options, like in (
        ("g", ("--dtype", "fp32"), first),
        ("h", ("--dtype", "bf16"), other),
        ("i", (), first),
    ):
        found = ask(name, 60, "--offline", *options)
        assert (found["from_cache"], found["logprobs"]) == (True, like["logprobs"])
        assert found["flags"] == like["flags"]
    miss = ("--offline", "--fallback", "bounds", "--endpoint", url, "--model", "tiny")
    done = cached("probs", rows(60), "-o", tmp_path / "j.jsonl", *miss, check=1)
    assert "offline.miss" in done.stderr


def test_loaded_weights_count_rather_than_a_servers_name(cached: Fastqwen, tmp_path: Path) -> None:  # C10
    path = write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "labels": ["A", "B"]})
    for root, kept in (("/runs/a/best", 0), ("/runs/b/best", 0), ("/runs/a/best", 1)):
        with serve("vllm", root=root) as server:
            use = (
                "--endpoint",
                server.url,
                "--tokenizer",
                TINY / "vision" / "tokenizer.json",
                "--model",
                "tiny",
            )
            done = cached("probs", path, "-o", tmp_path / "o.jsonl", "--overwrite", *use)
        assert f"1 ok ({kept} from cache)" in done.stderr


def test_unreadable_labels_are_not_made_of_others(cached: Fastqwen, tmp_path: Path) -> None:
    def ask(*labels: str) -> dict[str, Any]:
        row = write_rows(tmp_path / "p.jsonl", {"prompt": "It is a\n", "labels": labels})
        cached("probs", row, *TORCH, "-o", tmp_path / "o.jsonl", "--overwrite", check=None)
        return read_records(tmp_path / "o.jsonl")[0]

    assert ask("A", "B")["status"] == ask("C", "D")["status"] == "ok"
    joined = ask("A", "B", "C", "D")
    assert joined["from_cache"] is True
    assert joined["label_mass"] == pytest.approx(sum(math.exp(value) for value in joined["logprobs"]))
    assert ask("A", "A")["error"]["type"] == "label.duplicate"
    assert ask("A\0B")["probabilities"] == [1.0]  # one label, not two
    assert ask("blue", "red")["status"] == ask("blue hat", "mug")["status"] == "ok"
    assert ask("blue", "blue hat")["error"]["type"] == "label.prefix"


def test_a_bundle_adds_its_identities_to_those_here(cached: Fastqwen, tmp_path: Path) -> None:  # K10
    path = write_rows(tmp_path / "p.jsonl", {"prompt": "Which?\n", "labels": ["A", "B"]})
    with serve("vllm") as server:
        use = ("--endpoint", server.url, "--model", "tiny")
        cached("probs", path, *use)
    cached("cache", "export", tmp_path / "c.fqc")
    there = ("--cache-dir", tmp_path / "there")
    cached("probs", path, *TORCH, *there)
    cached("cache", "import", tmp_path / "c.fqc", *there)
    assert "1 ok (1 from cache)" in cached("probs", path, *use, "--offline", *there).stderr
    assert "1 ok (1 from cache)" in cached("probs", path, *TORCH, "--offline", *there).stderr
