"""Signals that ask a process to end, and which of them it heeds."""

from __future__ import annotations

import signal

from cache.system import system


def heeded() -> tuple[signal.Signals, ...]:
    """The signals that end this process, but those that it was started to ignore (`nohup`, a shell's `&`)."""
    return tuple(one for one in system.STOPS if signal.getsignal(one) is not signal.SIG_IGN)
