"""Prints what a demo run wrote as tables: `python examples/show.py SUMMARIES RANKED ITEMS`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SHOWN = 12


def read(path: str) -> list[dict[str, Any]]:
    """The records of a JSON lines file."""
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def summaries_table(records: list[dict[str, Any]]) -> Table:
    """The first summaries, spread over the catalogue."""
    table = Table("image", "size", "summary", title=f"{SHOWN} of {len(records)} summaries")
    for record in records[:: max(1, len(records) // SHOWN)][:SHOWN]:
        size = "x".join(str(record["image"][side]) for side in ("width", "height"))
        table.add_row(record["id"], size, record["summary"])
    return table


def ranking_table(record: dict[str, Any], names: dict[str, str]) -> Table:
    """One session's candidates, best first; a star stands at the item that the shopper took."""
    title = (
        f"session {record['id']}: {len(record['ranking'])} candidates, label mass {record['label_mass']:.3f}"
    )
    table = Table("rank", "probability", "candidate", "", title=title)
    for entry in record["ranking"][:5]:
        taken = "*" if entry["id"] in record.get("positive", []) else ""
        name = names.get(entry["id"], "")
        table.add_row(str(entry["rank"]), f"{entry['probability']:.4f}", f"{entry['id']}: {name}", taken)
    return table


def main() -> None:
    """Prints both tables and how many sessions put a positive first."""
    summaries, ranked, items = (read(path) for path in sys.argv[1:4])
    names = {item["id"]: item.get("title", "") for item in items}
    names |= {record["id"]: record["summary"] for record in summaries if record["status"] == "ok"}
    console = Console()
    console.print(summaries_table([record for record in summaries if record["status"] == "ok"]))
    answered = [record for record in ranked if record["status"] == "ok"]
    console.print(ranking_table(answered[0], names))
    first = sum(record["ranking"][0]["id"] in record["positive"] for record in answered)
    console.print(f"{first} of {len(answered)} sessions rank the item first that the shopper took")


if __name__ == "__main__":
    main()
