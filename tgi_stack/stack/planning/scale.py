"""How long a job of very many rows takes, what limits it and what it costs: a model of four stages.

The run looks at all rows in one process; then actors answer while the run writes. What answers is bounded by
the GPUs, by the cores that prepare, or by the run itself, whichever is slowest. docs/design/scale.md says
where the rates come from and how far the model was from measured runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tgi_stack.errors import UsageError

ANSWER_BYTES = 600  # of a kept answer with its key, in a tier
RECORD_BYTES = 400  # of a record, as a line
BLOCK_BYTES = 1000  # of the run's memory, for each block of a file that can be begun anywhere
LATENCY_S = 0.5  # of a question to a busy server
SOCKETS = 1024  # of a session to a server, at most
TIER_KEYS_S = 60_000.0  # that a client without hiredis reads from a tier, in batches


@dataclass(frozen=True, slots=True)
class Rates:
    """What one of each does; all but the first are of a busy core of 2026.

    Attributes:
        gpu: rows that a GPU answers in a second.
        prepared: rows that a core reads, renders, encodes and records in a second.
        kept: rows that a core answers from its cache in a second.
        looked: rows that the run looks at in a second, before the first question.
        written: rows that the run writes in a second.
        block_s: what a block costs the run.
        start_s: of the cluster and its actors, models aside.
    """

    gpu: float = 897.0
    prepared: float = 250.0
    kept: float = 2_000.0
    looked: float = 50_000.0
    written: float = 100_000.0
    block_s: float = 0.014
    start_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done, with what.

    Attributes:
        hits: the share of rows that a cache knows.
        load_s: until a model is in its GPU.
        price: of a GPU for an hour.
    """

    rows: int
    gpus: int
    cores: int
    hits: float = 0.0
    block: int = 500
    load_s: float = 60.0
    price: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What comes of it; times in seconds.

    Attributes:
        limit: which stage holds the others up: `gpus`, `cores`, `run` or `start`.
        stages: how long each would take by itself.
        notes: what else to look at.
    """

    seconds: float
    limit: str
    stages: dict[str, float]
    gpu_hours: float
    cost: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def forecast(job: Job, rates: Rates) -> Forecast:
    """Time and cost of a job.

    Raises:
        UsageError: rows that nobody answers.
    """
    asked, known = job.rows * (1 - job.hits), job.rows * job.hits
    if asked and not job.gpus:
        raise UsageError("without GPUs only rows that a cache knows are answered; give --gpus, or --hits 1")
    stages = {
        "start": rates.start_s + (job.load_s if asked else 0.0),
        "look": job.rows / rates.looked,
        "gpus": asked / (job.gpus * rates.gpu) if asked else 0.0,
        "cores": (asked / rates.prepared + known / rates.kept) / job.cores,
        "run": job.rows / rates.written + math.ceil(job.rows / job.block) * rates.block_s,
    }
    middle = max(("gpus", "cores", "run"), key=stages.__getitem__)
    # The last blocks end alone, and the GPUs of the others wait.
    workers = max(1, job.gpus if asked else job.cores)
    tail = min(job.rows, job.block * workers) / max(job.rows, 1) * stages[middle] / 2
    seconds = stages["start"] + stages["look"] + stages[middle] + tail
    before = max(("start", "look"), key=stages.__getitem__)
    limit = middle if stages[middle] >= stages[before] else before
    hours = job.gpus * seconds / 3600
    return Forecast(seconds, limit, stages, hours, hours * job.price, tuple(_notes(job, rates, stages)))


def _notes(job: Job, rates: Rates, stages: dict[str, float]) -> Iterator[str]:
    blocks = math.ceil(job.rows / job.block)
    yield f"{blocks:,} parts, {job.rows * RECORD_BYTES / 1e9:,.1f} GB"
    yield f"the run's memory: {blocks * BLOCK_BYTES / 1e6:,.0f} MB for its blocks"
    yield f"a tier that keeps all answers: {job.rows * ANSWER_BYTES / 1e9:,.1f} GB of memory"
    yield f"an object store: {blocks + 2:,} requests to write"
    needed = math.ceil(job.gpus * rates.gpu / rates.prepared)
    if stages["cores"] > stages["gpus"] > 0:
        each = math.ceil(rates.gpu / rates.prepared)
        yield f"the GPUs wait: {needed:,} cores would feed them ({each} a GPU)"
    if rates.gpu * LATENCY_S > SOCKETS:
        yield f"{rates.gpu * LATENCY_S:,.0f} questions at once to a server; a session opens {SOCKETS:,}"
    if stages["run"] >= max(stages["gpus"], stages["cores"]):
        yield "the run is the limit: larger --rows-per-block, or several jobs over parts of the input"
    rate = job.rows / max(stages["gpus"], stages["cores"], stages["run"], 1e-9)
    if rate > TIER_KEYS_S:
        yield f"{rate:,.0f} keys a second from one tier; a client with hiredis reads some 300,000"
