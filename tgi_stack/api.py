"""fastqwen from Python: the optimisation guide's `predict_probs`, and the jobs as objects that yield records.

An engine lives in a thread with an event loop of its own, so that the plain methods work anywhere: in
scripts, in notebooks, inside a running event loop. `arun` and `apredict_probs` are for those who await.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from tgi_stack.concurrency import fan_out
from tgi_stack.errors import FastqwenError, RowError, UsageError
from tgi_stack.jobs.probs import Probs, candidate_counts
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.prompting import prompts
from tgi_stack.prompting.forms import form_of
from tgi_stack.prompting.template_file import read_template
from tgi_stack.resident import FORKS, Prepared, Record, Resident
from tgi_stack.rows import parquet
from tgi_stack.rows.objects.dataset import Input, is_dataset, open_input
from tgi_stack.rows.records import RECORDS
from tgi_stack.types import ProbsRow

Probabilities = NDArray[np.float64]


class PartialFailure(FastqwenError):  # noqa: N818  # the name that users know
    """Some prompts of several could not be answered.

    Attributes:
        results: an array for each prompt that was, None for the others.
        errors: the error of each of the others, by its place.
    """

    def __init__(self, results: list[Probabilities | None], errors: dict[int, RowError]) -> None:
        place, error = next(iter(errors.items()))
        super().__init__(f"{len(errors)} of {len(results)} prompts failed; the one at {place}: {error}")
        self.results = results
        self.errors = errors


class Summarizer(Resident):
    """Semantic summaries of images; docs/reference.md lists the options.

    for record in Summarizer(engine="torch", model="tiny").run("items.jsonl"):
        print(record["id"], record.get("summary"))
    """

    _kind = "vision"

    def run(self, input: Input) -> Iterator[Record]:
        """The records of `fastqwen summarize INPUT`, in the order in which they finish.

        A row that fails has a record with `status` `failed`; what concerns the whole run is raised.

        Args:
            input: a path as on the command line, or a `datasets.Dataset`. Records of a dataset's rows have
                every field that the job knows, so that they are rows of a table: see `record_schema`.
        """
        return self._run(partial(self._prepared, input))

    def arun(self, input: Input) -> AsyncIterator[Record]:
        """As `run`, for `async for`."""
        return self._arun(partial(self._prepared, input))

    def write(self, input: Input, out: str | Path) -> dict[str, Any]:
        """As `fastqwen summarize INPUT -o OUT`: resumed where an earlier run ended; gives the counts."""
        return self._write(partial(self._prepared, input), out)

    def dry_run(self, input: Input) -> dict[str, Any]:
        """As `fastqwen summarize INPUT --dry-run --json`: what would be asked; sends and writes nothing."""
        return self._dry_run(partial(self._prepared, input))

    def _prepared(self, input: Input) -> Prepared:
        source = open_input(input, folders=True, kind="summarize", limit=self.settings.limit)
        template = read_template(self.settings, prompts.SUMMARY_PLACEHOLDERS)
        form = form_of(self.settings)
        return JobSpec("summarize", self.settings, source.base, template=template, form=form), source


class Reranker(Resident):
    """Rankings of candidates, and label probabilities of prompts; docs/reference.md lists the options.

    with Reranker(engine="auto") as reranker:
        p = reranker.predict_probs("Which of A, B or C? ", 3)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._kind = "vision" if self.settings.item_images else "text"

    def run(self, input: Input, items: Input | Sequence[Input] = ()) -> Iterator[Record]:
        """The records of `fastqwen rerank INPUT --items ITEMS`; see `Summarizer.run`."""
        return self._run(partial(self._prepared, input, items))

    def arun(self, input: Input, items: Input | Sequence[Input] = ()) -> AsyncIterator[Record]:
        """As `run`, for `async for`."""
        return self._arun(partial(self._prepared, input, items))

    def write(self, input: Input, out: str | Path, items: Input | Sequence[Input] = ()) -> dict[str, Any]:
        """As `fastqwen rerank INPUT --items ITEMS -o OUT`; see `Summarizer.write`."""
        return self._write(partial(self._prepared, input, items), out)

    def dry_run(self, input: Input, items: Input | Sequence[Input] = ()) -> dict[str, Any]:
        """As `fastqwen rerank INPUT --items ITEMS --dry-run --json`; see `Summarizer.dry_run`."""
        return self._dry_run(partial(self._prepared, input, items))

    def run_probs(self, input: Input) -> Iterator[Record]:
        """The records of `fastqwen probs INPUT`; see `Summarizer.run`."""
        return self._run(partial(self._prepared_probs, input))

    def arun_probs(self, input: Input) -> AsyncIterator[Record]:
        """As `run_probs`, for `async for`."""
        return self._arun(partial(self._prepared_probs, input))

    def write_probs(self, input: Input, out: str | Path) -> dict[str, Any]:
        """As `fastqwen probs INPUT -o OUT`; see `Summarizer.write`."""
        return self._write(partial(self._prepared_probs, input), out)

    def dry_run_probs(self, input: Input) -> dict[str, Any]:
        """As `fastqwen probs INPUT --dry-run --json`; see `Summarizer.dry_run`."""
        return self._dry_run(partial(self._prepared_probs, input))

    def _prepared_probs(self, input: Input) -> Prepared:
        if self._kind != "text":
            raise UsageError("probs asks a text model; make a Reranker without item_images for it")
        source = open_input(input, kind="probs", limit=self.settings.limit)
        return JobSpec("probs", self.settings, source.base), source

    def _prepared(self, input: Input, items: Input | Sequence[Input]) -> Prepared:
        source = open_input(input, kind="rerank", limit=self.settings.limit)
        named = [items] if isinstance(items, str | Path) or is_dataset(items) else items
        template = read_template(self.settings, prompts.RERANK_PLACEHOLDERS)
        known = tuple(open_input(name, kind="item") for name in named)
        return JobSpec("rerank", self.settings, source.base, known, template), source

    @overload
    def predict_probs(  # type: ignore[overload-overlap]  # a str is a sequence of them too
        self, prompts: str, num_candidates: int
    ) -> Probabilities: ...
    @overload
    def predict_probs(
        self, prompts: Sequence[str], num_candidates: int | Sequence[int]
    ) -> list[Probabilities]: ...
    def predict_probs(
        self, prompts: str | Sequence[str], num_candidates: int | Sequence[int]
    ) -> Probabilities | list[Probabilities]:
        """The distribution of the next token over the labels A, B, ... of each prompt's candidates.

        Args:
            prompts: one prompt or several; each is sent verbatim.
            num_candidates: how many candidates a prompt has; for several prompts one number or one each.

        Returns:
            An array of shape [num_candidates] that sums to 1, in float64; for several prompts a list of them.

        Raises:
            RowError: one prompt that can't be answered.
            PartialFailure: some of several; it carries the rest.
        """
        return self._result(self._predict(prompts, num_candidates))

    async def apredict_probs(
        self, prompts: str | Sequence[str], num_candidates: int | Sequence[int]
    ) -> Probabilities | list[Probabilities]:
        """As `predict_probs`, to be awaited."""
        return await self._aresult(self._predict(prompts, num_candidates))

    def predict_probs_batch(
        self, prompts: Sequence[str], num_candidates_list: Sequence[int]
    ) -> list[Probabilities]:
        """The list form of `predict_probs`, under the name it had before."""
        return self.predict_probs(list(prompts), list(num_candidates_list))

    async def _predict(
        self, asked: str | Sequence[str], counts: int | Sequence[int]
    ) -> Probabilities | list[Probabilities]:
        texts = [asked] if isinstance(asked, str) else list(asked)
        numbers = candidate_counts(counts, len(texts))
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise UsageError(f"a prompt is a string, not {wrong[0]!r:.60}")
        backend = await self._opened()
        job = Probs(backend, self.settings, self._store)
        results: list[Probabilities | None] = [None] * len(texts)
        errors: dict[int, RowError] = {}

        async def answer(place: int) -> None:
            row = ProbsRow(place + 1, str(place + 1), texts[place], numbers[place])
            try:
                record = await job.answer(row)
            except RowError as error:
                errors[place] = error
            else:
                results[place] = np.array(record["probabilities"], dtype=np.float64)

        await fan_out(range(len(texts)), answer, workers=max(1, backend.max_concurrency))
        if not errors:
            found = [result for result in results if result is not None]
            return found[0] if isinstance(asked, str) else found
        if isinstance(asked, str):
            raise errors[0]
        raise PartialFailure(results, dict(sorted(errors.items())))


def record_schema(job: str) -> Any:
    """The columns of a job's records, as a pyarrow.Schema: those of a Parquet output.

    Dataset.from_generator(..., features=Features.from_arrow_schema(record_schema("rerank")))

    Args:
        job: summarize, rerank or probs.

    Raises:
        UsageError: no such job.
    """
    if job not in RECORDS:
        raise UsageError(f"no job {job!r}; there are {', '.join(RECORDS)}")
    return parquet.schema(job)


# -- the optimisation guide's functions ----------------------------------------------------------------------

_KEPT: dict[str, Reranker] = {}


def _kept(options: dict[str, Any]) -> Reranker:
    """One engine for equal options, as long as the process lives."""
    key = repr((os.getpid(), sorted(options.items())))
    with FORKS.lock:
        if key not in _KEPT:
            _KEPT[key] = Reranker(**options)
            atexit.register(_close, key)
        return _KEPT[key]


def _close(key: str) -> None:
    try:
        _KEPT.pop(key).close()
    except (CancelledError, RuntimeError):  # the interpreter is going down: so is the thread
        return


def predict_probs(
    prompts: str | Sequence[str], num_candidates: int | Sequence[int], **options: Any
) -> Probabilities | list[Probabilities]:
    """`Reranker.predict_probs` of an engine that is kept for further calls with the same options.

    docs/reference.md lists the options.
    """
    reranker = _kept(options)
    if isinstance(prompts, str):
        if not isinstance(num_candidates, SupportsIndex):
            raise UsageError("one prompt has one number of candidates")
        return reranker.predict_probs(prompts, num_candidates)
    return reranker.predict_probs(prompts, num_candidates)


def predict_probs_batch(
    prompts: Sequence[str], num_candidates_list: Sequence[int], **options: Any
) -> list[Probabilities]:
    """The list form of `predict_probs`, under the name it had before; docs/reference.md lists the options."""
    return _kept(options).predict_probs_batch(prompts, num_candidates_list)
