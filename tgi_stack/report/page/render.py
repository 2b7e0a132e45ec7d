"""The page: one HTML file, drawn by Jinja2 with autoescape, that is allowed to load nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tgi_stack import __version__
from tgi_stack.report.contents import Contents, OneRun
from tgi_stack.report.outputs import MEASURE
from tgi_stack.report.page import charts, numbers, packed
from tgi_stack.report.pairs import Pair

FOLDER = Path(__file__).resolve().parent
# Operators of the script that need no space around them; in none of its strings do they have one.
TIGHT = ("=>", "===", "!==", "==", "!=", "&&", "||", "??", "??=", "||=", "+=", "-=", ">=", "=")


@dataclass(frozen=True)
class View:
    """A part of the page that is shown at a time."""

    name: str
    title: str
    count: int | None = None


@dataclass(frozen=True)
class Listed:
    """A view of rows, which the page's script draws.

    Attributes:
        fields: what stands in the file that the page writes of them: heading and column.
        facts: what is told of one row beside its answer: name and column.
        sorts: columns that pictures can be sorted by.
        columns: column, heading, class of a table; pictures have none.
    """

    name: str
    title: str
    filters: list[str]
    fields: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    sorts: Sequence[tuple[str, str]] = ()
    columns: Sequence[tuple[str, str, str]] = ()


VIEWS = {
    "summarize": ("gallery", "Gallery"),
    "rerank": ("rankings", "Rankings"),
    "probs": ("prompts", "Prompts"),
}
SORTS = (("id", "id"), ("length", "longest"), ("pixels", "largest"), ("doubts", "flags"))
RANKED = (
    ("id", "row", "key"),
    ("first", "first", "wide"),
    ("spark", "probabilities", "spark"),
    ("top", "p(first)", "n"),
    ("truth", "truth at", "n"),
    ("count", "candidates", "n more"),
    ("mass", "mass", "n more"),
    ("doubts", "flags", "flagged"),
)
COMMON = [
    ("from cache", "cached"),
    ("route", "route"),
    ("tokens read", "read"),
    ("tokens written", "written"),
]
FACTS = {
    "summarize": [("title", "title"), ("size", "size"), ("sent", "sent"), ("ended by", "ended"), *COMMON],
    "rerank": [
        ("truth at", "truth"),
        ("label mass", "mass"),
        ("exact", "exact"),
        ("difference of NDCG", "delta"),
        *COMMON,
    ],
    "probs": [("label mass", "mass"), ("exact", "exact"), *COMMON],
}
STATES = [(name, name) for name in ("id", "status", "error", "flags", "cached")]
FIELDS = {
    "summarize": [*STATES, ("summary", "summary"), ("size", "size")],
    "rerank": [
        *STATES,
        ("first", "first"),
        ("probability", "top"),
        ("truth_at", "truth"),
        ("candidates", "count"),
        ("label_mass", "mass"),
    ],
    "probs": [*STATES, ("label", "first"), ("probability", "top"), ("label_mass", "mass")],
}


def render(contents: Contents) -> bytes:
    """The page, UTF-8."""
    script, style = (_own(name) for name in ("page.js", "page.css"))
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    template = environment.get_template("page.html")
    second = contents.runs[1] if len(contents.runs) > 1 else None
    listed = list(_listed(contents))
    text = template.render(
        policy=policy(script, style),
        version=__version__,
        script=Markup(script),  # noqa: S704  # our own file
        style=Markup(style),  # noqa: S704
        head=packed.packed(_head(contents)),
        items=packed.whole(contents.items),
        blocks=packed.blocks(contents.rows[0]),
        thumbnails=contents.thumbnails,
        job=contents.job,
        runs=contents.runs,
        first=contents.runs[0],
        second=second,
        identity=list(_identity(contents.runs[0])),
        views=list(_views(contents, listed)),
        lists=listed,
        notes=contents.notes,
        show=contents.show,
        folder=contents.offers_folder,
        measures=contents.runs[0].measures,
        charts=_charts(contents),
        trust=list(_trust(contents)),
        pairs=contents.pairs,
        measure=MEASURE,
        compared=list(numbers.compared(contents)),
        compared_note=_compared_note(contents),
        losses=[(*_linked(contents, one), one) for one in contents.pairs.losses()] if contents.pairs else [],
        difference_rows=_differences(contents),
        **_HELPERS,
    )
    return text.encode("utf-8", "replace")


def policy(script: str, style: str) -> str:
    """What the page may do: run this script, use this style, show pictures that it holds or is given."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _own(name: str) -> str:
    """A file of the page, without what only its authors read."""
    lines = (line.strip() for line in (FOLDER / name).read_text(encoding="utf-8").splitlines())
    text = "\n".join(line for line in lines if line and not line.startswith("// "))
    for operator in TIGHT if name.endswith(".js") else ():
        text = text.replace(f" {operator} ", operator)
    return text


def _head(contents: Contents) -> dict[str, Any]:
    """What the page's script reads first. Rows of another output stand in those of the first: see `pairs`."""
    listed = {
        one.name: {"fields": one.fields, "facts": one.facts, "columns": one.columns}
        for one in _listed(contents)
    }
    return {
        "job": contents.job,
        "other": contents.runs[1].name if len(contents.runs) > 1 else None,
        "lists": listed,
        "rows": packed.head(contents.rows[0]),
        "size": packed.ROWS,
        "show": contents.show,
    }


def _code(text: str) -> Markup:
    """Words between backticks as code."""
    parts = enumerate(text.split("`"))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in parts
    )


# -- views -----------------------------------------------------------------------------------------------


def _views(contents: Contents, listed: Sequence[Listed]) -> Iterator[View]:
    yield View("overview", "Overview")
    for one in listed:
        table = contents.items if one.name == "items" else contents.rows[0]
        yield View(one.name, one.title, len(table["id"]) if one.name != "items" else None)
    if contents.pairs is not None:
        yield View("compare", "Compared", len(contents.pairs.pairs))
    if any(True for _ in _trust(contents)):
        yield View("trust", "Bias and calibration")
    yield View("errors", "Errors", sum(run.counts.failed for run in contents.runs))
    yield View("run", "Run")


def _listed(contents: Contents) -> Iterator[Listed]:
    job, tags = contents.job, contents.tags
    name, title = VIEWS[job]
    columns = (
        ()
        if job == "summarize"
        else [one for one in RANKED if job == "rerank" or one[0] not in ("truth", "count")]
    )
    yield Listed(name, title, tags, FIELDS[job], FACTS[job], SORTS if job == "summarize" else (), columns)
    shown = ("title", "summary", "text", "thumb")
    if job == "rerank" and any(value is not None for field in shown for value in contents.items[field]):
        fields = [("id", "id"), ("title", "title"), ("summary", "summary")]
        yield Listed("items", "Items", [], fields, [("title", "title"), ("text", "text")], SORTS[:1])


def _identity(run: OneRun) -> Iterator[str]:
    facts = dict(run.facts)
    for name in ("model", "engine", "dtype"):
        if name in facts:
            yield facts[name]
    if "started" in facts:
        yield facts["started"].replace("T", " ")[:16]


# -- figures ---------------------------------------------------------------------------------------------


def _charts(contents: Contents) -> dict[str, Any]:
    runs = [run for run in contents.runs if run.measures]
    found = contents.pairs
    deltas = [pair.delta for pair in found.pairs if pair.delta is not None] if found else []
    noise = found.noise if found else None
    return {
        "measures": _svg(charts.intervals([(run.name, run.measures) for run in runs])) if runs else None,
        "paces": [(run, _svg(charts.pace(run.pace))) for run in contents.runs if run.pace],
        "waterfall": _svg(charts.waterfall(deltas, noise)) if deltas else None,
    }


def _trust(contents: Contents) -> Iterator[tuple[OneRun, dict[str, Any]]]:
    for run in contents.runs:
        drawn = {
            "reliability": _svg(charts.reliability(run.calibration)) if run.calibration else None,
            "positions": _svg(charts.position_bars(run.bias)) if run.bias else None,
            "labels": _svg(charts.label_map(run.bias)) if run.bias else None,
            "heat": _svg(charts.heat_map(run.bias)) if run.bias else None,
            "masses": _svg(charts.histogram(run.masses, "label mass", "Label mass of the answers"))
            if run.masses
            else None,
        }
        if any(drawn.values()):
            yield run, drawn


def _svg(drawn: str) -> Markup:
    return Markup(drawn)  # noqa: S704  # written by ElementTree, which escapes


def _stack(run: OneRun) -> Markup:
    """The line of conservation as a bar."""
    counts = run.counts
    parts = [
        ("ok", counts.ok - counts.cached),
        ("hit", counts.cached),
        ("failed", counts.failed),
        ("pending", counts.pending),
    ]
    x, drawn = 0.0, ""
    for kind, count in parts:
        wide = 100 * count / max(1, counts.rows)
        drawn += f'<rect x="{x:.3f}" width="{wide:.3f}" height="10" class="{kind}"></rect>'
        x += wide
    return Markup(f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>')  # noqa: S704


def _compared_note(contents: Contents) -> str:
    found = contents.pairs
    if found is None:
        return ""
    said = [
        f"{found.only_here:,} rows in the first alone, {found.only_there:,} in the second alone",
        f"{found.not_compared:,} failed in one of them",
    ]
    if contents.job == "rerank" and contents.runs[0].judged:
        if found.noise is None:
            said.append("no noise band: neither run has several reads a row (--permutations)")
        else:
            said.append(
                f"differences of the mean under {found.noise:.4f} may be noise: the order of candidates alone"
            )
    return "; ".join(said) + "."


def _linked(contents: Contents, pair: Pair) -> tuple[str, str]:
    """A row's id, and where in the page it is shown."""
    name = str(contents.rows[0]["id"][pair.here])
    return name, "#" + urlencode({"view": VIEWS[contents.job][0], "id": name}, errors="replace")


def _differences(contents: Contents) -> list[list[str]]:
    found = contents.pairs.differences if contents.pairs else {}
    return [[name, f"{one.mean:+.4f}", f"{one.low:+.4f}", f"{one.high:+.4f}"] for name, one in found.items()]


_HELPERS: dict[str, Any] = {
    "stack": _stack,
    "tiles": numbers.tiles,
    "pace_rows": numbers.pace_rows,
    "bin_rows": numbers.bin_rows,
    "place_rows": numbers.place_rows,
    "label_rows": numbers.label_rows,
    "heat_head": numbers.heat_head,
    "heat_rows": numbers.heat_rows,
    "mass_rows": numbers.mass_rows,
}
