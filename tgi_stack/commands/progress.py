"""How a run is going: a bar on a terminal that can draw one, a line now and then elsewhere."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from tgi_stack import logs
from tgi_stack.commands.console import LEAST_COLUMNS
from tgi_stack.errors import UsageError

if TYPE_CHECKING:
    from tgi_stack.jobs.tally import Tally

LOG = logging.getLogger(__name__)
MODES = ("plain", "rich", "none")
LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.1
WINDOW_S = 10.0  # of the rate that is shown
SETTLES_S = 30.0  # how long the time that is left takes to follow another rate
LEAST_S = 3.0  # before that nobody can say how long it takes
LEAST_BAR, MOST_BAR, FULL, EMPTY = 6, 20, "\u2501", "\u2500"  # columns of a bar, and what it is drawn with
MOST_SERVERS = 8  # that have a line of their own
MOST_COLUMNS = 1000  # of a line that is not drawn


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

    It begins with the first row: what comes before it, such as a model that loads, says nothing of the rest.

    Args:
        now: when it begins, in seconds.

    Attributes:
        rate, speed: rows and tokens a second over the last WINDOW_S seconds.
    """

    def __init__(self, now: float) -> None:
        self.rate = self.speed = 0.0
        self._seen: deque[tuple[float, int, int]] = deque([(now, 0, 0)])
        self._begun = self._last = now
        self._settled = 0.0
        self._rows = 0

    def update(self, now: float, rows: int, tokens: int = 0) -> None:
        """Takes how many there are by now."""
        self._rows = rows
        if not rows:
            self._seen = deque([(now, 0, tokens)])
            self._begun = self._last = now
            return
        self._seen.append((now, rows, tokens))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_S:
            self._seen.popleft()
        then, rows_then, tokens_then = self._seen[0]
        if (spent := now - then) > 0:
            self.rate, self.speed = (rows - rows_then) / spent, (tokens - tokens_then) / spent
        weight = 1.0 if now - self._begun < LEAST_S else 1 - math.exp((self._last - now) / SETTLES_S)
        self._settled += weight * (self.rate - self._settled)
        self._last = now

    def left_s(self, missing: int, at_once: int = 1) -> float | None:
        """Seconds that the missing rows will take; None where nobody knows, as at the beginning.

        Args:
            at_once: rows that are worked on together; the first of them says nothing of how the others go.
        """
        if self._settled <= 0 or self._last - self._begun < LEAST_S or self._rows < at_once:
            return None
        return missing / self._settled


def spoken(seconds: float) -> str:
    """A time as people say it: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def fitted(parts: Sequence[tuple[int, str]], wide: int) -> str:
    """The parts in a line; where it has no room for all, those that matter least (a high number) go first."""
    kept = list(parts)
    while len(line := ", ".join(text for _, text in kept)) > wide and any(rank for rank, _ in kept):
        kept.remove(max(kept, key=lambda part: part[0]))
    return line[:wide]


class Progress:
    """Shows a tally as it grows: a bar, and a line for each of several servers; or a line now and then.

    Args:
        mode: `plain`, `rich` or `none`; None for a bar where one can be drawn. One that can't is lines.
        clock: counts seconds.

    Attributes:
        is_drawn: whether there is a terminal to draw on.
        took_s: since the beginning.
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
        self.is_drawn = bool(self._columns) and not self._silent
        self._clock = clock
        self._began = self._shown = clock()
        self._pace = Pace(self._began)
        self._servers: dict[str, Pace] = {}
        self._pause_s = REDRAW_EVERY_S if self._columns else LINE_EVERY_S

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen.draw("")

    @property
    def took_s(self) -> float:
        return self._clock() - self._began

    def update(self, tally: Tally) -> None:
        """To be called after each record."""
        now = self._clock()
        if self._silent or now - self._shown < self._pause_s:
            return
        self._shown = now
        done = tally.ok + tally.failed
        self._pace.update(now, done - tally.kept, tally.prompt_tokens + tally.completion_tokens)
        parts = list(self._parts(tally, done))
        servers = list(self._of_servers(tally, now))
        if self._columns and self._screen is not None:
            wide = self._columns - 1
            lines = [self._with_bar(fitted(parts, wide), done / max(1, tally.rows), wide)]
            self._screen.draw("\n".join([*lines, *(fitted(one, wide) for one in servers)]))
        else:
            told = [parts, *servers]
            LOG.info("; ".join(fitted(one, MOST_COLUMNS).strip() for one in told))

    def _parts(self, tally: Tally, done: int) -> Iterator[tuple[int, str]]:
        pace, in_flight = self._pace, tally.backend.work.most_in_flight()
        left = pace.left_s(tally.rows - done, in_flight)
        yield 0, f"{done:,} of {tally.rows:,} rows"
        yield 0, f"{pace.rate:,.1f} rows/s"
        if pace.speed:
            yield 4, f"{pace.speed:,.0f} tokens/s"
        if in_flight:
            yield 3, f"{in_flight:,} in flight"
        yield 2, f"{tally.cached:,} from cache"
        yield 1, f"{tally.failed:,} failed"
        if left is not None:
            yield 0, f"{spoken(left)} left"

    @staticmethod
    def _with_bar(line: str, share: float, wide: int) -> str:
        """With a bar before it, where there is room for one."""
        bar = min(MOST_BAR, wide - len(line) - 1)
        if bar < LEAST_BAR:
            return line
        full = round(bar * share)
        return f"{FULL * full}{EMPTY * (bar - full)} {line}"

    def _of_servers(self, tally: Tally, now: float) -> Iterator[list[tuple[int, str]]]:
        """A line for each, where there are several."""
        servers = tally.backend.work.servers
        if len(servers) < 2:
            return
        for server in servers[:MOST_SERVERS]:
            pace = self._servers.setdefault(server.url, Pace(self._began))
            pace.update(now, server.answers)
            state = [] if server.state == "up" else [(0, server.state)]
            yield [
                (0, f"  {server.url}: {pace.rate:,.1f} answers/s"),
                *state,
                (1, f"{server.outstanding:,} in flight"),
                (2, f"{server.misses:,} failed"),
            ]
        if len(servers) > MOST_SERVERS:
            yield [(0, f"  and {len(servers) - MOST_SERVERS:,} more servers")]
