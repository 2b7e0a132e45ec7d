"""What all pictures of figures share: their style, their formats, and how they are written."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tgi_stack.errors import MissingPackageError, UsageError
from tgi_stack.logs import escaped
from tgi_stack.writing import Given, refuse_present, replaced

SUFFIXES = (".svg", ".png")
DPI = 144
# Middle tones on no background: each has a contrast of 3:1 or more with white and with black paper.
INK, HAIR = "#77808c", "#77808c40"
COLOURS = ("#2a8ca5", "#d0711c", "#3d9a68", "#a06ac0")
STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": HAIR,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "savefig.dpi": DPI,
    "savefig.transparent": True,
    "svg.hashsalt": "fastqwen",  # the same figures, the same bytes
    "text.color": INK,
    "text.parse_math": False,  # names are no formulas
    "xtick.color": INK,
    "ytick.color": INK,
}


def refuse_plot(path: Path | None, inputs: Iterable[Given] = (), *, overwrite: bool) -> None:
    """To be called before anything is computed; nothing is refused where no picture is asked for.

    Raises:
        UsageError: a name that is none of a picture, a file that is read, or one that is there already.
        MissingPackageError: matplotlib is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: give a name that ends in {' or '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError("matplotlib", "plot")
    refuse_present("--plot", path, inputs, overwrite=overwrite)


@contextmanager
def canvas(path: Path, width: float, heights: Sequence[float], *, overwrite: bool = False) -> Iterator[Any]:
    """A figure's axes, one below the other; written as SVG or PNG when the block ends.

    Args:
        width: in inches.
        heights: of the axes, in inches.

    Raises:
        UsageError: the file is there already, and `overwrite` is not given.
        DiskError: it can't be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    form = path.suffix.lower()[1:]
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        figure = Figure(figsize=(width, sum(heights) or 1.0))
        rows = figure.add_gridspec(max(1, len(heights)), 1, height_ratios=heights or [1.0])
        yield [figure.add_subplot(rows[row]) for row in range(len(heights))]
        for text in figure.findobj(Text):  # a control character would make the SVG one that no parser takes
            text.set_text(escaped(text.get_text()))
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box says so in the picture
        with replaced("--plot", path, overwrite=overwrite) as file:
            figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None)
