"""The page's data, packed: columns, compressed in blocks that the page inflates when it shows their rows.

What a list sorts, filters and counts by stands in the head, which is read at once; all else of a row stands
in the block of its rows. Compressed and in base64, no data can be taken for markup.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from typing import Any

from tgi_stack.report.table import Columns

ROWS = 500  # of a block: a few milliseconds to inflate
LEVEL = 6
# Of the columns of `table.columns`, those that a list needs of all rows at once.
HEAD = ("id", "tags", "doubts", "first", "top", "truth", "count", "mass", "length", "pixels")


def packed(value: Any) -> str:
    """A value as JSON, compressed (gzip), in base64."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), LEVEL, mtime=0)).decode()


def head(rows: Columns) -> dict[str, Any]:
    """The columns that a list needs."""
    return {name: column(rows[name]) for name in HEAD if name in rows}


def blocks(rows: Columns) -> Iterator[str]:
    """All else, by ROWS rows."""
    for start in range(0, len(rows["id"]), ROWS):
        yield packed(
            {name: column(values[start : start + ROWS]) for name, values in rows.items() if name not in HEAD}
        )


def whole(columns: Columns) -> str:
    """A table that is read at once."""
    return packed({name: column(values) for name, values in columns.items()})


def column(values: Sequence[Any]) -> Any:
    """The values; where most come again, the different ones (`of`) and which of them each row has (`at`)."""
    keys = [json.dumps(value) for value in values]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    if 2 * len(places) > len(values):
        return list(values)
    return {"of": [json.loads(key) for key in places], "at": [places[key] for key in keys]}
