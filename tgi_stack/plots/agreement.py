"""How far outputs of the same rows are apart, as a picture."""

from __future__ import annotations

from pathlib import Path

from tgi_stack.plots.canvas import COLOURS, INK, canvas
from tgi_stack.scoring.agreement.compare import Comparison

WIDTH, BLOCK = 7.0, 2.6  # inches
SHARES = [step / 100 for step in range(101)]


def plot(found: Comparison, path: Path, *, overwrite: bool = False) -> None:
    """The share of probabilities within each difference, one block a pair; the limit is a dashed line.

    Raises:
        UsageError, DiskError: see `canvas`.
    """
    pairs = [*found.pairs, *(() if found.noise is None else (found.noise,))]
    with canvas(path, WIDTH, BLOCK * len(pairs), len(pairs), overwrite=overwrite) as axes:
        for at, pair in zip(axes, pairs, strict=True):
            count = pair.agreement.differences.count
            noise = "noise: " if pair is found.noise else ""
            at.set_title(
                f"{noise}{' and '.join(Path(name).name for name in pair.names)}: {count:,} probabilities"
            )
            if count:
                at.plot(
                    [pair.agreement.differences.quantile(share) for share in SHARES], SHARES, color=COLOURS[0]
                )
            at.axvline(found.limit, color=INK, linestyle="--", linewidth=1)
            at.set_ylim(0, 1.02)
            at.set_xlim(left=0)
            at.set_xlabel("difference (dashed: the limit)")
            at.set_ylabel("share of probabilities")
