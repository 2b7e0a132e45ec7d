"""Honest times: warmed up, synchronised, repeated; the median with its range."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Measured:
    """`seconds` of each repeat; `peak_bytes` of device memory (of the process's, on a CPU None)."""

    seconds: tuple[float, ...]
    peak_bytes: int | None

    def rate(self, count: int) -> tuple[float, float, float]:
        """The median, the lowest and the highest of `count` a second."""
        rates = [count / second for second in self.seconds]
        return statistics.median(rates), min(rates), max(rates)


def synchronise(device: torch.device) -> None:
    """Waits for all that the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    run: Callable[[], object], device: torch.device, *, repeats: int, warm: Callable[[], object] | None = None
) -> Measured:
    """Times a run.

    Args:
        warm: run once before, untimed; `run` itself without it.
    """
    (warm or run)()
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Measured(tuple(seconds), peak)
