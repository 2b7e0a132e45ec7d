"""How far outputs of the same rows are apart, as a picture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tgi_stack.plots.canvas import COLOURS, INK, canvas
from tgi_stack.scoring.agreement.compare import Compared, Comparison
from tgi_stack.scoring.agreement.figures import Agreement

LOG = logging.getLogger(__name__)
WIDTH, CURVE, BARS = 7.0, 2.6, 1.5  # inches
STEPS = 400  # of a curve


def plot(found: Comparison, path: Path, *, overwrite: bool = False) -> None:
    """A block for each pair of outputs; the limit is a dashed line.

    Of probabilities, the share within each difference; of texts, and of orders without probabilities, the
    share that differs. A pair with neither has no block.

    Raises:
        UsageError, DiskError: see `canvas`.
    """
    pairs = [*found.pairs, *(() if found.noise is None else (found.noise,))]
    blocks = [
        (_name(pair, is_noise=pair is found.noise), pair.agreement, is_curve)
        for pair in pairs
        for is_curve, count in ((True, pair.agreement.differences.count), (False, pair.agreement.plain))
        if count
    ]
    if not blocks:
        LOG.warning(f"--plot {path}: nothing was compared, so there is no picture")
        return
    heights = [CURVE if is_curve else BARS for _, _, is_curve in blocks]
    with canvas(path, WIDTH, heights, overwrite=overwrite) as axes:
        for at, (name, agreement, is_curve) in zip(axes, blocks, strict=True):
            (_curve if is_curve else _bar)(at, name, agreement)
            _limit(at, found.limit)


def _limit(at: Any, limit: float) -> None:
    """A dashed line, where the numbers come near it; else a word that they don't."""
    if limit <= at.get_xlim()[1]:
        at.axvline(limit, color=INK, linestyle="--", linewidth=1)
        at.set_xlabel(f"{at.get_xlabel()} (dashed: the limit)")
    else:
        at.set_xlabel(f"{at.get_xlabel()} (the limit is {limit:g}, further to the right)")


def _name(pair: Compared, *, is_noise: bool) -> str:
    return ("noise: " if is_noise else "") + " and ".join(Path(name).name for name in pair.names)


def _curve(at: Any, name: str, agreement: Agreement) -> None:
    numbers = agreement.differences
    bounds = [numbers.largest * step / STEPS for step in range(STEPS + 1)]
    at.set_title(f"{name}: {numbers.count:,} probabilities")
    at.plot(bounds, numbers.within(bounds), color=COLOURS[0])
    at.set_ylim(0, 1.02)
    at.set_xlim(left=0)
    at.set_xlabel("difference")
    at.set_ylabel("share within")


def _bar(at: Any, name: str, agreement: Agreement) -> None:
    share = 1 - agreement.equal / agreement.plain
    at.set_title(f"{name}: {agreement.plain:,} texts or orders")
    at.bar_label(at.barh([""], [share], color=COLOURS[0], height=0.5), [f"{share:.1%}"], padding=4)
    at.set_ylim(-0.6, 0.6)
    at.set_xlim(0, 1.1)
    at.set_xlabel("share that differs")
