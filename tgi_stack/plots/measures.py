"""Measures of rankings with their intervals, and differences of two outputs, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgi_stack.plots.canvas import COLOURS, INK, canvas
from tgi_stack.scoring.metrics import Estimate

WIDTH, LINE, AROUND = 7.0, 0.3, 1.0  # inches


def plot(
    estimates: Mapping[str, Estimate],
    differences: Mapping[str, Estimate] | None,
    path: Path,
    *,
    overwrite: bool = False,
) -> None:
    """A point for each measure with its 95 % interval; below, the differences from another output.

    Raises:
        UsageError, DiskError: see `canvas`.
    """
    blocks = [("95 % intervals", estimates), ("difference from the other output", differences)]
    found = [(title, values) for title, values in blocks if values]
    heights = [AROUND + LINE * len(values) for _, values in found]
    with canvas(path, WIDTH, heights, overwrite=overwrite) as axes:
        for at, (title, values) in zip(axes, found, strict=True):
            _draw(at, values, title)
            if values is differences:
                at.axvline(0, color=INK, linewidth=1)
            else:
                at.set_xlim(0, 1.02)


def _draw(at: Any, values: Mapping[str, Estimate], title: str) -> None:
    names = [*values][::-1]
    ones = [values[name] for name in names]
    lengths = [[one.mean - one.low for one in ones], [one.high - one.mean for one in ones]]
    at.errorbar(
        [one.mean for one in ones], range(len(ones)), xerr=lengths, fmt="o", color=COLOURS[0], capsize=3
    )
    at.set_yticks(range(len(ones)), names)
    at.set_ylim(-0.7, len(ones) - 0.3)
    at.set_title(title)
