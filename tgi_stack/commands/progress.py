"""How a run is going: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from tgi_stack.jobs.pipeline import Tally

LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.1


class Progress:
    """Shows a tally as it grows; `clock` counts seconds."""

    def __init__(
        self, console: Console, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._quiet = quiet
        self._clock = clock
        self._began = self._shown = clock()
        self._pause_s = REDRAW_EVERY_S if console.is_terminal else LINE_EVERY_S

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal and not self._quiet:
            self._console.file.write("\r\x1b[K")

    def update(self, tally: Tally) -> None:
        """To be called after each record."""
        now = self._clock()
        if self._quiet or now - self._shown < self._pause_s:
            return
        self._shown = now
        line = self._line(tally, now - self._began)
        if self._console.is_terminal:
            self._console.file.write(f"\r\x1b[K{line[: self._console.width - 1]}")
            self._console.file.flush()
        else:
            self._console.print(line, markup=False)

    @staticmethod
    def _line(tally: Tally, spent_s: float) -> str:
        done = tally.ok + tally.failed
        rate = done / spent_s if spent_s else 0.0
        left = (tally.rows - done) / rate if rate else 0.0
        return (
            f"{done:,} of {tally.rows:,} rows, {rate:,.1f} rows/s, {tally.cached:,} from cache, "
            f"{tally.failed:,} failed, {left:,.0f} s left"
        )
