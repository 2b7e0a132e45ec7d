"""The process that answers its share of a run's rows from the cache, and computes nothing; see `ahead`.

    request  on stdin: what to answer, as JSON
    answers  on stdout, a batch each: counts as JSON, each row's number and digest, the lengths of their
             lines, the lines as they stand in a part file

Each part stands behind its length (`pipe`). Rows that the cache can't answer are left out. It ends with its
share, or when nobody reads its answers any more, or when too few rows are in the cache for it to be of use.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from cache.store import Store
from tgi_stack.backends.offline import OfflineBackend, forbid_network
from tgi_stack.images.pipe import framed, read_part
from tgi_stack.jobs.parallel_replay import opened
from tgi_stack.jobs.pipeline import Job, Tally, answered
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.rows.ledger import line_of
from tgi_stack.rows.reader import RawRow
from tgi_stack.settings import Settings
from tgi_stack.types import Identity

BLOCK = 256  # neighbouring rows, which one process answers
TOGETHER = 16  # lookups under one lock: a millisecond, which who wants to write can wait
LEAST_SHARE = 0.5  # of rows in the cache, below which it is no use


async def serve(asked: dict[str, Any], answers: IO[bytes]) -> None:
    """Answers the rows of a request."""
    settings = Settings.model_validate(asked["settings"])
    store = Store(Path(asked["directory"]), offline=True)
    identity = Identity(**asked["identity"])
    content = store.get("tokenizer", identity.tokenizer)
    source, *items = map(opened, (asked["source"], *asked["items"]))
    if content is None or source is None or None in items:
        return
    known = tuple(item for item in items if item is not None)
    recipe = JobSpec(asked["name"], settings, Path(asked["base"]), known, asked["template"])
    forbid_network()
    profile = Profile.of(Tokenizer.of(content), asked["profile"])  # the run's own, whoever answered before
    job = recipe.job(OfflineBackend(identity, profile), store, replay=True)
    others = _Others(asked["after"], *asked["share"])
    rows = islice(source.look(others), settings.limit)
    store.read_together(TOGETHER)
    store.counts.clear()
    try:
        for batch in _batches(raw for raw in rows if raw.number not in others):
            parts = await _answers(job, batch, store)
            if parts is None:
                break
            store.release()  # whoever reads the answers may take their time
            answers.write(framed(*parts))
            answers.flush()
    finally:
        await job.aclose()
        store.counts.clear()  # what is not there is missed, and counted, by the run
        store.close()


@dataclass(frozen=True, slots=True)
class _Others:
    """The rows that are not of one's share: by their numbers."""

    after: int
    share: int
    shares: int

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and (
            number <= self.after or (number - 1) // BLOCK % self.shares != self.share
        )


def _batches(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    while batch := list(islice(rows, BLOCK)):
        yield batch


async def _answers(job: Job[Any], batch: list[RawRow], store: Store) -> tuple[bytes, ...] | None:
    """The parts of an answer; None where the rows are not in the cache."""
    tally, rows, lines = Tally(), array("q"), []
    for raw in batch:
        record = await answered(job, raw)
        if record["status"] == "ok":
            tally.add(record)
            rows.extend((raw.number, raw.digest))
            lines.append(line_of(raw.number, record))
    if len(lines) < LEAST_SHARE * len(batch):
        return None
    hits = {name: count for name, count in store.counts.items() if name.endswith(" hits")}
    store.counts.clear()  # whoever asked counts them
    head = json.dumps({"counts": tally.as_dict() | {"positions": tally.positions}, "hits": hits}).encode()
    lengths = array("Q", map(len, lines))
    return head, rows.tobytes(), lengths.tobytes(), b"".join(lines)


def main() -> None:
    """Reads a request and answers it."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)
    requests, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asked = json.loads(read_part(requests))
    try:
        asyncio.run(serve(asked, answers))
    except BrokenPipeError:
        sys.exit()


if __name__ == "__main__":
    main()
