"""Whatever ids, texts and file names hold, the page's structure is that of a page of plain words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.written import Page, failed, ranking, summary, written
from tgi_stack.report.contents import Order, gather
from tgi_stack.report.page.render import render

PIECES = [
    "</script>", "<script>alert(1)</script>", "<!--", "-->", "]]>", "<img src=x onerror=alert(1)>", '"', "'",
    "&lt;", "&", "{{ 7*7 }}", "{% raw %}", "\u2028", "\u2029", "\x00", "\x1b[31m", "\u202e", "\\u003c",
    "</style>", "</title>", "javascript:alert(1)", "$&", "${1}", "`", "\n", "\t", "=1+1", "#id=x&view=y",
    "%3C", "é", "\U0001f600", "plain",
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)
SOME = settings(max_examples=12, deadline=None)


def drawn(folder: Path, id: str, text: str, name: str) -> Page:
    logits = {f"{id}-{place}": [float(place), 0.5] for place in range(3)}
    bad = failed(id + "!", type=text, message=text, flags=[text])
    both = [
        written(folder / f"{place}.jsonl", ranking(id, logits, f"{id}-1", route=name, flags=[text]), bad)
        for place in range(2)
    ]
    noted = {
        "asked": {"job": "rerank", "--instruction": text},
        "command": [name, text],
        "identity": {"model": name},
    }
    for one in both:
        one.with_name(one.name + ".run.json").write_text(json.dumps(noted))
    return Page(render(gather(Order(both[0], both[1]), None)).decode())


@pytest.mark.slow
@SOME
@given(HOSTILE, HOSTILE, HOSTILE)
def test_data_never_become_markup(tmp_path_factory: object, id: str, text: str, name: str) -> None:
    folder = tmp_path_factory.mktemp("page")  # type: ignore[attr-defined]
    plain, hostile = drawn(folder, "id", "text", "name"), drawn(folder, id, text, name)
    assert hostile.tags == plain.tags
    assert hostile.code == plain.code
    assert hostile.blocks["style"] == plain.blocks["style"]
    assert all(href.startswith("#") for href in hostile.hrefs)
    rows = hostile.data["rows"]
    assert rows["id"] == [id, id + "!"]
    assert rows["message"] == [None, text]
    assert rows["flags"] == [[text], [text]]
    assert set(hostile.data["items"]["id"]) == {f"{id}-{place}" for place in range(3)}


@pytest.mark.slow
@SOME
@given(HOSTILE)
def test_summaries_stand_in_the_page_as_they_are(tmp_path_factory: object, text: str) -> None:
    path = tmp_path_factory.mktemp("page") / "s.jsonl"  # type: ignore[attr-defined]
    found = Page(render(gather(Order(written(path, summary(text, text))), None)).decode())
    assert found.data["rows"]["summary"] == [text]
    assert found.data["rows"]["id"] == [text]


@SOME
@given(HOSTILE)
def test_labels_never_become_markup(tmp_path_factory: object, text: str) -> None:
    path = tmp_path_factory.mktemp("page") / "p.jsonl"  # type: ignore[attr-defined]
    about = {"status": "ok", "exact": True, "label_mass": 1.0, "flags": [], "route": "torch"}
    pages = []
    for label in ("yes", text):
        labels = [label, label + "!"]
        out = written(path, about | {"id": "p", "labels": labels, "probabilities": [0.7, 0.3]})
        pages.append(Page(render(gather(Order(out), None)).decode()))
    assert pages[1].tags == pages[0].tags
    assert pages[1].data["items"]["id"] == [text, text + "!"]
