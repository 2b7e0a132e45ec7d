"""Runs `fastqwen show`: one record as lines and a table of bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tgi_stack import logs, settings
from tgi_stack.commands.console import print_data, print_lines, print_table
from tgi_stack.commands.reports import Show
from tgi_stack.jobs.asked_again import Brought, as_asked, prompts_of
from tgi_stack.report.beside import Beside, read_beside
from tgi_stack.report.outputs import Record, candidate_order, read_record
from tgi_stack.types import Item, ProbsRow, RerankRow, SummarizeRow

BAR = 24  # characters of the likeliest


def show_record(given: Show) -> None:
    """`fastqwen show`."""
    output = read_record(given.output, given.id)
    beside = read_beside(output, given.input, given.items or ())
    record = output.records[0]
    prompts = _prompts(given) if given.prompt else []
    if given.common.json:
        print_data(record | ({"prompts": prompts} if given.prompt else {}))
        return
    print_lines(*map(_set_in, (*_asked(record, beside), *_told(record))))
    if record["status"] == "ok" and output.job != "summarize":
        print_table(_bars(record, beside))
    for number, prompt in enumerate(prompts, 1):
        print_lines("", f"prompt {number} of {len(prompts)}:", *map(logs.escaped, prompt.split("\n")))


def _set_in(line: str) -> str:
    """A value's own lines stand further in: no text of a user or a model passes for a line of ours."""
    return logs.escaped(line).replace("\n", "\n    ")


def _prompts(given: Show) -> list[str]:
    chosen = settings.load(given.flags, file=given.common.config)
    asked = as_asked(given.output, "torch", chosen, given.flags)
    return prompts_of(given.output, given.id, asked, Brought(given.input, tuple(given.items or ())))


def _asked(record: Record, beside: Beside) -> Iterator[str]:
    """What the row was, where --input brings it."""
    row = beside.rows.get(record["id"])
    if isinstance(row, SummarizeRow):
        yield from (f"{name}: {value}" for name, value in (("title", row.title), ("text", row.text)) if value)
    elif isinstance(row, RerankRow):
        yield from (f"history {place}: {_name(one, beside)}" for place, one in enumerate(row.history, 1))
        if row.query is not None:
            yield f"query: {row.query}"
    elif isinstance(row, ProbsRow):
        yield f"prompt: {row.prompt}"


def _told(record: Record) -> Iterator[str]:
    """What the record says but for its bars."""
    yield f"{record['id']}: {record['status']}"
    if error := record.get("error"):
        yield f"{error['type']}: {error['message']} (row {error['row']})"
    if record.get("summary") is not None:
        yield f"summary: {record['summary']}"
    if image := record.get("image"):
        sizes = (
            f"{image['width']} x {image['height']}, sent as {image['sent_width']} x {image['sent_height']}"
        )
        yield f"picture: {sizes}, sha256 {image['sha256'][:16]}..."
    names = ("finish_reason", "label_mass", "exact", "engine", "route", "model", "revision", "from_cache")
    found = [(name, record[name]) for name in names if record.get(name) is not None]
    yield ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in found
    )
    if usage := record.get("usage"):
        yield ", ".join(f"{name} {value:,}" for name, value in usage.items() if value is not None)
    if flags := record.get("flags"):
        yield f"flags: {', '.join(flags)}"


def _bars(record: Record, beside: Beside) -> Table:
    """A line for each candidate or label, best first; a star stands at the truth."""
    row = beside.rows.get(record["id"])
    order, is_input = candidate_order(record, row if isinstance(row, RerankRow) else None)
    places = {name: place for place, name in enumerate(order, 1)}
    right = set(record.get("positive") or ())
    lines = list(_lines(record))
    most = max((value for _, value, _ in lines if value is not None), default=0.0) or 1.0
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name in ("", "rank", "candidate", "probability", "", "input" if is_input and order else ""):
        table.add_column(name, no_wrap=name != "candidate")  # which alone gives way on a narrow terminal
    for rank, (name, value, spread) in enumerate(lines, 1):
        bar = "" if value is None else "\N{FULL BLOCK}" * round(BAR * value / most)
        number = "" if value is None else f"{value:.4f}" + ("" if spread is None else f" ± {spread:.4f}")
        said = Text(logs.escaped(_name(name, beside)), no_wrap=True, overflow="ellipsis")
        place = str(places[name]) if is_input and name in places else ""
        table.add_row("*" if name in right else "", str(rank), said, number, bar, place)
    return table


def _lines(record: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None]]:
    """Names with their probabilities and spreads, the likeliest first."""
    if "ranking" in record:
        for entry in record["ranking"]:
            yield entry["id"], entry.get("probability"), entry.get("spread")
        return
    pairs = zip(record["labels"], record["probabilities"], strict=True)
    for label, value in sorted(pairs, key=lambda pair: -pair[1]):
        yield label, value, None


def _name(entry: Item | str, beside: Beside) -> str:
    """An item as people know it, behind its id."""
    item = beside.items.get(entry, Item(entry)) if isinstance(entry, str) else entry
    known = item.title or item.summary or item.text
    return f"{item.id}: {known}" if known else item.id
