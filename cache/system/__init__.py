"""What systems do each in their own way: locks of files, reads at a place, limits, signals.

Windows has none of what `fcntl` and `resource` give; `windows` says what stands in for it there, and what
lacks.
"""

from __future__ import annotations

try:
    from cache.system import posix as system
except ImportError:  # no fcntl
    from cache.system import windows as system  # type: ignore[no-redef]

__all__ = ["system"]
