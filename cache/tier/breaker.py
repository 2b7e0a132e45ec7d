"""When a tier that fails is left alone, and when it is looked at again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MOST_FAILURES = 3
FORGIVEN = 0.1  # of a failure, by each success: one that fails now and then is slow too
PAUSE_S = 5.0
MOST_PAUSE_S = 60.0


class Breaker:
    """Opens after three failures; then somebody looks now and then, while all others go on without the tier.

    Safe among threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0.0
        self._open = False
        self._probing = False
        self._look_at = 0.0
        self._pause_s = PAUSE_S

    @property
    def is_open(self) -> bool:
        """Whether the tier is left alone."""
        return self._open

    def wants_probe(self) -> bool:
        """Whether the caller is the one who looks whether an open breaker may close; it then tells of it."""
        if not self._open:
            return False
        with self._lock:
            if self._probing or self._clock() < self._look_at:
                return False
            self._probing = True
            return True

    def failed(self, times: float = 1.0) -> bool:
        """Counts a failure; whether the breaker opened by it."""
        with self._lock:
            self._failures += times
            if self._open and not self._probing:
                return False
            opened = not self._open and self._failures >= MOST_FAILURES
            if self._probing or opened:
                self._look_at = self._clock() + self._pause_s
                self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)
                self._open, self._probing = True, False
            return opened

    def succeeded(self) -> None:
        """Counts a success. The first failure after a pause opens again."""
        if not self._open and not self._failures:
            return
        with self._lock:
            if not self._open:
                self._failures = max(0.0, self._failures - FORGIVEN)
            elif self._probing:
                self._open = self._probing = False
                self._failures = MOST_FAILURES - 1.0
