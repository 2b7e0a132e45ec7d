"""The page in a real browser: each view, filter, sort, slider, keys, links, and what axe-core finds."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen
from tests.report.written import failed, rankings, summary, written

Open = Callable[..., Any]
IMAGES = CATALOGUE / "images"
MANY = 2000
WAIT_S = 20.0
AXE_RUN = "axe.run({resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
SIZES = ((1280, 900), (390, 800))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def open_page(browser: Any, fastqwen: Fastqwen) -> Iterator[Open]:
    """Writes a page and opens it; whatever the page logs or asks of a network fails the test."""
    contexts, said = [], []

    def opened(
        *arguments: str | Path, at: str = "", dark: bool = False, size: tuple[int, int] = SIZES[0]
    ) -> Any:
        # Playwright has an event loop in this thread, and the command one of its own.
        ThreadPoolExecutor(1).submit(
            fastqwen, "report", *arguments, "-o", "page.html", "--overwrite"
        ).result()
        scheme: Any = "dark" if dark else "light"
        view = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=view, color_scheme=scheme, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda asked: said.append(asked.url) if asked.url.startswith("http") else None)
        page.goto(Path("page.html").resolve().as_uri() + at)
        until(page, "document.body.dataset.ready")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def until(page: Any, holds: str) -> None:
    """Waits for an expression; Playwright's own way computes strings, which the page's policy forbids."""
    ends = time.monotonic() + WAIT_S
    while not page.evaluate(holds):
        assert time.monotonic() < ends, holds
        page.wait_for_timeout(20)


def ids(page: Any) -> list[str]:
    found: list[str] = page.locator("section:visible [data-k]").evaluate_all(
        "all => all.map(one => decodeURIComponent(one.hash.replace(/.*id=/, '').replaceAll('+', ' ')))"
    )
    return found


def told(page: Any) -> str:
    return str(page.locator("section:visible [data-told]").inner_text())


@pytest.mark.slow
def test_rankings_filter_sort_and_open(open_page: Open, tmp_path: Path) -> None:
    out = written(tmp_path / "r.jsonl", *rankings(30), failed("late", positive=["a"]))
    page = open_page(out, at="#view=rankings")
    assert told(page) == "31 of 31"
    assert ids(page)[:3] == ["u0", "u1", "u2"]
    page.select_option("#rankings [data-only]", label="failed")
    assert ids(page) == ["late"]
    page.select_option("#rankings [data-only]", label="truth not first")
    missed = [record for record in rankings(30) if record["ranking"][0]["id"] not in record["positive"]]
    assert told(page) == f"{len(missed) + 1} of 31"
    page.select_option("#rankings [data-only]", label="all")
    page.get_by_role("button", name="truth at").click()
    page.get_by_role("button", name="truth at").click()
    assert page.locator("[aria-sort=descending]").inner_text().startswith("truth at")
    places = page.locator("#rankings tbody tr:not(.pad) td:nth-child(5)").all_inner_texts()
    assert places == sorted(places, reverse=True)
    page.fill("#rankings [data-find]", "u17")
    until(page, "document.querySelector('#rankings [data-told]').textContent === '1 of 31'")
    page.locator("#rankings tbody tr:not(.pad) td").nth(3).click()
    until(page, "document.querySelector('#detail').open")
    assert page.locator("#detail-id").inner_text() == "u17"
    assert page.locator(".cand tbody tr").count() == 6
    assert "id=u17" in page.url


@pytest.mark.slow
def test_keys_go_through_rows(open_page: Open, tmp_path: Path) -> None:
    page = open_page(written(tmp_path / "r.jsonl", *rankings(MANY)), at="#view=rankings")
    for key in ("j", "j", "j", "k", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#detail[open]")
    assert page.locator("#detail-id").inner_text() == "u1"
    page.keyboard.press("j")
    until(page, "document.querySelector('#detail-id').textContent === 'u2'")
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('#detail').open")
    assert page.evaluate("document.activeElement.dataset.k") == "2"
    page.keyboard.press("G")
    assert page.evaluate("document.activeElement.textContent") == f"u{MANY - 1}"
    assert page.locator("#rankings tbody tr").count() < 60
    page.keyboard.press("/")
    page.keyboard.type("u1999")
    until(page, "document.querySelector('#rankings [data-told]').textContent.startsWith('1 of')")
    page.locator("h1").click()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("1")
    page.wait_for_selector("#overview:visible")


def test_links_open_a_row(open_page: Open, tmp_path: Path) -> None:
    strange = 'a/b "c" <i> & d+e%20#f'
    page = open_page(
        written(tmp_path / "s.jsonl", summary(strange, "A <b>mug</b>."), summary("x", "Y")),
        at="#id=a%2Fb%20%22c%22%20%3Ci%3E%20%26%20d%2Be%2520%23f",
    )
    assert page.locator("#detail-id").inner_text() == strange
    assert page.locator(".big p").inner_text() == "A <b>mug</b>."
    page.keyboard.press("j")
    until(page, "document.querySelector('#detail-id').textContent === 'x'")
    page.go_back()
    until(page, "document.querySelector('#detail-id').textContent !== 'x'")
    assert page.locator("#detail-id").inner_text() == strange


@pytest.mark.slow
def test_each_view_has_a_link_and_prints(open_page: Open, tmp_path: Path) -> None:
    ours, theirs = (written(tmp_path / f"{n}.jsonl", *rankings(9, n), failed("late")) for n in (0.1, 2.0))
    page = open_page(ours, theirs)
    views = page.locator("nav a").evaluate_all("all => all.map(one => one.dataset.view)")
    assert views == ["overview", "rankings", "compare", "trust", "errors", "run"]
    for place, view in enumerate(views, 1):
        page.goto(page.url.partition("#")[0] + f"#view={view}")
        until(page, f"document.querySelector('nav [aria-current=true]')?.dataset.view === '{view}'")
        assert page.locator("section:visible").evaluate_all("all => all.map(one => one.id)") == [view]
        page.keyboard.press("1")
        until(page, "!document.querySelector('#overview').hidden")
        page.keyboard.press(str(place))
        until(page, f"!document.querySelector('#{view}').hidden")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("section:visible").count() == len(views)
    assert not page.locator("nav").is_visible()


def test_motion_is_reduced_where_asked(open_page: Open, tmp_path: Path) -> None:
    page = open_page(written(tmp_path / "r.jsonl", *rankings(2)), at="#id=u1")
    moves = "getComputedStyle(document.querySelector('#detail')).animationName"
    assert page.evaluate(moves) == "none"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moves) != "none"


def test_gallery_changes_size_and_draws_a_folder(open_page: Open, tmp_path: Path) -> None:
    names = sorted(path.name for path in IMAGES.iterdir())[:12]
    page = open_page(
        written(tmp_path / "s.jsonl", *(summary(name, f"Of {name}") for name in names)), at="#view=gallery"
    )
    assert page.locator(".card img").count() == 0
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Pictures from a folder").click()
    chooser.value.set_files(IMAGES)
    until(page, "document.querySelectorAll('.card img').length > 5")
    until(page, "[...document.querySelectorAll('.card img')].every(one => one.naturalWidth > 0)")
    widths = []
    for size in ("small", "medium", "large"):
        page.locator(f".sizes input[value={size}]").check()
        widths.append(page.locator(".card").first.bounding_box()["width"])
    assert widths == sorted(widths)
    page.select_option("#gallery [data-sort]", "length")
    assert ids(page)[0] == max(names, key=len)


def test_temperature_is_computed_in_the_page(open_page: Open, fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = written(tmp_path / "r.jsonl", *rankings(60))
    page = open_page(out, at="#view=trust")
    until(page, "document.querySelector('#right').textContent")
    at_one = page.locator("#ece").inner_text()
    written_there = page.evaluate("[...document.querySelectorAll('#bins td')].map(one => one.textContent)")
    assert json.loads(fastqwen("eval", out, "--json", "--k", "1").stdout)["measures"]["Recall@1"]["mean"] == (
        pytest.approx(float(page.locator("#right").inner_text()), abs=1e-4)
    )
    page.evaluate("e => { e.value = -0.5; e.oninput(); }", page.query_selector("#temperature"))
    assert page.locator("#ece").inner_text() != at_one
    loss = float(page.locator("#loss").inner_text())
    page.get_by_role("button", name="least log loss").click()
    assert float(page.locator("#loss").inner_text()) < loss
    page.get_by_role("button", name="T = 1").click()
    assert page.locator("#ece").inner_text() == at_one
    assert (
        page.evaluate("[...document.querySelectorAll('#bins td')].map(one => one.textContent)")
        == written_there
    )


def test_two_runs_are_told_apart(open_page: Open, tmp_path: Path) -> None:
    ours, theirs = (written(tmp_path / f"{noise}.jsonl", *rankings(40, noise)) for noise in (2.5, 0.1))
    page = open_page(ours, theirs, at="#view=compare")
    page.locator("#compare tbody a").first.click()
    page.wait_for_selector("#detail[open]")
    assert "rank in 0.1.jsonl" in page.locator("#detail-body").inner_text()
    page.keyboard.press("Escape")
    page.select_option("#rankings [data-only]", label="lost")
    page.locator("nav a[data-view=compare]").click()
    assert told_in(page, "#rankings").split()[0] == page.locator("#compare .tiles .failed b").inner_text()


def told_in(page: Any, view: str) -> str:
    return str(page.locator(f"{view} [data-told]").text_content())


def test_summaries_of_two_runs_are_compared_by_words(open_page: Open, tmp_path: Path) -> None:
    ours = written(tmp_path / "a.jsonl", summary("x", "A red mug for tea"))
    theirs = written(tmp_path / "b.jsonl", summary("x", "A blue mug for tea"))
    page = open_page(ours, theirs, at="#id=x")
    assert (
        page.locator("ins").all_inner_texts() == [" red"] or page.locator("ins").inner_text().strip() == "red"
    )
    assert page.locator("del").inner_text().strip() == "blue"


def test_files_come_from_the_page(open_page: Open, fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = written(tmp_path / "r.jsonl", *rankings(5), failed("=cmd()", message="a, b"))
    fastqwen("eval", out, "--trec", "eval.trec")
    page = open_page(out, at="#view=rankings")
    with page.expect_download() as sheet:
        page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(sheet.value.path()).read_text())))
    assert [row["id"] for row in rows] == [*(f"u{n}" for n in range(5)), "'=cmd()"]
    with page.expect_download() as run:
        page.get_by_role("button", name="TREC").click()
    ours, theirs = (path.read_text().splitlines() for path in (Path(run.value.path()), Path("eval.trec")))
    assert [line.split()[:4] for line in ours] == [line.split()[:4] for line in theirs]


def test_commands_are_copied(open_page: Open, tmp_path: Path) -> None:
    page = open_page(written(tmp_path / "r.jsonl", *rankings(2), failed("it's")), at="#id=it%27s")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#command").click()
    until(page, "document.querySelector('#command').textContent === 'Copied'")
    assert (
        page.evaluate("navigator.clipboard.readText()") == rf"fastqwen show {tmp_path / 'r.jsonl'} 'it'\''s'"
    )


def test_print_shows_every_view(open_page: Open, tmp_path: Path) -> None:
    page = open_page(written(tmp_path / "r.jsonl", *rankings(200)), at="#view=errors")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#rankings tbody tr:visible td.key").count() == 200
    assert page.locator("#overview").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize(("dark", "size"), [(False, SIZES[0]), (True, SIZES[1])], ids=["light", "dark"])
def test_axe_finds_no_fault(
    open_page: Open, axe: str, tmp_path: Path, dark: bool, size: tuple[int, int]
) -> None:
    rows = rankings(20)
    rows[3]["flags"] = ["label_mass.low"]
    ours = written(tmp_path / "a.jsonl", *rows, failed("late"))
    theirs = written(tmp_path / "b.jsonl", *rankings(20, 2.0, seed=4))
    page = open_page(ours, theirs, dark=dark, size=size)
    page.evaluate(axe)
    views = page.locator("nav a").evaluate_all("all => all.map(one => one.hash)")
    for view in [*views, "#id=u3", "#id=late"]:
        page.evaluate("hash => { location.hash = hash; }", view)
        page.wait_for_timeout(50)
        found = page.evaluate(AXE_RUN)["violations"]
        assert not [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found], view
