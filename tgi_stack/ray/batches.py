"""Jobs for a pipeline of one's own in Ray Data: classes for `ds.map_batches(...)`.

    ds.map_batches(
        Rerank,
        fn_constructor_kwargs={"items": "items.jsonl", "engine": "vllm", "endpoint": ["http://gpu1:8000"]},
        batch_size=500,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=4),
        num_cpus=0.5,
    )

A batch's rows become as many records, in their order: the columns of a Parquet output, of one schema whatever
the answers. A row that fails is a record of `status` `failed`. An actor is one session: engine, cache and
connections are opened at the first batch and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tgi_stack import settings as settings_of
from tgi_stack.errors import InputError, UsageError
from tgi_stack.jobs.spec import Name, opened_without_rows
from tgi_stack.jobs.standing import Standing
from tgi_stack.rows import parquet
from tgi_stack.rows.columns import Wanted
from tgi_stack.rows.reader import RawRow
from tgi_stack.settings import Settings


class _Job:
    """What the three share.

    Args:
        keep: columns of the batch that are kept before those of the records.
        base: where relative paths of images begin.
        columns: our names of fields -> those of the batch, as --map gives them.
        options: settings by their names in Python, over variables and `fastqwen.toml` as on the command line.
    """

    _name: Name

    def __init__(
        self,
        *,
        keep: Sequence[str] = (),
        base: str | Path = ".",
        columns: Mapping[str, str] | None = None,
        items: str | Path | Sequence[str | Path] = (),
        **options: Any,
    ) -> None:
        if unknown := options.keys() - Settings.model_fields.keys():
            raise UsageError(f"unknown option {min(unknown)!r}; they are named as in fastqwen.toml")
        named = [items] if isinstance(items, str | Path) else items
        spec = opened_without_rows(
            self._name, Path(base), list(map(str, named)), columns or {}, settings_of.load(options)
        )
        self._keep = tuple(keep)
        self._wanted = Wanted(spec.name, columns)
        self._standing = Standing(spec, spec.joined())

    def __call__(self, batch: Any) -> Any:
        """The records of a batch.

        Args:
            batch: a pyarrow.Table, a pandas.DataFrame, or columns by their names as numpy arrays.

        Returns:
            A pyarrow.Table of as many rows, in the batch's order.

        Raises:
            InputError: a row without an id, or a batch without the column that every row needs.
            FastqwenError: what concerns all rows, such as no server.
        """
        table = _as_table(batch)
        rows = [RawRow(number, row) for number, row in enumerate(self._rows(table), 1)]
        if self._name == "probs" and any(
            isinstance(row.value, dict) and "id" not in row.value for row in rows
        ):
            raise InputError(
                "a batch has rows without an `id`, and in a batch no number stands for one; add it"
            )
        answers = parquet.table(self._name, self._standing.answer(rows))
        kept = {name: table.column(name) for name in self._keep}
        if twice := kept.keys() & set(answers.column_names):
            raise UsageError(f"keep={min(twice)!r}: records have a column of that name; rename one")
        return pa.table({**kept, **{name: answers.column(name) for name in answers.column_names}})

    def _rows(self, table: Any) -> Iterator[dict[str, Any]]:
        for batch in table.to_batches():
            yield from parquet.rows_of(batch, self._wanted)


class Summarize(_Job):
    """Summaries of a batch's images: `id`, `image` (a path, or its bytes), `title`, `text`.

    options: those of `fastqwen summarize`; see `_Job` and docs/reference.md.
    """

    _name = "summarize"

    def __init__(self, **options: Any) -> None:
        if "items" in options:
            raise UsageError("summarize takes no items")
        super().__init__(**options)


class Rerank(_Job):
    """Rankings of each row's candidates: `id`, `candidates`, and `history` or `query`.

    options: those of `fastqwen rerank`, `items` among them; each actor holds the items.
    """

    _name = "rerank"


class Probs(_Job):
    """Label probabilities of prompts: `id`, `prompt`, and `labels` or `num_candidates`.

    options: those of `fastqwen probs`.
    """

    _name = "probs"

    def __init__(self, **options: Any) -> None:
        if "items" in options:
            raise UsageError("probs takes no items")
        super().__init__(**options)


def _as_table(batch: Any) -> Any:
    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, Mapping):
        return pa.table({name: pa.array(list(column)) for name, column in batch.items()})
    return pa.Table.from_pandas(batch, preserve_index=False)
