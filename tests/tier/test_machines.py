"""Several machines with one tier: who asks, who writes, and what is never sent."""

from __future__ import annotations

import os
import pickle
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import CATALOGUE, Fastqwen, read_records
from tests.tier.conftest import Running
from tests.tier.machines import asked, from_cache, plain, records

SLOW = "delay_s=0.02"


def test_two_jobs_at_once_ask_the_union(server: Running, tmp_path: Path) -> None:
    jobs = [asked(tmp_path / "a.jsonl", range(300)), asked(tmp_path / "b.jsonl", range(100, 400))]
    with ThreadPoolExecutor(2) as both:
        ran = [
            both.submit(records, rows, tmp_path / rows.stem, cache_tier=server.url, model=SLOW)
            for rows in jobs
        ]
        found = [one.result() for one in ran]
    assert plain(found[0])[100:] == plain(found[1])[:200]
    questions = sum(record["attempts"] for one in found for record in one)
    assert 400 <= questions <= 1.02 * 400


def test_a_dead_machine_holds_nobody_up(server: Running, tmp_path: Path) -> None:
    rows = asked(tmp_path / "a.jsonl", range(8))
    records(rows, tmp_path / "a", cache_tier=server.url)
    for key in server.values():  # as if it had died before it answered
        server.client.delete(key)
        server.client.set(key.replace(b"fq1:", b"fq1:lease:"), b"x", px=300)
    found = records(rows, tmp_path / "b", cache_tier=server.url)
    assert from_cache(found) == 0
    assert len(server.values()) == 8


def test_no_lease_is_left_behind(server: Running, tmp_path: Path) -> None:
    failing = "fail_every=3"
    found = records(
        asked(tmp_path / "a.jsonl", range(30)), tmp_path / "a", cache_tier=server.url, model=failing
    )
    assert {record["status"] for record in found} == {"ok", "failed"}
    assert not server.client.keys("fq1:lease:*")


def test_a_reader_writes_nothing_there_and_all_here(server: Running, tmp_path: Path) -> None:
    rows = asked(tmp_path / "a.jsonl", range(20))
    records(rows, tmp_path / "a", cache_tier=server.url, cache_tier_mode="read")
    assert server.client.dbsize() == 0
    assert from_cache(records(rows, tmp_path / "a", offline=True)) == 20


def test_the_first_writer_wins(server: Running, tmp_path: Path) -> None:
    rows = asked(tmp_path / "a.jsonl", range(20))
    records(rows, tmp_path / "a", cache_tier=server.url)
    before = server.values()
    records(rows, tmp_path / "b", cache_tier=server.url, concurrency=1)
    records(rows, tmp_path / "a", cache_tier=server.url, overwrite=True)
    assert server.values() == before


def test_other_labels_of_a_prompt_are_shared_too(server: Running, tmp_path: Path) -> None:
    rows = asked(tmp_path / "a.jsonl", range(10))
    more = tmp_path / "b.jsonl"
    more.write_text(rows.read_text().replace('"C"', '"D", "E"'))
    for machine in ("a", "b"):
        first = records(rows, tmp_path / machine, cache_tier=server.url)
        second = records(more, tmp_path / machine, cache_tier=server.url)
    assert from_cache(first) == from_cache(second) == 10


def test_another_key_is_another_tier(server: Running, tmp_path: Path) -> None:
    rows = asked(tmp_path / "a.jsonl", range(10))
    for name in ("ours", "theirs"):
        (tmp_path / name).write_bytes(os.urandom(32).hex().encode())
    ours, theirs = (
        {"cache_tier": server.url, "cache_tier_key_file": tmp_path / n} for n in ("ours", "theirs")
    )
    expected = records(rows, tmp_path / "a", **ours)
    assert from_cache(records(rows, tmp_path / "b", **theirs)) == 0
    assert from_cache(records(rows, tmp_path / "c", cache_tier=server.url)) == 0
    again = records(rows, tmp_path / "d", **ours)
    assert from_cache(again) == 10
    assert plain(again) == plain(expected)


def test_nothing_there_tells_of_a_question(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTQWEN_API_KEY", "hunter2hunter2")
    records(asked(tmp_path / "secret.jsonl", range(40)), tmp_path / "a", cache_tier=server.url)
    values = server.values()
    assert {len(key) for key in values} == {len(b"fq1:L:") + 64}
    for word in (b"ecret", b"plan", b"scripted", b"hunter2", str(tmp_path).encode(), b'"A"'):
        assert not any(word in key + value for key, value in values.items())
    for value in values.values():
        with pytest.raises(
            (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError)
        ):
            pickle.loads(value)  # noqa: S301  # nothing that a pickle would be


def test_offline_sends_no_packet(cached: Fastqwen, tmp_path: Path) -> None:
    rows = asked(tmp_path / "a.jsonl", range(5))
    cached("probs", rows, "-o", tmp_path / "a.out.jsonl", "--engine", "scripted")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tier = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        for number, option in enumerate(("--offline", "--dry-run", "--no-cache")):
            out = () if option == "--dry-run" else ("-o", tmp_path / f"{number}.jsonl")
            cached("probs", rows, *out, "--engine", "scripted", option, "--cache-tier", tier)
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_processes_that_prepare_rows_share_the_tier(
    server: Running, cached: Fastqwen, tmp_path: Path
) -> None:
    rows = asked(tmp_path / "rows.jsonl", range(200))
    for machine, many in (("a", "2"), ("b", "1")):
        options = ("--preparers", many, "--cache-tier", server.url, "--cache-dir", tmp_path / machine)
        cached("probs", rows, "-o", tmp_path / f"{machine}.jsonl", "--engine", "scripted", *options)
    ours, theirs = (read_records(tmp_path / f"{machine}.jsonl") for machine in ("a", "b"))
    assert plain(ours) == plain(theirs)
    assert from_cache(theirs) == 200
    assert not server.client.keys("fq1:lease:*")
    kept = records(rows, tmp_path / "b", offline=True)
    assert from_cache(kept) == 200


def test_summaries_and_images_are_shared(server: Running, cached: Fastqwen, tmp_path: Path) -> None:
    job = (
        "summarize",
        CATALOGUE / "images",
        "--limit",
        "4",
        "--engine",
        "scripted",
        "--cache-tier",
        server.url,
    )
    for machine, more in (("a", ["--cache-tier-images"]), ("b", [])):
        cached(*job, *more, "-o", tmp_path / f"{machine}.jsonl", "--cache-dir", tmp_path / machine)
    ours, theirs = (read_records(tmp_path / f"{machine}.jsonl") for machine in ("a", "b"))
    assert plain(ours) == plain(theirs)
    assert from_cache(theirs) == 4
    assert {chr(key[4]) for key in server.values()} == {"S", "I", "T"}
