"""Runs against servers on loopback, in both dialects, through every fault: nothing lost, no row moved."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import CATALOGUE, Fastqwen, read_records, write_rows
from tests.loopback import TOKENIZER, Loopback, serve
from tgi_stack.rows.output import Output

SCRIPTED = ("--engine", "scripted")
QUESTION = {"labels": ["A", "B", "C"]}
ROUTES = {"tgi": "tgi.grammar", "vllm": "vllm.logprob_token_ids", "sglang": "sglang.score"}
OF_THE_ENGINE = ("engine", "model", "revision", "route", "attempts", "label_mass")


@pytest.fixture(params=["tgi", "vllm", "sglang"])
def server(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    with serve(request.param) as made:
        yield made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return questions(tmp_path, 60)


def questions(folder: Path, count: int) -> Path:
    """Prompts of equal length, so that only their content tells their answers apart."""
    rows = ({"id": f"row-{i}", "prompt": f"Question {i:05d}\n", **QUESTION} for i in range(count))
    return write_rows(folder / f"{count}.jsonl", *rows)


def use(*servers: Loopback, group: int = 1) -> list[str]:
    """One prompt a request, so that faults come by the row; a test of its own groups them."""
    return [
        "--llm-batch-size",
        str(group),
        *_use(*servers),
    ]


def _use(*servers: Loopback) -> list[str]:
    return [
        "--model",
        "tiny",
        "--startup-timeout",
        "20",
        *(part for s in servers for part in ("--endpoint", s.url)),
    ]


def plain(path: Path) -> list[dict[str, Any]]:
    """Records without what says who answered; logarithms as the probabilities they make."""
    records = read_records(path)
    for record in records:
        for name in (*OF_THE_ENGINE, "logprobs"):
            record.pop(name, None)
        for read in record.get("reads", ()):
            for name in ("normalised", "label_mass", "logprobs"):
                read.pop(name)
        for entry in record.get("ranking", ()):
            entry.pop("logprob")
            entry["probability"] = entry["score"] = round(entry["probability"], 9)
        if "probabilities" in record:
            record["probabilities"] = [round(p, 9) for p in record["probabilities"]]
    return records


_SCRIPTED: dict[tuple[str | bytes, ...], list[dict[str, Any]]] = {}


def same_as_scripted(fastqwen: Fastqwen, out: Path, *job: str | Path) -> None:
    """The scripted engine is asked once in each process for the same rows."""
    key = tuple(part.read_bytes() if isinstance(part, Path) and part.is_file() else str(part) for part in job)
    if key not in _SCRIPTED:
        reference = out.with_name("reference.jsonl")
        fastqwen(*job, "-o", reference, *SCRIPTED, check=None)
        _SCRIPTED[key] = plain(reference)
    assert plain(out) == _SCRIPTED[key]


def test_rankings_and_probabilities_are_those_of_the_questions(
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback, rows: Path
) -> None:
    ranking = ("rerank", CATALOGUE / "sessions.jsonl", "--items", CATALOGUE / "items.jsonl")
    for name, job in {"r.jsonl": ranking, "p.jsonl": ("probs", rows)}.items():
        fastqwen(*job, "-o", tmp_path / name, *use(server))
        same_as_scripted(fastqwen, tmp_path / name, *job)
        (tmp_path / "reference.jsonl").unlink(missing_ok=True)
        (tmp_path / "reference.jsonl.run.json").unlink(missing_ok=True)
    record = read_records(tmp_path / "p.jsonl")[0]
    assert record["engine"] == server.dialect
    assert record["exact"] is True
    assert (record["label_mass"] is None) == (server.dialect == "tgi")
    assert record["route"] == ROUTES[server.dialect]


def test_servers_refuse_switches_of_the_torch_engine(
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback
) -> None:
    rows = questions(tmp_path, 2)
    done = fastqwen("probs", rows, *use(server), "--use-torch-compile", "--use-flash-attention")
    told = "--use-torch-compile, --use-flash-attention: for what torch computes; a server computes as it was"
    assert told in done.stderr
    assert "for what torch computes" not in fastqwen("probs", rows, *use(server)).stderr


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_summaries_are_those_of_the_images(fastqwen: Fastqwen, tmp_path: Path, dialect: str) -> None:
    with serve(dialect) as server:
        job = ("summarize", CATALOGUE / "images")
        fastqwen(*job, "-o", tmp_path / "s.jsonl", *_use(server))
        same_as_scripted(fastqwen, tmp_path / "s.jsonl", *job)


RECOVERED = [
    "429", "503", "500", "502", "424", "reset", "silent", "truncated", "half a chunk", "no length", "gzip",
    "large", "empty", "html", "list", "error", "other id", "other model", "no label", "null", "nan", "twice",
    "late",
]  # fmt: skip


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("fault", RECOVERED)
def test_occasional_faults_lose_and_move_no_row(  # S01-S03, S07, S08, S12, S13, S16
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback, rows: Path, fault: str
) -> None:
    # Of two rows: a second bad reply to one would rightly fail it, so both are on their way at once.
    server.fault = lambda number, path: fault if number in (7, 8) else None
    server.delay_s = 0.01
    out = tmp_path / "o.jsonl"
    done = fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "8")
    assert "60 rows: 60 ok (0 from cache), 0 failed, 0 pending" in done.stderr
    same_as_scripted(fastqwen, out, "probs", rows)
    attempts = [record["attempts"] for record in read_records(out)]
    assert max(attempts) <= 4


@pytest.mark.parametrize("status", ["400", "413", "422"])
def test_a_refused_request_fails_its_row_alone(  # S17
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback, rows: Path, status: str
) -> None:
    server.fault = lambda number, path: status if number == 5 else None
    out = tmp_path / "o.jsonl"
    done = fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "1", check=1)
    assert "59 ok (0 from cache), 1 failed" in done.stderr
    (failed,) = [record for record in read_records(out) if record["status"] == "failed"]
    assert failed["error"]["type"] == "server.refused"
    assert status in failed["error"]["message"]
    assert failed["attempts"] == 1


@pytest.mark.parametrize("status", ["401", "404", "301"])
def test_an_endpoint_that_refuses_everything_ends_the_run(  # S17, S23
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback, rows: Path, status: str
) -> None:
    server.fault = lambda number, path: status if number > 20 else None
    out = tmp_path / "o.jsonl"
    done = fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "4", check=4)
    assert "no endpoint is left" in done.stderr
    server.fault = lambda number, path: None
    fastqwen("probs", rows, "-o", out, *use(server))
    same_as_scripted(fastqwen, out, "probs", rows)


def test_one_bad_endpoint_of_two_is_set_aside(fastqwen: Fastqwen, tmp_path: Path, rows: Path) -> None:
    with serve("vllm") as good, serve("vllm") as bad:
        bad.fault = lambda number, path: "401" if number > 2 else None
        out = tmp_path / "o.jsonl"
        done = fastqwen("probs", rows, "-o", out, *use(good, bad), "--concurrency", "8")
        assert f"{bad.url} is set aside" in done.stderr
        same_as_scripted(fastqwen, out, "probs", rows)


def test_a_server_that_restarts_loses_nothing(
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback, said: list[str]
) -> None:  # S29
    """It is away until the run has said so; then it is asked soon."""
    rows = questions(tmp_path, 400)
    server.delay_s = 0.02
    asked_s: list[float] = []

    def restart() -> None:
        _until(lambda: server.posts >= 100)
        server.stop()
        _until(lambda: any("is gone" in line for line in said))
        before = server.posts
        server.start()
        began = time.monotonic()
        _until(lambda: server.posts > before)
        asked_s.append(time.monotonic() - began)

    meddler = threading.Thread(target=restart)
    meddler.start()
    out = tmp_path / "o.jsonl"
    done = fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "16")
    meddler.join()
    assert asked_s[0] < 6
    assert "is gone" in done.stderr
    assert "is back" in done.stderr
    same_as_scripted(fastqwen, out, "probs", rows)


def _until(true: Callable[[], bool]) -> None:
    """Waits for what comes within a minute on any machine."""
    end = time.monotonic() + 60
    while not true() and time.monotonic() < end:
        time.sleep(0.005)


def test_one_of_two_servers_may_go(fastqwen: Fastqwen, tmp_path: Path) -> None:  # N02
    rows = questions(tmp_path, 400)
    with serve("vllm", delay_s=0.02) as stays, serve("vllm", delay_s=0.02) as goes:

        def leave() -> None:
            while goes.posts < 50:
                time.sleep(0.005)
            goes.stop()

        threading.Thread(target=leave).start()
        out = tmp_path / "o.jsonl"
        fastqwen("probs", rows, "-o", out, *use(stays, goes), "--concurrency", "16")
        same_as_scripted(fastqwen, out, "probs", rows)


def test_a_row_that_kills_servers_is_parked(  # S20
    fastqwen: Fastqwen, tmp_path: Path, rows: Path
) -> None:
    with serve("vllm", delay_s=0.01) as server:
        server.poison = orjson.dumps(TOKENIZER.encode("Question 00017\n"))
        out = tmp_path / "o.jsonl"
        done = fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "8", check=1)
        assert "59 ok (0 from cache), 1 failed" in done.stderr
        (failed,) = [record for record in read_records(out) if record["status"] == "failed"]
        assert failed["id"] == "row-17"
        assert failed["error"]["type"] == "server.poison"
        server.poison = None
        fastqwen("probs", rows, "-o", out, *use(server))
        same_as_scripted(fastqwen, out, "probs", rows)


@pytest.mark.slow
@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.soak)])
def test_duplicate_replies_never_move_an_answer(
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback, count: int
) -> None:  # S08
    rows = questions(tmp_path, count)
    server.fault = lambda number, path: ("twice", "late")[number % 2] if number % 29 == 3 else None
    out = tmp_path / "o.jsonl"
    fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "32")
    same_as_scripted(fastqwen, out, "probs", rows)


def storm(fault: str, seconds: float) -> Callable[[int, str], str | None]:
    """A fault of all requests for so long, once the first 60 have been answered."""
    began: list[float] = []

    def played(number: int, path: str) -> str | None:
        if number < 60:
            return None
        began[:] = began or [time.monotonic()]
        return fault if time.monotonic() - began[0] < seconds else None

    return played


@pytest.mark.slow
def test_a_storm_of_refusals_loses_nothing(  # S15
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback
) -> None:
    rows = questions(tmp_path, 300)
    server.fault = storm("429", 1.5)
    server.delay_s = 0.05
    out = tmp_path / "o.jsonl"
    fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "8")
    same_as_scripted(fastqwen, out, "probs", rows)
    assert server.posts <= 1.2 * 300


@pytest.mark.usefixtures("hurried")
def test_three_of_ten_requests_failing_lose_no_row(  # S16
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback
) -> None:
    rng = random.Random(4)
    server.fault = lambda number, path: rng.choice(("500", "502")) if rng.random() < 0.3 else None
    rows, out = questions(tmp_path, 100), tmp_path / "o.jsonl"
    fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "32")
    same_as_scripted(fastqwen, out, "probs", rows)
    assert server.posts <= 1.8 * 100  # 1.43 is what it takes


@pytest.mark.usefixtures("hurried")
def test_a_contagious_failure_is_tried_three_times(  # S17
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback, rows: Path
) -> None:
    server.fault = lambda number, path: "424" if number in (5, 6, 7) else None
    done = fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *use(server), "--concurrency", "1", check=1)
    assert "59 ok (0 from cache), 1 failed" in done.stderr
    (failed,) = [record for record in read_records(tmp_path / "o.jsonl") if record["status"] == "failed"]
    assert failed["attempts"] == 3


@pytest.mark.slow
def test_a_storm_of_errors_stops_the_sending(
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback
) -> None:  # S16
    rows = questions(tmp_path, 300)
    server.fault = storm("500", 1.2)
    server.delay_s = 0.02
    out = tmp_path / "o.jsonl"
    fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "8")
    same_as_scripted(fastqwen, out, "probs", rows)
    assert server.posts <= 1.2 * 300


def test_a_wrong_server_is_refused_before_rows(  # C10
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback, rows: Path
) -> None:
    def refused(*options: str) -> str:
        return fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *options, check=4).stderr

    assert "does not hold other/model" in refused("--endpoint", server.url, "--model", "other/model")
    other = {"tgi": "vllm", "vllm": "sglang", "sglang": "tgi"}[server.dialect]
    assert f"is {server.dialect}, not {other}" in refused(*use(server), "--engine", other)
    server.tokens_more = 1
    assert "another tokenizer" in refused(*use(server))
    server.tokens_more = 0
    with serve(server.dialect, model="huge") as huge:
        assert "hold" in refused("--endpoint", server.url, "--endpoint", huge.url)
    assert not (tmp_path / "o.jsonl").exists()


def test_a_key_is_sent_and_never_shown(  # C04
    fastqwen: Fastqwen, tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "-".join(("known", "to", "nobody"))
    monkeypatch.setenv("HF_TOKEN", "hf_saved")
    with serve("vllm", api_key=secret) as server:
        out = tmp_path / "o.jsonl"
        refused = fastqwen("probs", rows, "-o", out, *use(server), check=4)
        assert "FASTQWEN_API_KEY" in refused.stderr
        done = fastqwen("probs", rows, "-o", out, *use(server), "--debug", FASTQWEN_API_KEY=secret)
        shown = done.stderr + done.stdout + (tmp_path / "o.jsonl.run.json").read_text() + out.read_text()
        assert secret not in shown
        assert "hf_saved" not in shown


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:8080", "http://user:pw@host", "http://h/?q=1"])
def test_an_endpoint_that_is_no_url_is_refused(fastqwen: Fastqwen, rows: Path, url: str) -> None:
    done = fastqwen("probs", rows, "--endpoint", url, "--model", "tiny", check=2)
    assert "--endpoint" in done.stderr
    assert "pw" not in done.stderr


def test_no_server_says_both_ways_out(fastqwen: Fastqwen, rows: Path) -> None:
    done = fastqwen("probs", rows, "--endpoint", "http://127.0.0.1:9", "--startup-timeout", "0", check=4)
    assert "http://127.0.0.1:9 does not answer (" in done.stderr
    assert " 0 s" not in done.stderr
    assert "make up" in done.stderr
    assert "--engine torch" in done.stderr


def test_a_late_server_is_waited_for(fastqwen: Fastqwen, tmp_path: Path, rows: Path) -> None:  # S21
    with serve("vllm") as server:
        server.stop()
        threading.Timer(1.0, server.start).start()
        done = fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *use(server))
        assert "waiting up to 20 s" in done.stderr


def test_an_unanswered_row_ends_by_its_deadline(
    fastqwen: Fastqwen, tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # S10, S11
    monkeypatch.setattr("tgi_stack.backends.servers.backend.BASE_S", 0.3)
    monkeypatch.setattr("tgi_stack.backends.servers.backend.PER_TOKEN_S", 0.0)
    with serve("vllm") as server:
        server.fault = lambda number, path: "slow" if number % 9 == 4 else None
        out = tmp_path / "o.jsonl"
        fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "8")
        same_as_scripted(fastqwen, out, "probs", rows)


@pytest.mark.slow
def test_a_process_that_stands_still_blames_no_server(  # X12
    fastqwen: Fastqwen, tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes two seconds for one record, while each answer has one."""
    monkeypatch.setattr("tgi_stack.backends.servers.backend.BASE_S", 1.0)
    monkeypatch.setattr("tgi_stack.backends.servers.backend.PER_TOKEN_S", 0.0)
    write = Output.write

    def slow(self: Output, number: int, record: dict[str, Any]) -> None:
        if number == 20:
            time.sleep(2.5)
        write(self, number, record)

    monkeypatch.setattr(Output, "write", slow)
    with serve("vllm", delay_s=0.05) as server:
        out = tmp_path / "o.jsonl"
        done = fastqwen("probs", rows, "-o", out, *use(server), "--concurrency", "8")
        assert "stood still" in done.stderr
        assert all(record["attempts"] == 1 for record in read_records(out))


def test_json_is_what_a_run_ends_with(
    fastqwen: Fastqwen, tmp_path: Path, server: Loopback, rows: Path
) -> None:
    done = fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", *use(server), "--json")
    assert json.loads(done.stdout)["ok"] == 60


@pytest.mark.parametrize("fault", [None, "500", "other id", "reset", "no label", "400"])
def test_several_prompts_of_a_request_are_answered(
    fastqwen: Fastqwen, tmp_path: Path, fault: str | None
) -> None:
    """Of two kinds of labels, which share no request; one that is refused is asked again prompt by prompt."""
    kinds = (["A", "B", "C"], ["yes", "no"])
    given = ({"id": f"row-{i}", "prompt": f"Question {i:05d}\n", "labels": kinds[i % 2]} for i in range(200))
    rows = write_rows(tmp_path / "g.jsonl", *given)
    with serve("vllm", delay_s=0.01) as server:
        server.fault = lambda number, path: fault if number % 5 == 3 and number < 20 else None
        out = tmp_path / "o.jsonl"
        fastqwen("probs", rows, "-o", out, *use(server, group=16), check=None if fault == "400" else 0)
        if fault == "400":
            fastqwen("probs", rows, "-o", out, *use(server, group=16))
        assert server.posts < 120
        same_as_scripted(fastqwen, out, "probs", rows)


def test_an_endpoint_named_twice_is_one(fastqwen: Fastqwen, tmp_path: Path, rows: Path) -> None:
    out = tmp_path / "o.jsonl"
    with serve("vllm") as server:
        again = ("--endpoint", server.url.replace("http", "HTTP") + "/v1/", "--concurrency", "1")
        done = fastqwen("probs", rows, "-o", out, *use(server), *again)
    assert server.most_in_flight == 1
    assert f"tiny at {server.url}\n" in done.stderr
