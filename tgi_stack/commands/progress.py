"""How a run is going: a bar on a terminal that can draw one, a line now and then elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from tgi_stack import logs
from tgi_stack.commands.console import LEAST_COLUMNS
from tgi_stack.errors import UsageError

if TYPE_CHECKING:
    from tgi_stack.jobs.pipeline import Tally

LOG = logging.getLogger(__name__)
MODES = ("plain", "rich", "none")
LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.1


def columns() -> int:
    """How wide a bar may be on stderr; 0 where none can be drawn."""
    try:
        if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
            return 0
        wide = os.get_terminal_size(sys.stderr.fileno()).columns
        named = os.environ.get("COLUMNS", "")
        if named.isdecimal() and int(named):  # the user's word; but no bar may be wider than the terminal
            wide = min(wide, int(named))
    except (AttributeError, OSError, ValueError):
        return 0
    return wide if wide >= LEAST_COLUMNS else 0


class Progress:
    """Shows a tally as it grows.

    Args:
        mode: `plain`, `rich` or `none`; None for a bar where one can be drawn. One that can't is lines.
        clock: counts seconds.
    """

    def __init__(
        self, *, quiet: bool = False, mode: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if mode is not None and mode not in MODES:
            raise UsageError(f"--progress {mode}: give one of {', '.join(MODES)}")
        self._screen = logs.screen()
        self._silent = quiet or mode == "none"
        drawn = mode != "plain" and self._screen is not None and not self._screen.as_json
        self._columns = columns() if drawn else 0
        self._clock = clock
        self._began = self._shown = clock()
        self._pause_s = REDRAW_EVERY_S if self._columns else LINE_EVERY_S

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen.draw("")

    def update(self, tally: Tally) -> None:
        """To be called after each record."""
        now = self._clock()
        if self._silent or now - self._shown < self._pause_s:
            return
        self._shown = now
        line = self._line(tally, now - self._began)
        if self._columns and self._screen is not None:
            self._screen.draw(line[: self._columns - 1])
        else:
            LOG.info(line)

    @staticmethod
    def _line(tally: Tally, spent_s: float) -> str:
        done = tally.ok + tally.failed
        rate = done / spent_s if spent_s else 0.0
        left = (tally.rows - done) / rate if rate else 0.0
        return (
            f"{done:,} of {tally.rows:,} rows, {rate:,.1f} rows/s, {tally.cached:,} from cache, "
            f"{tally.failed:,} failed, {left:,.0f} s left"
        )
