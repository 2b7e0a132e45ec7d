"""The table of a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

TITLES = {"text": "prompts", "vision": "summaries"}


def tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """A table for each kind of task, the baseline's rate as 1.0; rows that can't run say why below it."""
    for kind, noun in TITLES.items():
        lines = [line for line in results["lines"] if line["kind"] == kind]
        if lines:
            yield _table(results, noun, lines)


def missing(results: Mapping[str, Any]) -> str:
    """A line that names the rows which were not reached; empty where all were."""
    if not results:
        return "stopped before the first row was measured"
    return f"stopped; not measured: {', '.join(results['missing'])}" if results["missing"] else ""


def _table(results: Mapping[str, Any], noun: str, lines: Sequence[Mapping[str, Any]]) -> Table:
    weights = " (random weights: speed does not depend on them)" if results["random_weights"] else ""
    place = f"{results['device']}, {results['dtype']}, torch {results['torch']}"
    table = Table(
        "optimisation",
        f"{noun}/s",
        "range",
        "over",
        "speed-up",
        "the guide expects",
        "of the floor",
        "peak MiB",
        "memory",
        "ready after s",
        "apart from fp32",
        "same as fp32",
        "right",
        title=f"{results['model']}{weights}: {place}",
        caption=Text("\n".join(f"{line['name']}: {line['reason']}" for line in lines if line["reason"])),
        caption_justify="left",
    )
    for line in sorted((line for line in lines if not line["reason"]), key=lambda line: line["rate"]):
        table.add_row(*_cells(line))
    return table


def _cells(line: Mapping[str, Any]) -> list[str]:
    expected = ", ".join(filter(None, (line["expected"], line["expected_memory"])))
    low, high = line["range"]
    return [
        line["name"],
        f"{line['rate']:.2f}",
        f"{low:.2f}-{high:.2f}",
        f"{line['passes']} x {line['requests']:,}",
        _formatted(line["speed_up"], "{:.2f}x"),
        expected,
        _formatted(line["of_floor"], "{:.0%}"),
        _formatted(line["peak_mib"], "{:.0f}"),
        _formatted(line["memory_change"], "{:+.0%}"),
        f"{line['ready_s']:.1f}",
        _formatted(line["apart"], "{:.1e}"),
        _formatted(line["agreement"], "{:.0%}"),
        _formatted(line["right"], "{:.0%}"),
    ]


def _formatted(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
