"""The model of very many rows: more of anything that limits never makes a job longer, and sums are right."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Fastqwen
from tgi_stack.errors import UsageError
from tgi_stack.stack.planning.scale import Job, Rates, forecast

JOBS = st.builds(
    Job,
    rows=st.integers(1, 10**9),
    gpus=st.integers(1, 1000),
    cores=st.integers(1, 10_000),
    hits=st.floats(0, 1),
    block=st.integers(1, 10**5),
)
SLACK = 1 + 1e-9


@given(job=JOBS)
def test_more_of_what_limits_is_never_slower(job: Job) -> None:
    now = forecast(job, Rates())
    assert now.seconds >= max(now.stages.values())
    assert forecast(replace(job, cores=2 * job.cores), Rates()).stages["cores"] <= now.stages["cores"]
    # Twice the GPUs end twice the last blocks.
    assert forecast(replace(job, gpus=2 * job.gpus), Rates()).stages["gpus"] <= now.stages["gpus"]
    faster = Rates(gpu=2e3, prepared=1e3, kept=2e3, looked=1e6, written=1e6, block_s=0.001, start_s=1.0)
    assert forecast(job, faster).seconds <= now.seconds * SLACK
    assert forecast(replace(job, rows=2 * job.rows), Rates()).seconds >= now.seconds


@pytest.mark.parametrize(
    ("job", "limit"),
    [
        (Job(10**6, gpus=1, cores=64), "gpus"),
        (Job(10**6, gpus=8, cores=2), "cores"),
        (Job(10**6, gpus=64, cores=4096, block=10), "run"),
        (Job(100, gpus=8, cores=64), "start"),
        (Job(10**8, gpus=1000, cores=10**5, block=5000), "look"),
    ],
)
def test_the_limit_is_the_slowest_stage(job: Job, limit: str) -> None:
    assert forecast(job, Rates()).limit == limit


def test_rows_that_nobody_answers_are_refused() -> None:
    with pytest.raises(UsageError, match="give --gpus, or --hits 1"):
        forecast(Job(10, gpus=0, cores=1), Rates())
    assert forecast(Job(10, gpus=0, cores=1, hits=1.0), Rates()).gpu_hours == 0


def test_the_command_tells_time_limit_and_cost(fastqwen: Fastqwen) -> None:
    said = fastqwen("plan-scale", "1000000", "--gpus", "1", "--cores", "64", "--price", "2").stdout
    assert "what limits: gpus" in said
    assert "GPU hours" in said
    assert '"limit":' in fastqwen("plan-scale", "10", "--gpus", "1", "--json").stdout
    for rows in ("0", "9" * 400):
        assert "from 1 to 1000000000000000" in fastqwen("plan-scale", rows, "--gpus", "1", check=2).stderr
