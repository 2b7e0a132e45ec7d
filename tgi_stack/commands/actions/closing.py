"""What a run ends with on a terminal: a panel that says where its time went."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tgi_stack.backends.work import Server
from tgi_stack.commands.progress import spoken
from tgi_stack.jobs.tally import Tally
from tgi_stack.logs import escaped

BAR = 24  # characters of all the time
STYLE: Any = {"box": None, "header_style": "dim", "padding": (0, 2, 0, 0)}
SAID = {
    "preparing": "rows, prompts, pictures, the cache",
    "waiting": "for a place where it is computed",
    "computing": "at servers, or in this process",
    "writing": "records",
}


def show(title: str, tally: Tally, took_s: float) -> None:
    """The panel, on stderr."""
    if sys.stderr is not None:
        Console(file=sys.stderr, highlight=False).print(panel(title, tally, took_s))


def panel(title: str, tally: Tally, took_s: float) -> Panel:
    """How fast the run was, how rows spent their time, what each of several servers did."""
    parts: list[Text | Table] = [Text(", ".join(_speed(tally, took_s)))]
    if sum(tally.times().values()):
        parts += [Text(), _times(tally)]
    if len(tally.backend.work.servers) > 1:
        parts += [Text(), _servers(tally.backend.work.servers, took_s)]
    return Panel(Group(*parts), title=title, title_align="left", expand=False, border_style="dim")


def _speed(tally: Tally, took_s: float) -> Iterator[str]:
    done, spent = tally.ok + tally.failed - tally.kept, max(took_s, 1e-9)
    yield f"{done:,} rows in {spoken(took_s)}"
    yield f"{done / spent:,.1f} rows/s"
    tokens = tally.prompt_tokens + tally.completion_tokens
    if tokens:
        yield f"{tokens:,} tokens, {tokens / spent:,.0f} tokens/s"
    if tally.cached:
        yield f"{tally.cached / max(1, tally.ok):.0%} from cache"


def _times(tally: Tally) -> Table:
    """Of the time that rows took, all of them together."""
    times = tally.times()
    whole = sum(times.values())
    table = Table(
        "where rows spent their time", "", "", "", box=None, header_style="dim", padding=(0, 2, 0, 0)
    )
    table.columns[2].justify = "right"
    for name, seconds in times.items():
        share = seconds / whole
        bar = "\N{FULL BLOCK}" * round(BAR * share)
        table.add_row(name, bar, f"{share:.0%}", Text(SAID[name], style="dim"))
    return table


def _servers(servers: Sequence[Server], took_s: float) -> Table:
    table = Table("server", **STYLE)
    for name in ("answers", "answers/s", "failed"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in servers:
        rate = one.answers / max(took_s, 1e-9)
        state = "" if one.state == "up" else one.state
        table.add_row(Text(escaped(one.url)), f"{one.answers:,}", f"{rate:,.1f}", f"{one.misses:,}", state)
    return table
