"""The bars of a benchmark as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tgi_stack.bench.show import TITLES

WIDTH, BAR, LEFT, TOP = 1100, 26, 330, 44  # pixels


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Bars of the speed-ups over the baseline, one block a kind of task, as PNG."""
    blocks = [
        (noun, sorted((x for x in results["lines"] if x["kind"] == kind and "rate" in x), key=_speed))
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
        longest = max(map(_speed, lines))
        for line in lines:
            draw.text((12, y + 3), line["name"], "black", font)
            end = LEFT + (WIDTH - LEFT - 190) * _speed(line) / longest
            draw.rectangle((LEFT, y + 3, end, y + BAR - 4), "#4477aa")
            draw.text((end + 8, y + 3), f"{_speed(line):.2f}x ({line['rate']:.1f}/s)", "black", font)
            y += BAR
    image.save(path, "PNG")


def _speed(line: Mapping[str, Any]) -> float:
    return float(line["speed_up"] or 0.0)
