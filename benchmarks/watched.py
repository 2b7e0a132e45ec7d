"""A run of the installed command as a child, watched by what it adds to its part file and by its process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LOOK_EVERY_S = 0.02
FIRST, LAST = 0.1, 0.9  # the part of a run that counts as its steady state


class Look(NamedTuple):
    """What was seen: when, how many records, and CPU seconds and peak memory of the run's own process."""

    when_s: float
    records: int
    cpu_s: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One run.

    Attributes:
        first_s: to the first record.
        whole_s: to the end.
        rate: rows a second in the steady state; 0 where too few looks tell.
        cpu_s: CPU seconds of the run's own process a row, there.
        peak_mib: of its memory, in MiB.
    """

    first_s: float
    whole_s: float
    rate: float
    cpu_s: float
    peak_mib: float


def command(arguments: Sequence[str], out: Path, rows: int) -> Measured:
    """Runs `fastqwen ARGUMENTS -o OUT` and watches the file that its records are added to."""
    part = out.with_name(out.name + ".part.jsonl")
    program = str(Path(sys.executable).with_name("fastqwen"))
    began = time.perf_counter()
    with subprocess.Popen([program, *arguments, "-o", str(out), "--quiet"]) as process:  # noqa: S603
        looks = list(_looks(process, part, began))
        process.wait()
    whole_s = time.perf_counter() - began
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(arguments)}: exit status {process.returncode}")
    first_s = looks[0].when_s if looks else whole_s
    peak_mib = max((look.peak_mib for look in looks), default=0.0)
    took_s = steady(looks, rows, lambda look: look.when_s)
    cpu_s = steady(looks, rows, lambda look: look.cpu_s)
    return Measured(first_s, whole_s, 1 / took_s if took_s else 0.0, cpu_s, peak_mib)


def steady(looks: Sequence[Look], rows: int, of: Callable[[Look], float]) -> float:
    """What a record takes between `FIRST` and `LAST` of a run; 0 where too few looks tell."""
    within = [look for look in looks if FIRST * rows <= look.records <= LAST * rows]
    if len(within) < 2 or within[-1].records == within[0].records:
        return 0.0
    return (of(within[-1]) - of(within[0])) / (within[-1].records - within[0].records)


def _looks(process: subprocess.Popen[bytes], part: Path, began: float) -> Iterator[Look]:
    """Each look that found more records."""
    seen = place = 0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        time.sleep(LOOK_EVERY_S)
        try:
            with part.open("rb") as file:
                file.seek(place)
                added = file.read()
        except FileNotFoundError:
            continue
        if found := added.count(b"\n"):
            place, seen = place + len(added), seen + found
            now = time.perf_counter() - began
            yield Look(now, seen, _cpu_s(process.pid), _peak_mib(process.pid))


def _cpu_s(process: int) -> float:
    """What a process has used by all its threads, without its children."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no Linux, or it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(process: int) -> float:
    """What a process took at most. `getrusage` would add what its parent had when it was started."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # no Linux, or it has ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)
