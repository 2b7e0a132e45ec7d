"""What a run would find in the cache, what it would ask for, and how long that took before: `--dry-run`."""

from __future__ import annotations

from dataclasses import dataclass

from cache.store import Store
from tgi_stack.answers.identities import Identities
from tgi_stack.backends.base import Backend
from tgi_stack.backends.dry_run import TYPE, open_dry_run
from tgi_stack.backends.lazy import LazyBackend
from tgi_stack.jobs import pipeline as runner
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.jobs.tally import Tally
from tgi_stack.rows.ledger import Discard
from tgi_stack.rows.reader import Source

LEAST_ROWS = 8  # that a speed is noted of


@dataclass(frozen=True, slots=True)
class DryRun:
    """Rows by what becomes of them, and what the misses ask for at least: a row may ask more than once."""

    rows: int
    hits: int
    misses: int
    failed: int
    requests: int
    prompt_tokens: int
    new_tokens: int
    images: int
    seconds: float | None

    def line(self) -> str:
        """For people."""
        took = "no run yet tells how long" if self.seconds is None else f"about {self.seconds:,.0f} s"
        return (
            f"{self.rows:,} rows: {self.hits:,} in the cache, {self.misses:,} to compute "
            f"({self.prompt_tokens:,} prompt tokens, up to {self.new_tokens:,} new ones, "
            f"{self.images:,} images; {took}), {self.failed:,} would fail"
        )


async def run_dry(recipe: JobSpec, source: Source, tally: Tally, store: Store | None) -> DryRun:
    """Runs a job against nobody.

    Raises:
        UsageError: nobody is known whose answers could be looked for.
    """
    settings, kind = recipe.settings, recipe.kind
    backend = open_dry_run(settings, kind, store)
    try:
        await runner.run(recipe.job(backend, store), source, Discard(), settings, tally)
    finally:
        await backend.aclose()
    misses = tally.failures[TYPE]
    speed = None if store is None else Identities(store).speed(kind, backend.identity)
    return DryRun(
        rows=tally.rows,
        hits=tally.cached,
        misses=misses,
        failed=tally.failed - misses,
        requests=backend.requests,
        prompt_tokens=backend.prompt_tokens,
        new_tokens=backend.new_tokens,
        images=backend.images,
        seconds=None if speed is None else misses / speed,
    )


def note_speed(store: Store | None, kind: str, backend: Backend, tally: Tally, seconds: float) -> None:
    """Notes how fast a run was once its weights were loaded, where it computed nearly all of its rows."""
    computed = tally.ok - tally.kept - tally.cached
    seconds -= backend.opening_s if isinstance(backend, LazyBackend) else 0.0
    if store is not None and computed >= max(LEAST_ROWS, 10 * tally.cached) and seconds > 0:
        Identities(store).note_speed(kind, backend.identity, computed, seconds)
