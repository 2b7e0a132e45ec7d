"""What to do about a request that was not answered: decided from what came back, nothing else."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

FIRST_S, MOST_S = 0.25, 8.0
MAX_RETRY_AFTER_S = 30.0
_SECONDS = re.compile(r"[+-]?[0-9]{1,300}(?:\.[0-9]{0,300})?")


class Decision(Enum):
    """What a failed attempt asks for."""

    ROW = "the row fails: the server refuses this very request"
    ASIDE = "the endpoint is set aside, if it refuses a request with a known answer too"
    DOWN = "the endpoint is gone for now: the attempt does not count"
    THROTTLED = "the server has too much to do: later, and less"
    FREE = "an idle connection had ended: again at once, once"
    HERE = "this process has no file handle left: fewer at once, and the attempt does not count"
    TRANSIENT = "again, after a pause, a few times"


def of_status(status: int) -> Decision:
    """The decision for a reply that is no 200.

    A 501 and a redirect are no way of answering at all; of 5xx only 503 says that there is too much to do. A
    407 and a 511 come from something on the way that lets nobody through.
    """
    if status in (429, 503):
        return Decision.THROTTLED
    if status in (401, 403, 404, 405, 407, 501, 511) or 300 <= status < 400:
        return Decision.ASIDE
    if status in (408, 424, 425) or status >= 500 or status < 300:
        return Decision.TRANSIENT
    return Decision.ROW


def of_transport(kind: str, *, silent_before: bool) -> Decision:
    """The decision for a `TransportError`."""
    if kind in ("refused", "nowhere"):
        return Decision.DOWN
    if kind == "unsafe":
        return Decision.ASIDE
    if kind == "handles":
        return Decision.HERE
    if kind == "silent" and not silent_before:
        return Decision.FREE
    return Decision.TRANSIENT


def retry_after_s(value: str | None, date: str | None = None) -> float | None:
    """A Retry-After header in seconds, 0 for what has passed, capped; None for what is neither form.

    Args:
        date: the same reply's Date, which a date is read against: the server's clock need not be ours.
    """
    said = (value or "").strip()
    if _SECONDS.fullmatch(said) is not None:  # `float` reads inf and digits of all scripts, too
        found = float(said)
    else:
        until, now = _moment(value), _moment(date)
        if until is None or now is None:
            return None
        found = float((until - now).total_seconds())
    return min(max(found, 0.0), MAX_RETRY_AFTER_S)


def _moment(value: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(value or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def throttled_s(after_s: float | None, times: int, rng: random.Random) -> float:
    """How long an endpoint rests that asked for it the `times`-th time in a row, from 1.

    What it names, but never less than a floor of our own that doubles each time: 0 is named by mistake.
    """
    floor = min(MOST_S, FIRST_S * float(1 << min(times - 1, 10)))
    return max(after_s, floor) if after_s is not None else floor * rng.uniform(1.0, 1.5)


def pause_s(times: int, rng: random.Random) -> float:
    """Full jitter: anything up to a bound that doubles with each time."""
    return rng.uniform(0.0, min(MOST_S, FIRST_S * 2 ** min(times, 10)))


@dataclass
class Budget:
    """Retries of a whole run: each first attempt earns `share` of one, on top of the `spare` ones."""

    share: float = 0.2
    spare: float = 10.0

    def earn(self) -> None:
        self.spare += self.share

    def take(self) -> bool:
        """Whether a retry may be made now."""
        if self.spare < 1.0:
            return False
        self.spare -= 1.0
        return True
