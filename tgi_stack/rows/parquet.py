"""Records as Parquet: one schema a job whatever the results, Zstandard inside, a checksum on every page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tgi_stack.rows.formats import read_parquet

ROW_GROUP = 4096

# pyarrow costs 0.3 s to import, so schemas are written as nested names and built when needed.
_COMMON = {
    "engine": "string",
    "route": "string",
    "model": "string",
    "revision": "string",
    "from_cache": "bool",
    "flags": ["string"],
    "attempts": "int64",
    "error": {"type": "string", "message": "string", "row": "int64"},
}
_RANKED = {"id": "string", "rank": "int64", "score": "double", "probability": "double", "logprob": "double"}
_READ = {
    "order": ["string"],
    "labels": ["string"],
    "logprobs": ["double"],
    "normalised": "string",
    "label_mass": "double",
}
_IMAGE = {
    "sha256": "string",
    "width": "int64",
    "height": "int64",
    "sent_width": "int64",
    "sent_height": "int64",
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "summarize": {
        "id": "string",
        "status": "string",
        "summary": "string",
        "finish_reason": "string",
        "image": _IMAGE,
        "usage": {"prompt_tokens": "int64", "completion_tokens": "int64"},
        **_COMMON,
    },
    "rerank": {
        "id": "string",
        "status": "string",
        "ranking": [_RANKED],
        "label_mass": "double",
        "exact": "bool",
        "reads": [_READ],
        "positive": ["string"],
        "usage": {"prompt_tokens": "int64"},
        **_COMMON,
    },
    "probs": {
        "id": "string",
        "status": "string",
        "labels": ["string"],
        "probabilities": ["double"],
        "logprobs": ["double"],
        "label_mass": "double",
        "exact": "bool",
        "usage": {"prompt_tokens": "int64"},
        **_COMMON,
    },
}


def writer(job: str) -> Callable[[IO[bytes], Iterable[bytes]], None]:
    """What writes the records of a job, given as JSON lines, to an open file."""

    def write(file: IO[bytes], lines: Iterable[bytes]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(list(_type(SCHEMAS[job])))
        remaining = iter(lines)
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as out:
            while rows := [json.loads(line) for line in islice(remaining, ROW_GROUP)]:
                out.write_table(pa.Table.from_pylist(rows, schema=schema))

    return write


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a Parquet output; fields that a record did not have are left out again."""
    for _, row in read_parquet(path, str(path)):
        if isinstance(row, dict):
            yield row


def _type(described: Any) -> Any:
    import pyarrow as pa

    if isinstance(described, str):
        return {"string": pa.string(), "bool": pa.bool_(), "int64": pa.int64(), "double": pa.float64()}[
            described
        ]
    if isinstance(described, list):
        return pa.list_(_type(described[0]))
    return pa.struct([pa.field(name, _type(inner)) for name, inner in described.items()])
