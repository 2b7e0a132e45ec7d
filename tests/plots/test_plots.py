"""Pictures of figures: what `--plot` writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from tests.conftest import Fastqwen
from tests.report.written import failed, rankings, summary, written
from tgi_stack.plots import canvas


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [canvas.INK, *canvas.COLOURS])
def test_colours_are_seen_on_both_papers(colour: str) -> None:
    own = luminance(colour)
    for paper in (luminance("#ffffff"), luminance("#1e1e1e")):
        assert (max(own, paper) + 0.05) / (min(own, paper) + 0.05) >= 3


@pytest.mark.parametrize("name", ["m.svg", "m.png"])
def test_measures_are_drawn(fastqwen: Fastqwen, tmp_path: Path, name: str) -> None:
    ours, theirs = (written(tmp_path / f"{noise}.jsonl", *rankings(20, noise)) for noise in (0.2, 2.0))
    fastqwen("eval", ours, "--against", theirs, "--plot", name)
    first = Path(name).read_bytes()
    fastqwen("eval", ours, "--against", theirs, "--plot", name, check=2)
    fastqwen("eval", ours, "--against", theirs, "--plot", name, "--overwrite")
    assert Path(name).read_bytes() == first
    if name == "m.svg":
        assert b"<svg" in first[:600]
    else:
        with Image.open(name) as image:
            assert image.getpixel((1, 1))[3] == 0  # type: ignore[index]  # no paper of its own


def test_names_of_no_picture_are_refused(fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = written(tmp_path / "r.jsonl", *rankings(2))
    assert ".svg or .png" in fastqwen("eval", out, "--plot", "m.pdf", check=2).stderr


@pytest.mark.parametrize("name", ["c.svg", "c.png"])
def test_differences_of_outputs_are_drawn(fastqwen: Fastqwen, tmp_path: Path, name: str) -> None:
    ours, theirs = (written(tmp_path / f"{noise}.jsonl", *rankings(20, noise)) for noise in (0.2, 2.0))
    fastqwen("compare", ours, theirs, "--limit", "1", "--noise", ours, "--plot", name)
    first = Path(name).read_bytes()
    fastqwen("compare", ours, theirs, "--limit", "1", "--plot", name, check=2)
    assert Path(name).read_bytes() == first
    assert first.startswith(b"\x89PNG") or b"<svg" in first[:600]


@pytest.mark.parametrize(("limit", "said"), [("1", "the limit is 1, further"), ("0.1", "dashed: the limit")])
def test_a_limit_out_of_sight_is_said(fastqwen: Fastqwen, tmp_path: Path, limit: str, said: str) -> None:
    ours, theirs = (written(tmp_path / f"{noise}.jsonl", *rankings(20, noise)) for noise in (0.2, 2.0))
    fastqwen("compare", ours, theirs, "--limit", limit, "--plot", "c.svg", check=None)
    assert said in Path("c.svg").read_text()  # texts are shapes, each with what it says in a comment


def test_texts_are_drawn_without_an_empty_block(fastqwen: Fastqwen, tmp_path: Path) -> None:
    ours = written(tmp_path / "a.jsonl", *(summary(f"s{n}", f"A mug {n}") for n in range(4)))
    theirs = written(tmp_path / "b.jsonl", *(summary(f"s{n}", f"A mug {n % 3}") for n in range(4)))
    fastqwen("compare", ours, theirs, "--limit", "0.3", "--plot", "c.png")
    with Image.open("c.png") as image:
        texts = image.size
    rows = written(tmp_path / "r.jsonl", *rankings(3))
    fastqwen("compare", rows, rows, "--plot", "r.png")
    with Image.open("r.png") as image:
        assert image.size[1] > texts[1]  # one block, and one of bars is lower than one of a curve


def test_nothing_compared_is_no_picture(fastqwen: Fastqwen, tmp_path: Path) -> None:
    out = written(tmp_path / "a.jsonl", failed("x"))
    assert "nothing was compared" in fastqwen("compare", out, out, "--plot", "c.svg", check=None).stderr
    assert not Path("c.svg").exists()


@pytest.mark.parametrize("name", ["\x1b[31mred", "中文", "$\\frac$", "a--b"])
def test_any_name_makes_a_sound_picture(tmp_path: Path, recwarn: pytest.WarningsRecorder, name: str) -> None:
    with canvas.canvas(tmp_path / "p.svg", 4.0, [1.0]) as (at,):
        at.set_title(name)
    ElementTree.parse(tmp_path / "p.svg")  # noqa: S314  # our own
    assert not recwarn.list
