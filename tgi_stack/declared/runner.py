"""Who schedules a job's rows: this process, or Ray on one host or many."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from annotated_types import Interval

from tgi_stack.declared.option import RUNNER, free
from tgi_stack.declared.servers import JOBS

WORKERS = re.compile(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?")


class RunnerFields:
    """The part of `Settings` that concerns it."""

    runner: Annotated[
        Literal["local", "ray"],
        free("Who schedules rows: this process, or Ray, which may have many hosts.", RUNNER, JOBS),
    ] = "local"
    ray_address: Annotated[
        str | None,
        free(
            "A Ray cluster that is there; auto: the one on this host.",
            RUNNER,
            JOBS,
            metavar="auto|ADDRESS",
            unset="RAY_ADDRESS, else one is started for the run",
        ),
    ] = None
    workers: Annotated[
        str | None,
        free(
            "Processes that answer rows under Ray.",
            RUNNER,
            JOBS,
            metavar="N|MIN-MAX",
            unset="for servers one a core, for torch one a GPU, or one a host without any",
        ),
    ] = None
    rows_per_block: Annotated[
        int,
        Interval(ge=1, le=10**6),
        free(
            "Rows that a worker of Ray is given at once; they become a part of OUT.",
            RUNNER,
            JOBS,
            unit="rows",
        ),
    ] = 500
    gpus_per_worker: Annotated[
        float | None,
        Interval(ge=0, le=64),
        free(
            "GPUs of each worker; below 1 workers share one.",
            RUNNER,
            JOBS,
            metavar="G",
            unset="for torch 1 where Ray has any, else 0",
        ),
    ] = None
    stall_timeout: Annotated[
        float,
        Interval(ge=1, le=10**6),
        free(
            "How long Ray may go without an answered row before the run ends.", RUNNER, JOBS, unit="seconds"
        ),
    ] = 900.0


def workers_of(value: str) -> tuple[int, int]:
    """The least and the most workers.

    Raises:
        ValueError: neither a number nor a range of them.
    """
    found = WORKERS.fullmatch(value.strip())
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < least <= most:
        raise ValueError("give a number such as 4, or a range such as 2-8")
    return least, most
