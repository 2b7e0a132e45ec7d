"""`fastqwen report`: what stands in the page, and what it says that it can't show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen, write_rows
from tests.report.written import Page, failed, ranking, rankings, summary, written
from tgi_stack.report import figures
from tgi_stack.report.mask import Mask
from tgi_stack.report.outputs import read_output
from tgi_stack.report.pairs import compare
from tgi_stack.report.run import pace

IMAGES = CATALOGUE / "images"
SESSIONS, ITEMS = CATALOGUE / "sessions.jsonl", CATALOGUE / "items.jsonl"
MOST_SCRIPT, MOST_PICTURE = 15_000, 8_000
MOST_TEXT = 25_000_000  # of 10,000 rows


def page(fastqwen: Fastqwen, *arguments: str | Path, check: int = 0) -> Page:
    fastqwen("report", *arguments, "-o", "page.html", "--overwrite", check=check)
    return Page(Path("page.html").read_text(encoding="utf-8"))


def test_gallery_holds_pictures_and_summaries(fastqwen: Fastqwen, tmp_path: Path) -> None:
    fastqwen("summarize", IMAGES, "-o", "s.jsonl", "--engine", "scripted", "--limit", "9")
    found = page(fastqwen, "s.jsonl", "--images", IMAGES)
    rows = found.data["rows"]
    records = [json.loads(line) for line in Path("s.jsonl").read_text().splitlines()]
    assert rows["id"] == [record["id"] for record in records]
    assert rows["summary"] == [record["summary"] for record in records]
    assert len(found.data["thumbs"]) == 9
    assert all(one < MOST_PICTURE for one in map(len, found.data["thumbs"]))
    assert [found.data["thumbs"][place][:5] for place in rows["thumb"]] == ["UklGR"] * 9  # RIFF, of WebP


def test_prepared_images_come_from_the_cache(cached: Fastqwen, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    folder.mkdir()
    for path in sorted(IMAGES.glob("b*.jpg"))[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    cached("summarize", folder, "-o", "s.jsonl", "--engine", "torch", "--model", "tiny")
    folder.rename(tmp_path / "away")
    found = page(cached, "s.jsonl")
    assert len(found.data["thumbs"]) == 3
    assert not page(cached, "s.jsonl", "--no-cache").data["thumbs"]


def test_histories_and_items_come_from_the_input(fastqwen: Fastqwen, tmp_path: Path) -> None:
    fastqwen("rerank", SESSIONS, "--items", ITEMS, "-o", "r.jsonl", "--engine", "scripted", "--limit", "6")
    found = page(fastqwen, "r.jsonl", "--input", SESSIONS, "--items", ITEMS)
    rows, items = found.data["rows"], found.data["items"]
    session = json.loads(SESSIONS.read_text().splitlines()[0])
    assert [items["text"][item] for item in rows["past"][0]] == [one["text"] for one in session["history"]]
    assert [items["id"][item] for item in rows["cand"][0]] == session["candidates"]
    titles = {json.loads(line)["id"]: json.loads(line)["title"] for line in ITEMS.read_text().splitlines()}
    assert [items["title"][item] for item in rows["cand"][0]] == [
        titles[name] for name in session["candidates"]
    ]
    assert len(found.data["thumbs"]) > 60  # the items' own pictures


@pytest.mark.parametrize("option", ["--input", "--items"])
def test_files_of_another_run_are_refused(fastqwen: Fastqwen, tmp_path: Path, option: str) -> None:
    fastqwen("rerank", SESSIONS, "--items", ITEMS, "-o", "r.jsonl", "--engine", "scripted", "--limit", "2")
    other = write_rows(tmp_path / "other.jsonl", {"id": "x", "candidates": ["a"], "query": "q", "title": "t"})
    done = fastqwen("report", "r.jsonl", option, other, check=2)
    assert "digest" in done.stderr
    assert str(other) in done.stderr
    assert not Path("report.html").exists()


def test_what_is_missing_is_said(fastqwen: Fastqwen, tmp_path: Path) -> None:
    written(tmp_path / "r.jsonl", *rankings(3))
    found = "\n".join(page(fastqwen, "r.jsonl").texts)
    for said in ("no run.json", "Without --input: histories", "Without --items: titles"):
        assert said in found


def test_redacted_pages_hold_nothing_of_the_user(fastqwen: Fastqwen, tmp_path: Path) -> None:
    secret = "Zebrafinch"  # noqa: S105
    known = {f"{secret}-{place}": [float(place)] for place in range(3)}
    rows = [
        ranking(f"{secret} row", known, f"{secret}-1"),
        failed(f"{secret} two", message=f"{secret} is slow"),
    ]
    written(tmp_path / f"{secret}.jsonl", *rows)
    fastqwen("report", f"{secret}.jsonl", "--redact", "-o", "page.html")
    html = Path("page.html").read_text()
    assert secret not in html
    data = Page(html).data
    assert len(set(data["items"]["id"])) == 3
    written(tmp_path / "s.jsonl", summary(f"{secret}.jpg", f"A {secret}"))
    fastqwen("report", "s.jsonl", "s.jsonl", "--redact", "-o", "page.html", "--overwrite")
    assert secret not in Path("page.html").read_text()


def test_redacted_ids_differ_between_pages(fastqwen: Fastqwen, tmp_path: Path) -> None:
    written(tmp_path / "r.jsonl", *rankings(2))
    first, second = (page(fastqwen, "r.jsonl", "--redact").data["rows"]["id"] for _ in range(2))
    assert set(first).isdisjoint(second)


def test_only_own_script_and_style_may_run(fastqwen: Fastqwen, tmp_path: Path) -> None:
    written(tmp_path / "r.jsonl", *rankings(2))
    found = page(fastqwen, "r.jsonl")
    policy = found.meta["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert len(found.code.encode()) <= MOST_SCRIPT
    assert all(href.startswith("#") for href in found.hrefs)
    assert not [
        name for _, names in found.tags for name in names if name.startswith("on") or name in ("style", "src")
    ]


def test_a_limit_is_said(fastqwen: Fastqwen, tmp_path: Path) -> None:
    written(tmp_path / "r.jsonl", *rankings(9))
    found = page(fastqwen, "r.jsonl", "--limit", "4")
    assert len(found.data["rows"]["id"]) == 4
    assert any("first 4 rows" in text for text in found.texts)
    assert "--limit 0 leaves no row" in fastqwen("report", "r.jsonl", "--limit", "0", check=2).stderr


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_both_formats_give_one_page(fastqwen: Fastqwen, tmp_path: Path, suffix: str) -> None:
    fastqwen(
        "rerank",
        SESSIONS,
        "--items",
        ITEMS,
        "-o",
        f"r{suffix}",
        "--engine",
        "scripted",
        "--permutations",
        "2",
    )
    rows = page(fastqwen, f"r{suffix}").data["rows"]
    assert len(rows["id"]) == 24
    assert rows["truth"].count(None) == 0


def test_prompts_are_shown_as_rankings(fastqwen: Fastqwen, tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "p.jsonl", {"id": "p1", "prompt": "Which?\n", "labels": ["yes", "no"]})
    fastqwen("probs", prompts, "-o", "o.jsonl", "--engine", "scripted")
    found = page(fastqwen, "o.jsonl", "--input", prompts).data
    record = json.loads(Path("o.jsonl").read_text())
    rows = found["rows"]
    assert [found["items"]["id"][item] for item in rows["cand"][0]] == ["yes", "no"]
    assert rows["p"][0] == pytest.approx(record["probabilities"], rel=1e-3)
    assert rows["query"] == ["Which?\n"]


def test_pages_are_not_written_over(fastqwen: Fastqwen, tmp_path: Path) -> None:
    written(tmp_path / "r.jsonl", *rankings(1))
    Path("page.html").write_text("mine")
    fastqwen("report", "r.jsonl", "-o", "page.html", check=2)
    fastqwen("report", "r.jsonl", "-o", "r.jsonl", "--overwrite", check=2)
    assert Path("page.html").read_text() == "mine"


@pytest.mark.parametrize(
    "broken", [{"id": "a"}, {"status": "ok", "ranking": []}, {"id": "a", "status": "ok", "summary": None}]
)
def test_what_no_job_writes_is_refused(fastqwen: Fastqwen, tmp_path: Path, broken: dict[str, Any]) -> None:
    write_rows(tmp_path / "x.jsonl", broken)
    fastqwen("report", "x.jsonl", check=2)


def test_two_jobs_are_not_compared(fastqwen: Fastqwen, tmp_path: Path) -> None:
    written(tmp_path / "r.jsonl", *rankings(1))
    written(tmp_path / "s.jsonl", summary("a", "A mug."))
    assert "two of one job" in fastqwen("report", "r.jsonl", "s.jsonl", check=2).stderr


# -- figures ---------------------------------------------------------------------------------------------


def test_pairs_agree_with_eval(tmp_path: Path, fastqwen: Fastqwen) -> None:
    ours, theirs = (written(tmp_path / f"{noise}.jsonl", *rankings(40, noise)) for noise in (0.1, 3.0))
    found = compare(read_output(ours), read_output(theirs))
    told = json.loads(fastqwen("eval", ours, "--against", theirs, "--json").stdout)["against"]["differences"]
    assert found.differences["NDCG@10"].mean == pytest.approx(told["NDCG@10"]["mean"])
    deltas = [pair.delta for pair in found.pairs if pair.delta is not None]
    assert sum(deltas) / len(deltas) == pytest.approx(told["NDCG@10"]["mean"])
    worst = [pair.delta for pair in found.losses()]
    assert worst == sorted(delta for delta in deltas if delta < 0)[:20]


def test_equal_outputs_have_no_distance(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", *rankings(12), failed("x", positive=["a"]))
    found = compare(read_output(path), read_output(path))
    assert {pair.delta for pair in found.pairs} == {0.0}
    assert {pair.apart for pair in found.pairs} == {0.0, None}  # a failed row has no distribution
    assert not found.losses()


def test_calibration_is_that_of_the_numbers(tmp_path: Path) -> None:
    sure = [ranking(f"s{n}", {"a": [9.0], "b": [0.0]}, "a" if n < 3 else "b") for n in range(4)]
    found = figures.calibration(sure)
    assert found is not None
    last = found.bins[-1]
    assert (last.count, last.right) == (4, 0.75)
    assert found.ece == pytest.approx((last.mean or 0) - 0.75)
    assert found.best_temperature is not None
    assert found.best_temperature > 3  # so sure, and wrong once in four: softer is better


def test_bias_is_told_by_place(tmp_path: Path) -> None:
    rows = [ranking(f"r{n}", {"a": [2.0, 0.0], "b": [0.0, 2.0]}) for n in range(3)]  # the first place wins
    found = figures.bias(read_output(written(tmp_path / "r.jsonl", *rows)), Mask(hides=False))
    assert found is not None
    assert [round(place.mean, 3) for place in found.places] == [0.881, 0.119]
    assert [place.label for place in found.places] == ["A", "B"]
    assert [place.fair for place in found.places] == [0.5, 0.5]
    assert [(one.label, one.place, one.first) for one in found.cells] == [("A", 1, 1.0), ("B", 2, 0.0)]


def test_labels_are_told_at_each_place(fastqwen: Fastqwen, tmp_path: Path) -> None:
    about = {"status": "ok", "exact": True, "label_mass": 1.0, "flags": [], "route": "torch"}
    turned = [("yes", "no"), ("no", "yes"), ("no", "yes")]
    rows = [
        {"id": f"p{n}", "labels": labels, "probabilities": [0.8, 0.2] if labels[0] == "yes" else [0.4, 0.6]}
        for n, labels in enumerate(turned)
    ]
    out = write_rows(tmp_path / "p.jsonl", *(row | about for row in rows))
    found = figures.bias(read_output(out), Mask(hides=False))
    assert found is not None
    told = {(one.label, one.place): (round(one.mean, 9), one.reads, one.first) for one in found.cells}
    assert told == {
        ("yes", 1): (0.8, 1, 1.0),
        ("no", 1): (0.4, 2, 0.0),
        ("yes", 2): (0.6, 2, 1.0),
        ("no", 2): (0.2, 1, 0.0),
    }
    shown = page(fastqwen, out)
    assert "Probability by label and place" in shown.texts
    assert "yes at place 2: 0.600, fair 0.500, the likeliest in 100% of 2 reads" in shown.blocks["title"]


def test_a_page_of_many_rows_stays_small(fastqwen: Fastqwen, tmp_path: Path) -> None:
    page(fastqwen, written(tmp_path / "r.jsonl", *rankings(1000)))
    assert Path("page.html").stat().st_size < MOST_TEXT / 10


def test_pace_adds_up(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", *rankings(1))
    fields = ["seconds", "ok", "failed", "cached", "prompt_tokens", "completion_tokens"]
    points = [[5.0, 10, 0, 0, 100, 0], [10.0, 40, 5, 20, 300, 0], [10.2, 41, 5, 20, 310, 0]]
    noted = {"asked": {"job": "rerank"}, "timeline": {"fields": fields, "points": points}}
    (tmp_path / "r.jsonl.run.json").write_text(json.dumps(noted))
    found = pace(read_output(path))
    assert sum((one.ends - one.begins) * one.rows for one in found) == pytest.approx(46)
    assert [one.begins for one in found] == [0, 5.0]  # two tenths of a second are no rate
