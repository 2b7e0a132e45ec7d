"""Runs `fastqwen report`."""

from __future__ import annotations

import logging
from pathlib import Path

from tgi_stack import logs
from tgi_stack.answers.cache_admin import open_store
from tgi_stack.commands.console import print_data
from tgi_stack.commands.reports import Report
from tgi_stack.errors import UsageError
from tgi_stack.report.contents import Order, gather
from tgi_stack.report.page.render import render
from tgi_stack.rows import output
from tgi_stack.writing import Given, refuse_present, replaced

LOG = logging.getLogger(logs.CLOSING)
SUFFIXES = (".html", ".htm")


def write_report(given: Report) -> None:
    """`fastqwen report`."""
    named = (("OUT", given.output), ("OTHER", given.other))
    inputs = [one for name, out in named for one in output.given(name, out, given.common.config)]
    inputs += [Given("--input", Path(given.input))] if given.input else []
    inputs += [Given("--items", Path(name)) for name in given.items or ()]
    if given.out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"-o {given.out}: a page is a file such as report.html")
    overwrite = given.settings.overwrite
    refuse_present("-o", given.out, inputs, overwrite=overwrite)
    store = open_store(given.settings)
    try:
        contents = gather(_order(given), store)
    finally:
        if store is not None:
            store.close()
    page = render(contents)
    with replaced("-o", given.out, overwrite=overwrite, inputs=inputs) as file:
        file.write(page)
    rows = sum(len(table["id"]) for table in contents.rows)
    for note in contents.notes:
        LOG.info(note)
    LOG.info(f"{given.out}: {rows:,} rows, {len(contents.thumbnails):,} pictures, {len(page) / 1e6:,.1f} MB")
    if given.common.json:
        print_data(
            {
                "file": str(given.out),
                "bytes": len(page),
                "rows": rows,
                "pictures": len(contents.thumbnails),
                "notes": contents.notes,
            }
        )


def _order(given: Report) -> Order:
    return Order(
        out=given.output,
        other=given.other,
        input=given.input,
        items=tuple(given.items or ()),
        images=given.images,
        no_images=given.no_images,
        thumbnails=given.thumbnails,
        limit=given.settings.limit,
        redact=given.redact,
    )
