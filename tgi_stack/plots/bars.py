"""The bars of a benchmark as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgi_stack.bench.show import TITLES
from tgi_stack.plots.canvas import COLOURS, canvas

WIDTH, BAR, AROUND = 9.0, 0.3, 1.0  # inches


def plot(results: Mapping[str, Any], path: Path, *, overwrite: bool = False) -> None:
    """Bars of the rates, with the speed-ups over the baseline, one block a kind of task.

    Raises:
        UsageError, DiskError: see `canvas`.
    """
    blocks = [
        (noun, sorted((x for x in results["lines"] if x["kind"] == kind and "rate" in x), key=_rate))
        for kind, noun in TITLES.items()
    ]
    blocks = [(noun, lines) for noun, lines in blocks if lines]
    heights = [AROUND + BAR * len(lines) for _, lines in blocks]
    with canvas(path, WIDTH, heights, overwrite=overwrite) as axes:
        for at, (noun, lines) in zip(axes, blocks, strict=True):
            drawn = at.barh([line["name"] for line in lines], list(map(_rate, lines)), color=COLOURS[0])
            at.bar_label(drawn, list(map(_label, lines)), padding=4)
            at.margins(x=0.2)
            at.set_title(f"{noun} a second, times the baseline: {results['model']} on {results['device']}")


def _rate(line: Mapping[str, Any]) -> float:
    return float(line["rate"])


def _label(line: Mapping[str, Any]) -> str:
    """Without a speed-up where the baseline could not be measured."""
    if line["speed_up"] is None:
        return f"{line['rate']:.1f}/s"
    return f"{line['speed_up']:.2f}x ({line['rate']:.1f}/s)"
