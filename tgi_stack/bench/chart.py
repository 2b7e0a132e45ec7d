"""The bars of a benchmark as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tgi_stack.bench.show import TITLES
from tgi_stack.writing import replaced

WIDTH, BAR, LEFT, TOP = 1100, 26, 330, 44  # pixels


def plot(results: Mapping[str, Any], path: Path, *, overwrite: bool = False) -> None:
    """Bars of the rates, with the speed-ups over the baseline, one block a kind of task, as PNG.

    Raises:
        UsageError: the file is there already, and `overwrite` is not given.
        DiskError: it can't be written.
    """
    blocks = [
        (noun, sorted((x for x in results["lines"] if x["kind"] == kind and "rate" in x), key=_rate))
        for kind, noun in TITLES.items()
    ]
    blocks = [(noun, lines) for noun, lines in blocks if lines]
    height = sum(TOP + BAR * len(lines) for _, lines in blocks) + TOP
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    y = 8
    for noun, lines in blocks:
        title = f"{noun} a second, times the baseline: {results['model']} on {results['device']}"
        draw.text((12, y + 8), title, "black", font)
        y += TOP
        longest = max(map(_rate, lines))
        for line in lines:
            draw.text((12, y + 3), line["name"], "black", font)
            end = LEFT + (WIDTH - LEFT - 190) * _rate(line) / longest
            draw.rectangle((LEFT, y + 3, end, y + BAR - 4), "#4477aa")
            draw.text((end + 8, y + 3), _label(line), "black", font)
            y += BAR
    with replaced("--plot", path, overwrite=overwrite) as file:
        image.save(file, "PNG")


def _rate(line: Mapping[str, Any]) -> float:
    return float(line["rate"])


def _label(line: Mapping[str, Any]) -> str:
    """Without a speed-up where the baseline could not be measured."""
    if line["speed_up"] is None:
        return f"{line['rate']:.1f}/s"
    return f"{line['speed_up']:.2f}x ({line['rate']:.1f}/s)"
