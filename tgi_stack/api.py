"""fastqwen from Python: the optimisation guide's `predict_probs`, and the jobs as objects that yield records.

An engine lives in a thread with an event loop of its own, so that the plain methods work anywhere: in
scripts, in notebooks, inside a running event loop. `arun` and `apredict_probs` are for those who await.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from cache.store import Store
from tgi_stack import settings as settings_of
from tgi_stack.answers.cache_admin import open_store
from tgi_stack.backends.base import Backend
from tgi_stack.backends.open import open_backend
from tgi_stack.concurrency import fan_out
from tgi_stack.errors import FastqwenError, RowError, UsageError
from tgi_stack.jobs import session
from tgi_stack.jobs.probs import Probs, candidate_counts
from tgi_stack.jobs.sinks import PacedSink, open_sink
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.prompting import prompts
from tgi_stack.prompting.template_file import read_template
from tgi_stack.rows.reader import Source, open_source
from tgi_stack.settings import Settings
from tgi_stack.types import ProbsRow

Value = TypeVar("Value")
Probabilities = NDArray[np.float64]
Record = dict[str, Any]
Prepared = tuple[JobSpec, Source]


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


class _Engine:
    """A backend of one kind in a thread's event loop, opened at first use.

    A forked child opens its own at its first use, unless torch computes. Pickled are the options alone, and
    with them a key that stands there: the other process opens its own too.

    Args:
        options: settings by their names in Python (`engine`, `model`, `endpoint`, ...), over variables and
            `fastqwen.toml` as on the command line.
    """

    _kind = "text"

    def __init__(self, **options: Any) -> None:
        unknown = options.keys() - Settings.model_fields.keys()
        if unknown:
            raise UsageError(f"unknown option {min(unknown)!r}; they are named as in fastqwen.toml")
        self._options = options
        self.settings = settings_of.load(options)
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fastqwen", daemon=True)
        self._thread.start()
        self._backend: Backend | None = None
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self._options)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what the engine holds; it can't be used afterwards."""
        if self._closed or self._process != os.getpid():  # a forked child has not the thread
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._backend is not None:
            await self._backend.aclose()
        if self._store is not None:
            self._store.close()

    def _submit(self, what: Coroutine[Any, Any, Value]) -> Future[Value]:
        if self._closed:
            what.close()
            raise UsageError("this engine was closed")
        try:
            self._leave_parent()
        except UsageError:
            what.close()
            raise
        return asyncio.run_coroutine_threadsafe(what, self._loop)

    def _leave_parent(self) -> None:
        """In a forked child: leaves what is the parent's alone, and starts anew."""
        with _forks.lock:
            if self._process == os.getpid():
                return
            if self._backend is not None and self._backend.identity.engine == "torch":
                raise UsageError(
                    "torch does not go on in a forked child; make the engine in the child, or start "
                    'the child with multiprocessing.get_context("spawn")'
                )
            # What is collected would be closed, and its connections are the parent's too.
            _forks.inherited.append((self._loop, self._thread, self._backend, self._store, self._opening))
            self._start()

    async def _opened(self) -> Backend:
        async with self._opening:
            if self._backend is None:
                if self._store is None:
                    self._store = open_store(self.settings)
                self._backend = await open_backend(self.settings, self._kind, self._store)
        return self._backend

    def _run(self, prepare: Callable[[], Prepared]) -> Iterator[Record]:
        """The records of a job, in the order in which they finish."""
        sink = PacedSink()
        stop = asyncio.Event()
        done = self._submit(self._produce(prepare, sink, stop))
        done.add_done_callback(lambda _: sink.records.put(None))
        process = os.getpid()
        try:
            while (record := _forks.next_of(sink.records, process)) is not None:
                yield record
            done.result()
        finally:
            if not self._closed and process == os.getpid():
                self._loop.call_soon_threadsafe(stop.set)

    async def _produce(self, prepare: Callable[[], Prepared], sink: PacedSink, stop: asyncio.Event) -> None:
        spec, source = prepare()
        one = session.Session(spec, source, sink, stop=stop)
        one.count()
        await one.answer(await self._opened(), self._store)
        one.say_skipped()

    def _write(self, prepare: Callable[[], Prepared], out: str | Path) -> dict[str, Any]:
        counts: dict[str, Any] = self._submit(self._written(prepare, Path(out))).result()
        return counts

    async def _written(self, prepare: Callable[[], Prepared], out: Path) -> dict[str, Any]:
        spec, source = prepare()
        one = session.Session(spec, source, open_sink(spec, source, out, sys.argv))
        try:
            if not one.finished:
                one.count()
                await one.answer(await self._opened(), self._store)
        finally:
            one.sink.close(one.tally.as_dict())
        one.say_skipped()
        one.refuse_missing_rows()
        return one.tally.as_dict()

    async def _arun(self, prepare: Callable[[], Prepared]) -> AsyncIterator[Record]:
        records = self._run(prepare)
        try:
            while (record := await asyncio.to_thread(next, records, None)) is not None:
                yield record
        finally:
            await asyncio.to_thread(records.close)  # type: ignore[attr-defined]  # a generator


class _Forks:
    """What forked children must not use, and a lock of their own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inherited: list[tuple[Any, ...]] = []
        os.register_at_fork(after_in_child=self._in_child)

    def _in_child(self) -> None:
        self.lock = threading.Lock()

    @staticmethod
    def next_of(records: queue.Queue[Record | None], process: int) -> Record | None:
        """The next record of a run, which goes on in the process that began it alone."""
        if process != os.getpid():
            raise UsageError("this run was begun before a fork; begin another one in the child")
        return records.get()


_forks = _Forks()


def _made(engine: type[_Engine], options: dict[str, Any]) -> _Engine:
    """What was pickled, opened anew at its first use."""
    return engine(**options)


class Summarizer(_Engine):
    """Semantic summaries of images.

    for record in Summarizer(engine="torch", model="tiny").run("items.jsonl"):
        print(record["id"], record.get("summary"))
    """

    _kind = "vision"

    def run(self, input: str | Path) -> Iterator[Record]:
        """The records of `fastqwen summarize INPUT`, in the order in which they finish.

        A row that fails has a record with `status` `failed`; what concerns the whole run is raised.
        """
        return self._run(partial(self._prepared, input))

    def arun(self, input: str | Path) -> AsyncIterator[Record]:
        """As `run`, for `async for`."""
        return self._arun(partial(self._prepared, input))

    def write(self, input: str | Path, out: str | Path) -> dict[str, Any]:
        """As `fastqwen summarize INPUT -o OUT`: resumed where an earlier run ended; gives the counts."""
        return self._write(partial(self._prepared, input), out)

    def _prepared(self, input: str | Path) -> Prepared:
        source = open_source(str(input), folders=True, kind="summarize")
        template = read_template(self.settings, prompts.SUMMARY_PLACEHOLDERS)
        return JobSpec("summarize", self.settings, source.base, template=template), source


class Reranker(_Engine):
    """Rankings of candidates, and label probabilities of prompts of your own.

    with Reranker(engine="auto") as reranker:
        p = reranker.predict_probs("Which of A, B or C? ", 3)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._kind = "vision" if self.settings.item_images else "text"

    def run(self, input: str | Path, items: str | Path | Sequence[str | Path] = ()) -> Iterator[Record]:
        """The records of `fastqwen rerank INPUT --items ITEMS`; see `Summarizer.run`."""
        return self._run(partial(self._prepared, input, items))

    def arun(self, input: str | Path, items: str | Path | Sequence[str | Path] = ()) -> AsyncIterator[Record]:
        """As `run`, for `async for`."""
        return self._arun(partial(self._prepared, input, items))

    def write(
        self, input: str | Path, out: str | Path, items: str | Path | Sequence[str | Path] = ()
    ) -> dict[str, Any]:
        """As `fastqwen rerank INPUT --items ITEMS -o OUT`; see `Summarizer.write`."""
        return self._write(partial(self._prepared, input, items), out)

    def _prepared(self, input: str | Path, items: str | Path | Sequence[str | Path]) -> Prepared:
        source = open_source(str(input), kind="rerank")
        named = [items] if isinstance(items, str | Path) else items
        template = read_template(self.settings, prompts.RERANK_PLACEHOLDERS)
        known = tuple(open_source(str(name), kind="item") for name in named)
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
        return self._submit(self._predict(prompts, num_candidates)).result()

    async def apredict_probs(
        self, prompts: str | Sequence[str], num_candidates: int | Sequence[int]
    ) -> Probabilities | list[Probabilities]:
        """As `predict_probs`, to be awaited."""
        return await asyncio.wrap_future(self._submit(self._predict(prompts, num_candidates)))

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


# -- the optimisation guide's functions ----------------------------------------------------------------------

_KEPT: dict[str, Reranker] = {}


def _kept(options: dict[str, Any]) -> Reranker:
    """One engine for equal options, as long as the process lives."""
    key = repr((os.getpid(), sorted(options.items())))
    with _forks.lock:
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
    """`Reranker.predict_probs` of an engine that is kept for further calls with the same options."""
    reranker = _kept(options)
    if isinstance(prompts, str):
        if not isinstance(num_candidates, SupportsIndex):
            raise UsageError("one prompt has one number of candidates")
        return reranker.predict_probs(prompts, num_candidates)
    return reranker.predict_probs(prompts, num_candidates)


def predict_probs_batch(
    prompts: Sequence[str], num_candidates_list: Sequence[int], **options: Any
) -> list[Probabilities]:
    """The list form of `predict_probs`, under the name it had before."""
    return _kept(options).predict_probs_batch(prompts, num_candidates_list)
