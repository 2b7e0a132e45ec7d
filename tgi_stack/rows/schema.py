"""From a raw object to a typed row: fields that are missing or of the wrong type are named."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from tgi_stack.errors import ImageError, InputError, ItemError, RowError, SchemaError
from tgi_stack.rows import jsonl
from tgi_stack.rows.columns import Unreadable
from tgi_stack.rows.reader import RawRow
from tgi_stack.rows.records import as_id
from tgi_stack.types import Item, NoPicture, ProbsRow, RerankRow, SummarizeRow

TEXTS, STRING = frozenset({"id", "title", "text", "summary"}), frozenset({str})
# A scheme has two letters at least: one is a drive.
URL = re.compile(r"\s*(?:[a-z][a-z0-9+.-]+://|data:|file:)", re.IGNORECASE)

Row = SummarizeRow | RerankRow | ProbsRow


@dataclass(frozen=True, slots=True)
class Schema:
    """How the rows of a job are read.

    Attributes:
        labels: those of the command line, for rows of `probs` that bring none.
    """

    job: Literal["summarize", "rerank", "probs"]
    labels: tuple[str, ...] | None = None

    def parse(self, raw: RawRow) -> Row:
        """The row, as the job takes it; raises a RowError for what is none."""
        if self.job == "summarize":
            return summarize_row(raw)
        return rerank_row(raw) if self.job == "rerank" else probs_row(raw, self.labels)

    def id_of(self, raw: RawRow) -> str:
        """The id of the row, as `parse` finds it; raises the RowError that it raises."""
        known = _id_of_plain(raw.value) if self.job == "rerank" else None
        return self.parse(raw).id if known is None else known


def summarize_row(raw: RawRow) -> SummarizeRow:
    """A row of `summarize`: an image, or what is known of it, or both."""
    value = fields(raw)
    return SummarizeRow(
        number=raw.number,
        id=_id(value),
        image=_image(value),
        title=_text(value, "title"),
        text=_text(value, "text"),
    )


def rerank_row(raw: RawRow) -> RerankRow:
    """A row of `rerank`: candidates, and a history or a query."""
    value = fields(raw)
    candidates = tuple(_items(value, "candidates"))
    if not candidates:
        raise SchemaError("schema.candidates", "`candidates` is missing or empty")
    if (value.get("history") is None) == (value.get("query") is None):
        raise SchemaError("schema.history", "a row has either `history` or `query`")
    row = RerankRow(
        number=raw.number,
        id=_id(value),
        candidates=candidates,
        history=tuple(_items(value, "history")),
        query=_text(value, "query"),
        positive=_positive(value),
    )
    names = [item if isinstance(item, str) else item.id for item in candidates]
    if len(set(names)) != len(names):  # last: what a JSON schema can say is said first
        twice = next(name for name in names if names.count(name) > 1)
        raise SchemaError("schema.candidates", f"candidate {twice!r} stands twice")
    return row


def probs_row(raw: RawRow, labels: tuple[str, ...] | None) -> ProbsRow:
    """A row of `probs`; `labels` are those of the command line, for rows that bring none."""
    value = fields(raw)
    prompt = _text(value, "prompt")
    if prompt is None:
        raise SchemaError("schema.prompt", "`prompt` is missing")
    identifier = _id(value) if "id" in value else str(raw.number)
    return ProbsRow(raw.number, identifier, prompt, _labels(value, labels))


def item(value: Any) -> Item:
    """An item of an ITEMS file or one written out in a row; a record of `summarize` is one too."""
    if _is_plain(value):
        return Item(value["id"], value.get("title"), value.get("text"), value.get("summary"))
    if not isinstance(value, dict):
        raise ItemError("item.invalid", f"an item is an id or an object, not {_kind(value)}")
    return Item(
        id=_id(value),
        title=_text(value, "title"),
        text=_text(value, "text"),
        summary=_text(value, "summary"),
        image=_picture(value),
        data=_data(value.get("data")),
    )


def _is_plain(value: Any) -> bool:
    """Whether a value is an item of texts alone, in which nothing can be wrong: as nearly all are."""
    if (
        type(value) is not dict
        or not value.keys() <= TEXTS
        or not STRING.issuperset(map(type, value.values()))
    ):
        return False
    name = value.get("id", "")
    return bool(name) and name.isascii()


def _id_of_plain(value: Any) -> str | None:
    """The id of a row of `rerank` whose items are plain and in which nothing is wrong; else None."""
    if type(value) is not dict or "positive" in value:
        return None
    name, shown, past, query = map(value.get, ("id", "candidates", "history", "query"))
    if type(name) is not str or not name or not name.isascii() or type(shown) is not list or not shown:
        return None
    if not (type(past) is list and query is None) and not (past is None and type(query) is str):
        return None
    if not all(map(_is_plain, shown)) or not all(map(_is_plain, past or ())):
        return None
    return name if len({one["id"] for one in shown}) == len(shown) else None


def fields(raw: RawRow) -> dict[str, Any]:
    """What a row holds; raises the RowError where it could not be read."""
    if isinstance(raw.value, RowError):
        raise raw.value
    if raw.value is None:
        raise ValueError("a row that was skipped has no fields")
    return raw.value


def _kind(value: Any) -> str:
    if isinstance(value, Unreadable):
        return value.reason
    names = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number with a fraction",
        str: "a string",
        bytes: "bytes",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), f"of type {type(value).__name__}")


def _id(value: dict[str, Any]) -> str:
    if "id" not in value:
        raise SchemaError("schema.id", "`id` is missing")
    found = value["id"]
    name = as_id(found)
    if name is None:
        what = _kind(found) if not isinstance(found, str) else "empty" if not found else "no Unicode text"
        raise SchemaError("schema.id", f"`id` is {what}; ids are strings or integers")
    return name


def _text(value: dict[str, Any], name: str) -> str | None:
    found = value.get(name)
    if found is None or isinstance(found, str):
        return found
    raise SchemaError(f"schema.{name}", f"`{name}` is {_kind(found)}; it is a string")


def _data(found: Any) -> str | None:
    """An object as JSON text; None for what is none, such as a column of another meaning."""
    if isinstance(found, str):
        try:
            found = jsonl.loads(found.encode("utf-8", "surrogatepass"))
        except jsonl.LineError:
            return None
    try:
        return json.dumps(found, ensure_ascii=False, allow_nan=False) if isinstance(found, dict) else None
    except (ValueError, TypeError):  # a Parquet value that JSON has no word for
        return None


def _picture(value: dict[str, Any]) -> str | bytes | NoPicture | None:
    """An item's image, or why it is none: a fault of the rows that show it, not of all that name the item."""
    if is_record(value):
        return None
    try:
        return _image(value)
    except RowError as error:
        return NoPicture(error.type, str(error))


def is_record(value: dict[str, Any]) -> bool:
    """Whether an item is a record of `summarize`, whose `image` says what was sent and holds no picture."""
    found = value.get("image")
    return isinstance(found, dict) and "sha256" in found


def _image(value: dict[str, Any]) -> str | bytes | None:
    """A path; in Parquet also the file's bytes, or {bytes, path}, of which the bytes are taken."""
    found = value.get("image")
    if isinstance(found, dict) and found.keys() <= {"bytes", "path"}:
        if isinstance(found.get("bytes"), str):
            raise SchemaError("schema.image", "`image.bytes` is a string; give the file's bytes, or its path")
        found = found.get("path") if found.get("bytes") is None else found["bytes"]
    if found is not None and not isinstance(found, str | bytes):
        wanted = "it is a path, in Parquet also bytes or {bytes, path}"
        raise SchemaError("schema.image", f"`image` is {_kind(found)}; {wanted}")
    if isinstance(found, str) and URL.match(found):
        raise ImageError("image.url", f"{found[:60]!r} is a URL; images are files: download it first")
    return found


def _items(value: dict[str, Any], name: str) -> list[Item | str]:
    found = value.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise SchemaError(f"schema.{name}", f"`{name}` is {_kind(found)}; it is an array of items")
    if set(map(type, found)) <= {str} and all(found) and "".join(found).isascii():  # as nearly always
        return found
    return [_reference(entry, name) if isinstance(entry, str | int) else item(entry) for entry in found]


def _reference(found: str | int, name: str) -> str:
    """An id in place of an item."""
    known = as_id(found)
    if known is None:
        what = _kind(found) if isinstance(found, bool) else repr(found)
        raise ItemError("item.invalid", f"`{name}`: an item is an id or an object, not {what}")
    return known


def positive_of(raw: RawRow) -> tuple[str, ...] | None:
    """The positives of a row of `rerank` that may be wrong in other ways, where they can be read."""
    try:
        return _positive(fields(raw))
    except RowError:
        return None


def _positive(value: dict[str, Any]) -> tuple[str, ...] | None:
    found = value.get("positive")
    if found is None:
        return None
    names = [as_id(name) for name in found] if isinstance(found, list) else [as_id(found)]
    known = tuple([name for name in names if name is not None])
    if len(known) != len(names):
        raise SchemaError("schema.positive", "`positive` is an id or an array of ids")
    return known


def _labels(value: dict[str, Any], given: tuple[str, ...] | None) -> tuple[str, ...] | int:
    found, count = value.get("labels"), value.get("num_candidates")
    if count is not None and (type(count) is not int or count < 1):
        raise SchemaError("schema.num_candidates", "`num_candidates` is a number of at least 1")
    if found is None:
        if count is None and given is None:
            raise SchemaError("schema.labels", "no labels: give `labels`, `num_candidates` or --labels")
        return given or () if count is None else count
    if (
        not isinstance(found, list)
        or not found
        or not all(isinstance(label, str) and label for label in found)
    ):
        raise SchemaError("schema.labels", "`labels` is an array of strings that are not empty")
    if count not in (None, len(found)):
        raise SchemaError(
            "schema.num_candidates", f"`num_candidates` is {count}, and there are {len(found)} `labels`"
        )
    return tuple(found)


class BadRows:
    """The first rows that are wrong, by the type of what is wrong with them."""

    MOST = 10

    def __init__(self, what: str) -> None:
        self._what = what
        self._counts: Counter[str] = Counter()
        self._first: list[tuple[str, str]] = []

    def add(self, place: str, error: RowError) -> None:
        """Takes note of one."""
        self._counts[error.type] += 1
        if len(self._first) < self.MOST:
            self._first.append((error.type, f"{place}: {error}"))

    def told(self) -> str | None:
        """In a line, how many there were and which was the first; None for none."""
        total = self._counts.total()
        return f"{total:,} {self._what} can't be read, first {self._first[0][1]}" if total else None

    def refuse(self) -> None:
        """Raises InputError if there was any: one in a line, of several a list."""
        total = self._counts.total()
        advice = "to record each as failed: --skip-bad-rows"
        if total == 1:
            raise InputError(f"{self._first[0][1]} ({advice})")
        if total:
            lines = [f"{total:,} {self._what} can't be read ({advice})"]
            for type, count in self._counts.items():
                shown = [line for kind, line in self._first if kind == type]
                lines.append(f"{count:,} x {type}" + (":" if shown else ""))
                lines += [f"  {line}" for line in shown]
            raise InputError("\n".join(lines))
