"""What a cache has to say to people: each fault once, through logging."""

from __future__ import annotations

import logging
from pathlib import Path

from cache.sharing.patience import StandsStillError

LOG = logging.getLogger("cache.store")


class Notices:
    """The lines about one cache; safe among threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._said: set[str] = set()

    def warn(self, line: str, once: str = "") -> None:
        """Says a line, unless it or another about the same was said."""
        if (once or line) not in self._said:
            self._said.add(once or line)
            LOG.warning(line)

    def not_waited_for(self, error: StandsStillError) -> None:
        """Says once of a process what it holds, whatever else it holds."""
        self.warn(f"{error}; this run goes on without waiting for it", once=f"process {error.pid}")

    def slow(self, error: Exception) -> None:
        """A lookup failed: of a process that stands still, or else."""
        if isinstance(error, StandsStillError):
            self.not_waited_for(error)
            return
        line = f"the cache in {self._directory} is busy or can't be read ({error}); what is not found is "
        self.warn(line + "computed anew", once="slow")

    def not_written(self, error: Exception) -> None:
        """A write failed: of a process that stands still, or else."""
        if isinstance(error, StandsStillError):
            self.not_waited_for(error)
            return
        line = f"the cache in {self._directory} can't be written ({error!s}); answers are not kept"
        self.warn(line, once="not written")
