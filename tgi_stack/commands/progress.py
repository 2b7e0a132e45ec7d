"""How a run is going: a bar on a terminal that can draw one, a line now and then elsewhere."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
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
WINDOW_S = 10.0  # of the rate that is shown
SETTLES_S = 30.0  # how long the time that is left takes to follow another rate


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


class Pace:
    """How fast rows and tokens come now, and a time left that follows the rate slowly.

    Args:
        now: when it begins, in seconds.
    """

    def __init__(self, now: float) -> None:
        self._seen: deque[tuple[float, int, int]] = deque([(now, 0, 0)])
        self._settled: float | None = None
        self._last = now

    def rates(self, now: float, rows: int, tokens: int) -> tuple[float, float]:
        """Rows and tokens a second over the last WINDOW_S seconds."""
        self._seen.append((now, rows, tokens))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_S:
            self._seen.popleft()
        then, rows_then, tokens_then = self._seen[0]
        spent = now - then
        if spent <= 0:
            return 0.0, 0.0
        return (rows - rows_then) / spent, (tokens - tokens_then) / spent

    def left_s(self, now: float, rate: float, missing: int) -> float | None:
        """Seconds that the missing rows will take; None where nobody knows."""
        weight = 1.0 if self._settled is None else 1 - math.exp((self._last - now) / SETTLES_S)
        self._settled = rate if self._settled is None else self._settled + weight * (rate - self._settled)
        self._last = now
        return missing / self._settled if self._settled > 0 else None


def spoken(seconds: float) -> str:
    """A time as people say it: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


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
        self._shown = clock()
        self._pace = Pace(self._shown)
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
        line = self._line(tally, now)
        if self._columns and self._screen is not None:
            self._screen.draw(line[: self._columns - 1])
        else:
            LOG.info(line)

    def _line(self, tally: Tally, now: float) -> str:
        done = tally.ok + tally.failed
        tokens = tally.prompt_tokens + tally.completion_tokens
        rate, speed = self._pace.rates(now, done - tally.kept, tokens)
        left = self._pace.left_s(now, rate, tally.rows - done)
        parts = [f"{done:,} of {tally.rows:,} rows, {rate:,.1f} rows/s"]
        parts += [f"{speed:,.0f} tokens/s"] if speed else []
        parts += [f"{tally.cached:,} from cache, {tally.failed:,} failed"]
        parts += [] if left is None else [f"{spoken(left)} left"]
        return ", ".join(parts)
