"""All that a report shows, as plain data: from one output or two, and from what stands beside them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.store import Store
from tgi_stack.report import figures, pairs, run
from tgi_stack.report.beside import Beside, read_beside
from tgi_stack.report.items import Items
from tgi_stack.report.mask import Mask
from tgi_stack.report.outputs import Output, read_output
from tgi_stack.report.table import Columns, Lists, changes, columns, ranks_before
from tgi_stack.report.thumbnails import KeptPictures, Picture, Thumbnails, draw, inside
from tgi_stack.scoring import metrics
from tgi_stack.scoring.metrics import Estimate
from tgi_stack.types import SummarizeRow


@dataclass(frozen=True)
class Order:
    """What a report is asked to show; see `fastqwen report --help`."""

    out: Path
    other: Path | None = None
    input: str | None = None
    items: Sequence[str] = ()
    images: Path | None = None
    no_images: bool = False
    thumbnails: int = 1000
    limit: int | None = None
    redact: bool = False


@dataclass(frozen=True)
class OneRun:
    """What is told of one output."""

    name: str
    counts: run.Counts
    facts: list[tuple[str, str]]
    pace: list[run.Pace]
    causes: list[run.Cause]
    flagged: list[run.Flagged]
    measures: dict[str, Estimate]
    judged: int  # rows with a truth
    bias: figures.Bias | None
    calibration: figures.Calibration | None
    masses: list[int] | None
    tokens: tuple[int, int]  # of prompts, of answers


@dataclass(frozen=True)
class Contents:
    """A report before it is a page.

    Attributes:
        runs: one, or two that are compared.
        rows: a list for each field of the rows of each run; see `table.columns`.
        items: what rows of `rerank` point into.
        notes: what the page can't show, and what would bring it.
        show: the command that shows a row, but for its id; nothing where ids are hidden.
    """

    job: str
    runs: list[OneRun]
    rows: list[Columns]
    items: Columns
    tags: list[str]
    thumbnails: list[str]
    pairs: pairs.Pairs | None
    notes: list[str]
    show: list[str]
    offers_folder: bool


@dataclass
class _Gathering:
    """What a report is made from."""

    order: Order
    outputs: list[Output]
    besides: list[Beside]
    lists: Lists
    notes: list[str] = field(default_factory=list)


def gather(order: Order, store: Store | None) -> Contents:
    """Reads the outputs and what stands beside them.

    Args:
        store: the cache, where prepared images may be found.

    Raises:
        UsageError: no output, one of another job, a file that the run did not read.
        InputError: what can't be read.
    """
    outputs = [read_output(path, order.limit) for path in (order.out, order.other) if path is not None]
    beside = read_beside(outputs[0], order.input, order.items)
    besides = [
        beside if beside.is_of(outputs[0], output) else Beside(items=beside.items) for output in outputs
    ]
    mask = Mask(order.redact)
    found = _Gathering(order, outputs, besides, Lists(mask, Items(beside.items, mask)))
    compared = pairs.compare(*outputs) if len(outputs) == 2 else None
    both = [compared.pairs if compared else (), ()]
    rows = [
        columns(one, near, found.lists, in_both)
        for one, near, in_both in zip(outputs, besides, both, strict=False)
    ]
    found.lists.items.all_known()
    items = found.lists.items.columns()
    if compared is not None:
        _against(outputs[0].job, rows, items, order)
    pictures = _pictures(found, store, rows, items)
    found.notes += _missing(found)
    return Contents(
        outputs[0].job,
        [_told(output, mask) for output in outputs],
        rows,
        items,
        found.lists.tags.words,
        pictures.base64,
        compared,
        found.notes,
        [] if order.redact else _show(order),
        not order.redact and (bool(pictures.left or pictures.missing) or not pictures.base64),
    )


def _against(job: str, rows: list[Columns], items: Columns, order: Order) -> None:
    """What rows show of the other output."""
    if job != "summarize":
        ranks_before(rows[0], rows[1], items)
    elif not order.redact:
        changes(rows[0], rows[1])


def _told(output: Output, mask: Mask) -> OneRun:
    measures: dict[str, Estimate] = {}
    judged = 0
    calibration = None
    if output.job == "rerank":
        judged = len(output.rankings.relevant)
        if judged:
            measures = {
                name: metrics.estimate(list(found.values())) for name, found in output.measured.items()
            }
        calibration = figures.calibration(output.records)
    usage = [record.get("usage") or {} for record in output.records]
    tokens = [sum(one.get(f"{name}_tokens") or 0 for one in usage) for name in ("prompt", "completion")]
    return OneRun(
        "OUT" if mask.hides else output.path.name,
        run.counts(output),
        list(run.facts(output, mask)),
        run.pace(output),
        run.causes(output.records, mask),
        run.flagged(output.records),
        measures,
        judged,
        None if output.job == "summarize" else figures.bias(output, mask),
        calibration,
        figures.masses(output.records),
        (tokens[0], tokens[1]),
    )


def _show(order: Order) -> list[str]:
    """`fastqwen show OUT`, with the files that were given."""
    given = ["--input", order.input] if order.input is not None else []
    for name in order.items:
        given += ["--items", name]
    return [shlex.join(["fastqwen", "show", str(order.out)]), shlex.join(given)]


# -- pictures --------------------------------------------------------------------------------------------


def _pictures(found: _Gathering, store: Store | None, rows: list[Columns], items: Columns) -> Thumbnails:
    """Draws the thumbnails; rows and items get a column that says which is theirs, and one with the file's
    path, by which the page can find it in a folder that its reader names."""
    order, outputs = found.order, found.outputs
    drawn = Thumbnails()
    shows = not order.no_images and not order.redact
    summaries = outputs[0].job == "summarize"
    places = (
        [list(_of_rows(found, turn)) for turn in range(len(outputs))]
        if summaries
        else [list(_of_items(found))]
    )
    flat = [one for several in places for one in several]
    if shows:
        drawn = draw([picture for picture, _ in flat], KeptPictures(store, outputs[0]), order.thumbnails)
        found.notes += _told_of_pictures(drawn)
    thumbs = iter(drawn.places or [None] * len(flat))
    for table, several in zip(rows if summaries else [items], places, strict=True):
        table["thumb"] = [next(thumbs) for _ in several]
        table["file"] = [path if shows else None for _, path in several]
    return drawn


def _of_rows(found: _Gathering, turn: int) -> Iterator[tuple[Picture, str | None]]:
    beside = found.besides[turn]
    for record in found.outputs[turn].records:
        name = record.get("id") or ""
        row = beside.rows.get(name)
        image = row.image if isinstance(row, SummarizeRow) else None
        yield _picture(
            found.order.images, name, image, beside.base, (record.get("image") or {}).get("sha256")
        )


def _of_items(found: _Gathering) -> Iterator[tuple[Picture, str | None]]:
    for item in found.lists.items.items:
        image = item.image if isinstance(item.image, str | bytes) else None
        yield _picture(found.order.images, item.id, image, found.besides[0].base)


def _picture(
    folder: Path | None, id: str, image: str | bytes | None, base: Path, sha256: str | None = None
) -> tuple[Picture, str | None]:
    """Where a picture is: in --images under the row's own path or its id, else where the input says."""
    path = image if isinstance(image, str) else None
    file: Path | bytes | None = None
    if folder is not None:
        tried = [one for name in (path, id) if name and (one := inside(folder, name)) is not None]
        file = next((one for one in tried if one.is_file()), None)
    if file is None and image is not None:
        file = image if isinstance(image, bytes) else base / image
    return Picture(file, sha256), path or id


def _told_of_pictures(drawn: Thumbnails) -> Iterator[str]:
    if drawn.left:
        yield (
            f"{drawn.left:,} pictures are not in this file, to keep it small: --thumbnails N brings more; "
            "the button above the pictures draws them from a folder on this computer"
        )
    for type, count in drawn.missing.most_common():
        yield f"{count:,} pictures are not shown ({type}): --images DIR, or --input where they have moved"


# -- what is not there -----------------------------------------------------------------------------------


def _missing(found: _Gathering) -> Iterator[str]:
    order, output, beside = found.order, found.outputs[0], found.besides[0]
    if order.redact:
        yield "Redacted: ids are hashes of this page alone; texts, file names and pictures are left out"
    if any(one.is_cut for one in found.outputs):
        yield f"Only the first {order.limit:,} rows are shown and counted (--limit)"
    for one in found.outputs:
        if not one.noted:
            yield f"{_name(one, order)} has no run.json: who answered, when and how fast is not known"
        elif not one.noted.get("timeline"):
            yield f"{_name(one, order)}: its run.json has no timeline (an earlier version wrote it)"
    if not order.redact:
        yield from _not_given(output, beside)
    if len(found.outputs) == 2 and not beside.is_of(output, found.outputs[1]):
        yield "The outputs are of different inputs: what --input brings is shown for the first alone"
    if output.job == "rerank" and not any(record.get("positive") for record in output.records):
        yield "No row has `positive`: there is nothing to measure rankings or probabilities against"


def _not_given(output: Output, beside: Beside) -> Iterator[str]:
    held = {
        "summarize": "titles and texts of the rows",
        "rerank": "histories and queries",
        "probs": "prompts",
    }[output.job]
    if not beside.has_input:
        name = (output.noted.get("input") or {}).get("name")
        which = "" if name in (None, "-") else f" (the run read {name})"
        yield f"Without --input: {held}{which}"
    if output.job == "rerank" and not beside.has_items:
        yield "Without --items: titles, summaries and pictures of the candidates"


def _name(output: Output, order: Order) -> str:
    return "An output" if order.redact else output.path.name
