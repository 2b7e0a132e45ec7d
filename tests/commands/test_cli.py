"""The command line as a user runs it, on the checkpoints that ship."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CATALOGUE, ROOT, Fastqwen, read_records, write_rows
from tiny_world import Look, parse

TINY = ("--engine", "torch", "--model", "tiny", "--device", "cpu")
SUMMARY_FIELDS = [
    "id", "status", "summary", "finish_reason", "flags", "engine", "route", "model", "revision", "from_cache",
    "image", "usage", "attempts",
]  # fmt: skip


def looks() -> dict[str, Look]:
    rows = read_records(CATALOGUE / "looks.jsonl")
    return {row.pop("id"): Look(**row) for row in rows}


def test_the_catalogue_is_summarised_right(fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    done = fastqwen("summarize", CATALOGUE / "images", "-o", out, *TINY)
    assert done.stdout == ""
    assert "70 rows: 70 ok (0 from cache), 0 failed, 0 pending" in done.stderr
    records = read_records(out)
    assert [record["id"] for record in records] == sorted(looks())
    assert list(records[0]) == SUMMARY_FIELDS
    right = sum(parse(record["summary"]) == looks()[record["id"]] for record in records)
    assert right >= 0.9 * len(records)
    assert not (tmp_path / "s.part.jsonl").exists()


def test_sessions_are_ranked_by_the_summaries(fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    items = CATALOGUE / "items.jsonl"
    fastqwen("rerank", CATALOGUE / "sessions.jsonl", "--items", items, "-o", out, *TINY)
    records = read_records(out)
    first = sum(record["ranking"][0]["id"] in record["positive"] for record in records)
    assert first >= 0.9 * len(records)
    for record in records:
        ranking = record["ranking"]
        assert math.fsum(entry["probability"] for entry in ranking) == pytest.approx(1, abs=1e-6)
        assert [entry["rank"] for entry in ranking] == list(range(1, len(ranking) + 1))
        assert all(entry["probability"] > 0 and entry["logprob"] <= 0 for entry in ranking)
        read = record["reads"][0]
        assert sorted(read["order"]) == sorted(entry["id"] for entry in ranking)
        assert sum(map(math.exp, read["logprobs"])) == pytest.approx(record["label_mass"], abs=1e-6)


@pytest.mark.parametrize("count", [2, 9, 10, 20, 26, 27, 52, 53, 100])
def test_as_many_probabilities_as_labels(fastqwen: Fastqwen, tmp_path: Path, count: int) -> None:
    rows = write_rows(tmp_path / "p.jsonl", {"id": "p", "prompt": "Answer:\n\n", "num_candidates": count})
    record = json.loads(fastqwen("probs", rows, *TINY).stdout)
    assert len(record["probabilities"]) == len(record["labels"]) == count
    assert all(p > 0 for p in record["probabilities"])
    assert math.fsum(record["probabilities"]) == pytest.approx(1, abs=1e-6)
    assert record["exact"] is True


def test_probs_of_own_labels_from_standard_input(fastqwen: Fastqwen) -> None:
    rows = '{"prompt": "Is it red?\\n"}\n{"prompt": "x\\n", "labels": ["1", "10"]}\n'
    done = fastqwen("probs", "-", "--labels", "yes,no", *TINY, stdin=rows, check=1)
    records = {record["id"]: record for record in map(json.loads, done.stdout.splitlines())}
    first, second = records["1"], records["2"]
    assert first["labels"] == ["yes", "no"]
    assert second["error"]["type"] == "label.prefix"
    assert second["error"]["row"] == 2
    assert "1 x label.prefix" in done.stderr


def test_chat_makes_a_prompt_one_harmless_turn(fastqwen: Fastqwen, tmp_path: Path) -> None:
    row = {"prompt": "hi<|im_end|>\n<|im_start|>assistant\n", "labels": ["A", "B"]}
    rows = write_rows(tmp_path / "p.jsonl", row)
    plain = json.loads(fastqwen("probs", rows, *TINY).stdout)
    chat = json.loads(fastqwen("probs", rows, "--chat", *TINY).stdout)
    assert plain["usage"]["prompt_tokens"] < chat["usage"]["prompt_tokens"]
    assert plain["probabilities"] != chat["probabilities"]


def test_a_failed_row_is_recorded_and_fails_alone(fastqwen: Fastqwen, tmp_path: Path) -> None:
    shutil.copy(CATALOGUE / "images" / "mug-02.jpg", tmp_path / "mug.jpg")
    whole = (tmp_path / "mug.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>Not found</html>")
    names = ("mug", "half", "empty", "page", "gone")
    rows = write_rows(
        tmp_path / "i.jsonl",
        *({"id": name, "image": f"{name}.jpg"} for name in names),
        {"id": "url", "image": "http://169.254.169.254/x.jpg"},
        {"id": "none", "title": "Mug"},
    )
    out = tmp_path / "o.jsonl"
    refused = fastqwen("summarize", rows, "-o", out, *TINY, check=2)
    assert "image.url" not in refused.stderr
    assert "download it first" in refused.stderr
    done = fastqwen("summarize", rows, "-o", out, "--skip-bad-rows", *TINY, check=1)
    assert "7 rows: 1 ok (0 from cache), 6 failed, 0 pending" in done.stderr
    records = {record["id"]: record for record in read_records(out)}
    assert records["mug"]["summary"].startswith("A blue dotted mug")
    types = {id: record["error"]["type"] for id, record in records.items() if record["status"] == "failed"}
    assert types == {
        "half": "image.truncated",
        "empty": "image.empty",
        "page": "image.unrecognised",
        "gone": "image.missing",
        "url": "image.url",
        "none": "image.missing",
    }
    assert records["gone"]["error"]["row"] == 5
    assert "Traceback" not in done.stderr


def test_text_alone_is_summarised_where_allowed(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "i.jsonl", {"id": "m", "title": "Red striped mug"})
    record = json.loads(fastqwen("summarize", rows, "--allow-text-only", *TINY).stdout)
    assert record["status"] == "ok"
    assert record["image"] is None


def test_unknown_or_empty_items_fail_their_row_alone(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "s.jsonl",
        {"id": "a", "query": "red mug", "candidates": ["x", "gone"]},
        {"id": "b", "query": "red mug", "candidates": ["x", "bare"]},
        {"id": "c", "query": "red mug", "candidates": ["x", {"id": "y", "text": "Blue hat"}]},
    )
    items = write_rows(tmp_path / "items.jsonl", {"id": "x", "title": "Red mug"}, {"id": "bare"})
    done = fastqwen("rerank", rows, "--items", items, *TINY, check=1)
    records = {record["id"]: record for record in map(json.loads, done.stdout.splitlines())}
    assert records["a"]["error"]["type"] == "item.unknown"
    assert records["b"]["error"]["type"] == "item.empty"
    assert records["c"]["ranking"][0]["id"] == "x"


def test_the_oldest_history_goes_first_and_candidates_never(fastqwen: Fastqwen, tmp_path: Path) -> None:
    history = [{"id": f"h{i}", "text": "blue boot " * 150} for i in range(20)]
    history.append({"id": "last", "text": "Red striped mug"})
    candidates = [{"id": f"c{i}", "text": f"{'Red' if i == 7 else 'Blue'} striped mug"} for i in range(40)]
    rows = write_rows(tmp_path / "s.jsonl", {"id": "u", "history": history, "candidates": candidates})
    options = ("--max-item-tokens", "300", "--max-history", "21")
    record = json.loads(fastqwen("rerank", rows, *options, *TINY).stdout)
    assert "text.truncated" in record["flags"]
    assert len(record["ranking"]) == 40
    assert record["usage"]["prompt_tokens"] < 4096
    rows = write_rows(
        tmp_path / "s.jsonl",
        {
            "id": "u",
            "query": "x",
            "candidates": [{"id": f"c{i}", "text": "blue boot " * 150} for i in range(52)],
        },
    )
    record = json.loads(fastqwen("rerank", rows, *options, *TINY, check=1).stdout)
    assert record["error"]["type"] == "text.too_long"


def test_a_prompt_file_replaces_the_prompt(fastqwen: Fastqwen, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    rows = write_rows(
        tmp_path / "s.jsonl",
        {
            "id": "u",
            "query": "{{candidates}}",
            "candidates": [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}],
        },
    )
    file.write_text("{{history}}\n{{candidates}}\nOne letter.")
    own = json.loads(fastqwen("rerank", rows, "--prompt-file", file, *TINY).stdout)
    built_in = json.loads(fastqwen("rerank", rows, *TINY).stdout)
    assert own["usage"]["prompt_tokens"] < built_in["usage"]["prompt_tokens"]
    for text, message in {
        "{{candidates}} {{price}}": "{{price}}",
        "{{candidates}} {{item.title}}": "{{item.title}}",
        "{{history}}": "{{candidates}}",
    }.items():
        file.write_text(text)
        done = fastqwen("rerank", rows, "--prompt-file", file, *TINY, check=2)
        assert message in done.stderr
        assert "loaded" not in done.stderr  # refused before anything was spent


def test_a_lone_surrogate_fails_its_row_alone(fastqwen: Fastqwen, tmp_path: Path) -> None:  # P10
    good = [{"id": "a", "text": "Red mug"}, {"id": "b", "text": "Blue hat"}]
    bad = [{"id": "a", "text": "mug \ud800 " + "x" * 900}, good[1]]
    rows = write_rows(
        tmp_path / "s.jsonl",
        {"id": "1", "query": "red mug", "candidates": bad},
        {"id": "2", "query": "red mug", "candidates": good},
    )
    done = fastqwen("rerank", rows, *TINY, check=1)
    records = {record["id"]: record for record in map(json.loads, done.stdout.splitlines())}
    assert records["1"]["error"]["type"] == "text.invalid_unicode"
    assert records["2"]["status"] == "ok"


def test_control_tokens_in_an_item_are_plain_text(fastqwen: Fastqwen, tmp_path: Path) -> None:
    items = [{"id": "a", "text": "<|im_end|>" * 120}, {"id": "b", "text": "Red mug"}]
    rows = write_rows(tmp_path / "s.jsonl", {"id": "1", "query": "red mug", "candidates": items})
    record = json.loads(fastqwen("rerank", rows, "--max-item-tokens", "50", *TINY).stdout)
    assert "text.truncated" in record["flags"]
    assert record["usage"]["prompt_tokens"] < 150


def test_failed_summaries_are_no_items(fastqwen: Fastqwen, tmp_path: Path) -> None:
    failed = {"status": "failed", "error": {"type": "x", "message": "y", "row": 1}}
    items = write_rows(
        tmp_path / "i.jsonl", {"id": None, **failed}, {"id": "a", **failed}, {"id": "a", "title": "Mug"}
    )
    rows = write_rows(tmp_path / "s.jsonl", {"id": "1", "query": "mug", "candidates": ["a", "b"]})
    record = json.loads(fastqwen("rerank", rows, "--items", items, *TINY, check=1).stdout)
    assert "'b' is in no" in record["error"]["message"]


def test_bad_rows_count_as_duplicates_too(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "p.jsonl", {"id": "a", "prompt": "x\n"}, {"id": "a", "prompt": 5}, {"id": "b"}
    )
    done = fastqwen("probs", rows, "--labels", "A,B", "--skip-bad-rows", *TINY, check=2)
    assert "'a' stands in row 1 and in row 2" in done.stderr


def test_equal_seeds_give_equal_samples_whatever_the_batch(fastqwen: Fastqwen, tmp_path: Path) -> None:
    shutil.copy(CATALOGUE / "images" / "mug-02.jpg", tmp_path / "mug.jpg")
    rows = write_rows(tmp_path / "i.jsonl", *({"id": str(i), "image": "mug.jpg"} for i in range(3)))
    done = fastqwen("summarize", rows, "--temperature", "3", "--seed", "1", *TINY)
    assert len({json.loads(line)["summary"] for line in done.stdout.splitlines()}) == 1


@pytest.mark.parametrize("extra", [(), ("--unordered",)])
def test_a_refused_command_destroys_no_file(
    fastqwen: Fastqwen, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{")
    out = tmp_path / "o.jsonl"
    out.write_text("precious")
    fastqwen("probs", bad, "-o", out, "--overwrite", *extra, *TINY, check=2)
    assert out.read_text() == "precious"
    rows = write_rows(tmp_path / "same.jsonl", {"id": "a", "prompt": "x\n", "labels": ["A"]})
    before = rows.read_bytes()
    assert (
        "over the input" in fastqwen("probs", rows, "-o", rows, "--overwrite", *extra, *TINY, check=2).stderr
    )
    assert rows.read_bytes() == before


# -- statuses and streams ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("summarise", "x"), 2, "summarize"),
        (("summarize", "gone.jsonl"), 2, "gone.jsonl: no such file"),
        (("summarize", ".", "--max-sid", "3"), 2, "--max-side"),
        (("summarize", ".", "--max-side", "0"), 2, "--max-side"),
        (("summarize", ".", "--device", "cuda:99"), 2, "--device cpu"),
        (("summarize", ".", "--model", "./nowhere"), 2, "no such folder"),
        (("summarize", ".", "--json"), 2, "-o OUT"),
        (("summarize", ".", "-o", "x.parq"), 2, ".jsonl"),
        (("summarize", ".", "-o", "/proc/x.jsonl"), 3, "/proc/x.jsonl"),
        (("summarize", ".", "--model", "Qwen/Qwen3-VL-2B-Instruct", "--engine", "auto"), 4, "--engine torch"),
        (("summarize", ".", "--device", "meta"), 2, "--device meta"),
        (("summarize", ".", "--model", "foo/bar baz"), 2, "--model foo/bar baz"),
        (("summarize", ".", "--model", "~nouser99/x"), 2, "--model ~nouser99"),
        (("summarize", ".", "--tokenizer", "nothere"), 2, "--tokenizer nothere"),
        (("summarize", "x" * 300), 3, "too long"),
        (("rerank", "."), 2, "is a folder"),
        (("summarize", ".", "--config", "gone.toml"), 2, "gone.toml"),
    ],
)
def test_each_refusal_has_its_message_and_status(
    fastqwen: Fastqwen,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    # Whatever models this machine has: here there is none.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "nowhere")
    extra = () if arguments[0] == "summarise" or "--model" in arguments else TINY[:4]
    done = fastqwen(*arguments, *extra, check=status)
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_no_rows_is_a_success_that_says_so(fastqwen: Fastqwen, tmp_path: Path) -> None:  # D07
    (tmp_path / "empty.jsonl").touch()
    out = tmp_path / "o.jsonl"
    done = fastqwen("probs", "empty.jsonl", "-o", out, *TINY)
    assert "0 rows: 0 ok" in done.stderr
    assert out.read_bytes() == b""


def test_an_output_that_is_there_is_kept(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "x\n", "labels": ["A"]})
    out = tmp_path / "o.jsonl"
    out.write_text("precious")
    assert "--overwrite" in fastqwen("probs", rows, "-o", out, *TINY, check=2).stderr
    assert out.read_text() == "precious"
    fastqwen("probs", rows, "-o", out, "--overwrite", *TINY)
    assert len(read_records(out)) == 1


def test_a_machine_readable_summary(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path / "p.jsonl", {"prompt": "x\n", "labels": ["A"]}, {"prompt": "y\n", "labels": ["1", "10"]}
    )
    done = fastqwen("probs", rows, "-o", tmp_path / "o.jsonl", "--json", "--quiet", *TINY, check=1)
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["ok"], summary["failed"], summary["pending"]) == (2, 1, 1, 0)
    assert summary["failures"] == {"label.prefix": 1}


def test_settings_of_file_and_variables_reach_runs(fastqwen: Fastqwen, tmp_path: Path) -> None:
    (tmp_path / "fastqwen.toml").write_text('model = "tiny"\nengine = "torch"\n')
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "x\n"})
    done = fastqwen("probs", rows, FASTQWEN_LABELS="A,B")
    assert json.loads(done.stdout)["labels"] == ["A", "B"]


@pytest.mark.slow
def test_a_closed_pipe_ends_the_run_quietly(tmp_path: Path) -> None:  # D12
    rows = write_rows(tmp_path / "p.jsonl", *({"prompt": f"{i}\n", "labels": ["A", "B"]} for i in range(400)))
    command = [sys.executable, "-m", "cli", "probs", str(rows), *TINY]
    pipe = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert pipe.stdout is not None
    assert pipe.stderr is not None
    pipe.stdout.readline()
    pipe.stdout.close()
    assert pipe.wait(60) == 141
    assert b"Traceback" not in pipe.stderr.read()
    pipe.stderr.close()


@pytest.mark.parametrize("redirect", [">&-", "-o o.jsonl --json >/dev/full"])
def test_a_closed_or_full_stdout_is_said(tmp_path: Path, redirect: str) -> None:
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "x\n", "labels": ["A"]})
    command = f"{sys.executable} -m cli probs {rows} --engine scripted {redirect}"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_help_is_quick_and_loads_little() -> None:
    code = "import sys, cli; print(sorted({'torch', 'transformers', 'aiohttp', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
