"""Proves an output from the files alone: every input row exactly once, digests hold, counts add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from tgi_stack.errors import FastqwenError, UsageError
from tgi_stack.rows.ledger import part_path
from tgi_stack.rows.looking.per_row import Duplicates
from tgi_stack.rows.manifest import Manifest, manifest_path
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.output import digest_of, records
from tgi_stack.rows.parts.output import SUCCESS
from tgi_stack.rows.reader import RawRow, Source, id_of

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked; `holds` is None where it could not be."""

    what: str
    holds: bool | None
    detail: str


def verify(out: Path) -> list[Finding]:
    """All findings about an output and what stands beside it.

    Raises:
        UsageError: no output, or no run.json beside it.
    """
    manifest = Manifest.read(out)
    if manifest is None or not out.exists():
        missing = out if manifest is not None else manifest_path(out)
        raise UsageError(f"{missing} is not there; verify wants an OUT that a job wrote with -o")
    findings = [
        Finding("complete", manifest.is_complete, f"state {manifest.content.get('state')}"),
        _whole(out, manifest),
    ]
    for look in (_digest, _input, _rows):
        try:
            findings += look(manifest)
        except (FastqwenError, ValueError, KeyError, TypeError) as error:
            findings.append(Finding(look.__name__.strip("_"), False, str(error).splitlines()[0]))
    return findings


def _whole(out: Path, manifest: Manifest) -> Finding:
    if (manifest.content.get("out") or {}).get("parts") is not None:  # of a run that marks its end
        return Finding("nothing pending", (out / SUCCESS).exists(), f"{SUCCESS} is there")
    return Finding("nothing pending", not part_path(out).exists(), f"no {part_path(out).name}")


def _digest(manifest: Manifest) -> Iterator[Finding]:
    noted = manifest.content.get("out", {}).get("sha256")
    found = digest_of(manifest.out)
    yield Finding("output digest", found == noted, f"sha256 {found[:16]}...")


def _source(manifest: Manifest) -> Source | None:
    """The input that the run read, or None for one without a name to be read again by: `-`."""
    name = manifest.content["input"]["name"]
    if name == "-":
        return None
    job = manifest.content["asked"]["job"]
    columns = manifest.content["input"]["columns"]
    return open_source(name, folders=job == "summarize", columns=columns, kind=job)


def _input(manifest: Manifest) -> Iterator[Finding]:
    source = _source(manifest)
    if source is None:
        yield Finding("input digest", None, "the input was standard input, or an object of Python")
        return
    found = source.digest()
    name = manifest.content["input"]["name"]
    yield Finding("input digest", found == manifest.content["asked"]["input"], f"{name}, {found[:16]}...")


def _rows(manifest: Manifest) -> Iterator[Finding]:
    counts = manifest.content["counts"]
    statuses: Counter[str] = Counter()
    with Duplicates() as ids:
        for number, record in enumerate(records(manifest.out), 1):
            statuses[record["status"]] += 1
            if record.get("id") is not None:
                ids.add(number, record["id"])
        twice = ids.first()
    yield Finding(
        "ids are unique", twice is None, "" if twice is None else f"records {twice[0]} and {twice[1]}"
    )
    added = statuses["ok"] + statuses["failed"]
    detail = f"{added:,} records: {statuses['ok']:,} ok, {statuses['failed']:,} failed"
    same = (statuses["ok"], statuses["failed"], added) == (counts["ok"], counts["failed"], counts["rows"])
    yield Finding("counts add up", same, detail)
    source = _source(manifest)
    if source is not None:
        yield _matched(source, manifest.out, counts["rows"], manifest.content["asked"]["job"])


def _matched(source: Source, out: Path, rows: int, job: str) -> Finding:
    count = 0
    for raw, record in zip_longest(islice(source, rows), records(out)):
        if raw is None or record is None:
            side = "output" if raw is None else "input"
            return Finding("every row once", False, f"only the {side} has a row {count + 1}")
        count += 1
        wanted = id_in_record(raw, job)
        if record.get("id") != wanted:
            detail = f"row {raw.number} is {wanted!r}, its record {record.get('id')!r}"
            return Finding("every row once", False, detail)
    return Finding("every row once", True, f"{count:,} rows in the order of the input")


def id_in_record(raw: RawRow, job: str) -> str | None:
    """The id that a row's record bears; prompts without one are known by their number."""
    if job == "probs" and isinstance(raw.value, dict) and "prompt" in raw.value and "id" not in raw.value:
        return str(raw.number)
    return id_of(raw)
