"""Some rows of a finished output, asked again elsewhere: a second opinion, for `fastqwen compare --against`.

`run.json` says how they were asked. The cache is left out: what it holds may be the very answer that is in
doubt.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import orjson

from tgi_stack.backends.base import Backend
from tgi_stack.backends.open import open_backend
from tgi_stack.declared.option import declared
from tgi_stack.declared.run import Fields
from tgi_stack.errors import AnswerError, InputError, UsageError
from tgi_stack.jobs.pipeline import answered
from tgi_stack.jobs.session import Session
from tgi_stack.jobs.spec import JobSpec, Name, opened
from tgi_stack.prompting.template_file import digest_of, text_of
from tgi_stack.rows.formats import Rows
from tgi_stack.rows.ledger import Checked, Discard, record_of
from tgi_stack.rows.manifest import Manifest, manifest_path
from tgi_stack.rows.output import records
from tgi_stack.rows.reader import Folder, RawRow, Source
from tgi_stack.rows.verify import id_in_record
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

LOG = logging.getLogger(__name__)
Record = dict[str, Any]

# Of a run that only asks some rows again, whatever the settings say.
OF_THIS_RUN: dict[str, Any] = {
    "no_cache": True,
    "offline": False,
    "dry_run": False,
    "limit": None,
    "skip_bad_rows": True,
    "unordered": False,
}


@dataclass(frozen=True)
class Brought:
    """What was given in place of files that run.json names and that are elsewhere now."""

    input: str | None = None
    items: tuple[str, ...] = ()


@dataclass
class Collected(Discard):
    """Keeps records by the numbers of their rows, and who answered."""

    records: dict[int, Record] = field(default_factory=dict)
    identity: Identity | None = None

    def begin(self, identity: Identity, checked: Checked) -> None:
        self.identity = identity

    def write(self, number: int, record: Record) -> None:
        self.records[number] = record

    def write_lines(
        self, numbers: Sequence[int], lengths: Sequence[int], lines: bytes, failed: Container[int] = ()
    ) -> None:
        found = lines.splitlines(keepends=True)
        self.records |= {
            number: orjson.loads(record_of(line)) for number, line in zip(numbers, found, strict=True)
        }


class Chosen(Source):
    """Some rows of a source, under the numbers that they have there."""

    def __init__(self, source: Source, numbers: Container[int]) -> None:
        super().__init__(source.base, source.name, (), source.wanted)
        self._source = source
        self._numbers = numbers

    def _read(self, done: Container[int]) -> Rows:
        for raw in self._source.rows(_Others(self._numbers)):
            if raw.number in self._numbers:
                yield raw.number, None if raw.number in done else raw.value, None

    def _digest(self) -> str:
        return self._source.digest()


class _Others:
    """All numbers but some."""

    def __init__(self, numbers: Container[int]) -> None:
        self._numbers = numbers

    def __contains__(self, number: object) -> bool:
        return number not in self._numbers


@dataclass(frozen=True)
class Again:
    """Rows that are to be asked again, and their records."""

    spec: JobSpec
    source: Source
    records: dict[int, Record]
    rows: int  # that could be chosen

    def ask(self) -> tuple[Collected, Session]:
        """Asks them, in an event loop of its own.

        Raises:
            FastqwenError: nobody can be asked.
        """
        sink = Collected()
        session = Session(self.spec, self.source, sink)
        session.count()
        asyncio.run(session.answer_once(None))
        return sink, session


def chosen(out: Path, sample: int, settings: Settings, brought: Brought) -> Again:
    """Rows of an output, each as it was asked, chosen by the digests of their ids.

    The same rows are chosen of every output of one input.

    Args:
        settings: see `as_asked`.

    Raises:
        UsageError: run.json does not say enough, or what is there now is not what was asked.
        InputError: no row was answered, or what is there can't be read.
    """
    manifest = manifest_of(out)
    job = job_name(manifest)
    name, items, columns = _places(manifest, brought)
    spec, source = opened(job, name, items, columns, settings)
    _refuse_changed(manifest, source, spec.items)
    count = 0

    def answered() -> Iterator[tuple[int, Record]]:
        nonlocal count
        for number, record in _matched(source, out, job):
            if record.get("status") == "ok":
                count += 1
                yield number, record

    found = heapq.nsmallest(sample, answered(), key=lambda one: _draw(one[1]["id"]))
    if not found:
        raise InputError(f"{out}: no row was answered, so that there is nothing to ask again")
    kept = dict(sorted(found, key=lambda one: one[0]))
    return Again(spec, Chosen(source, kept), kept, count)


class _Noting:
    """A backend that notes what it is asked, and answers nothing."""

    takes_tokens = True

    def __init__(self, known: Backend) -> None:
        self.identity = known.identity
        self.profile = known.profile
        self.max_concurrency = 1
        self.prompts: list[str] = []

    async def score(self, request: ScoreRequest) -> LabelScores:
        self.prompts.append(request.prompt)
        raise AnswerError("offline.miss", "only noted")

    async def caption(self, request: CaptionRequest) -> Caption:
        self.prompts.append(request.prompt)
        raise AnswerError("offline.miss", "only noted")

    async def aclose(self) -> None:
        pass


def prompts_of(out: Path, id: str, settings: Settings, brought: Brought) -> list[str]:
    """What was asked for a row: its prompts as they were sent, control tokens included; nothing is computed.

    Args:
        settings: see `as_asked`.

    Raises:
        UsageError: as `chosen`; no such row.
    """
    manifest = manifest_of(out)
    job = job_name(manifest)
    name, items, columns = _places(manifest, brought)
    spec, source = opened(job, name, items, columns, settings)
    _refuse_changed(manifest, source, spec.items)
    raw = next((row for row in source if id_in_record(row, job) == id), None)
    if raw is None:
        raise UsageError(f"{source.name} has no row {id!r}")
    return asyncio.run(_noted(spec, raw))


async def _noted(spec: JobSpec, raw: RawRow) -> list[str]:
    backend = await open_backend(spec.settings, spec.kind)
    noting = _Noting(backend)
    job = spec.job(noting, None)
    try:
        await answered(job, raw)
    finally:
        await job.aclose()
        await backend.aclose()
    return noting.prompts


def manifest_of(out: Path) -> Manifest:
    """What is kept beside a finished output; raises UsageError where that is not there."""
    manifest = Manifest.read(out)
    if manifest is None:
        raise UsageError(
            f"{manifest_path(out)} is not there; it says how rows are asked again. Give an OUT that a job "
            "wrote with -o"
        )
    if not manifest.is_complete:
        raise UsageError(f"{out} is not finished; the same command goes on with it")
    return manifest


def job_name(manifest: Manifest) -> Name:
    """The job that an output is of."""
    job = manifest.content.get("asked", {}).get("job")
    found: Name | None = next((one for one in get_args(Name) if one == job), None)
    if found is None:
        raise UsageError(f"{manifest_path(manifest.out)} names no job")
    return found


def as_asked(out: Path, against: str, chosen_settings: Settings, flags: Mapping[str, Any]) -> Settings:
    """The settings that an output was made with, and in place of its engine another one.

    Args:
        against: `torch`, or the URL of a server.
        chosen_settings: what flags, variables and the settings' file say; of these counts what does not
            change answers.
        flags: settings that are given in place of those of the run, and where its prompt file is now.

    Raises:
        UsageError: the prompt file is not there, or not the same.
    """
    manifest = manifest_of(out)
    asked = manifest.content["asked"]
    known = declared(Fields)
    then = {name: asked[one.flag] for name, one in known.items() if one.flag in asked}
    if then.get("prompt_file") is not None:
        then["prompt_file"] = _prompt_file(manifest, flags.get("prompt_file"))
    if against == "torch":
        then |= {"engine": "torch", "endpoint": ()} | _model(manifest, then)
    elif "://" in against:
        then |= {"engine": "auto", "endpoint": (against,)}
    else:
        raise UsageError(f"--against {against}: give torch, or the URL of a server")
    given = {name: value for name, value in flags.items() if value is not None}
    if "model" in given and "revision" not in given:
        given["revision"] = None
    return Settings(**(chosen_settings.model_dump() | then | given | OF_THIS_RUN))


def _model(manifest: Manifest, then: Mapping[str, Any]) -> dict[str, Any]:
    """The model that torch is to load: the one that was named, else the one that answered."""
    if any(then.get(name) for name in ("model", "text_model", "vision_model")):
        return {}
    identity = manifest.content.get("identity") or {}
    name = identity.get("root") or identity.get("model")
    return {} if name is None else {"model": name}


def _prompt_file(manifest: Manifest, given: str | None) -> Path:
    named = manifest.content.get("prompt_file")
    path = Path(given or named or "")
    if not path.is_file():
        raise UsageError(f"{manifest.out} was asked with a prompt file; name it: --prompt-file FILE")
    if digest_of(text_of(path)) != manifest.content["asked"]["--prompt-file"]:
        raise UsageError(
            f"{path} is not the prompt file that {manifest.out} was asked with; --prompt-file FILE"
        )
    return path


def _places(manifest: Manifest, brought: Brought) -> tuple[str, Sequence[str], Mapping[str, str]]:
    """Where the input and the items are, and how their columns are named."""
    said = manifest.content.get("input") or {}
    name = brought.input or said.get("name")
    if name is None or name == "-":
        raise UsageError(
            f"{manifest.out} was made from standard input or in Python; bring its rows: --input FILE"
        )
    items: Sequence[str] = brought.items
    if not items:
        wanted = manifest.content["asked"].get("items") or []
        items = [one["name"] for one in manifest.content.get("items") or []]
        if len(items) != len(wanted):
            raise UsageError(f"{manifest.out} was asked with items; bring them: --items FILE")
        if "-" in items:
            raise UsageError(
                f"the items of {manifest.out} came from standard input or Python; bring them: --items FILE"
            )
    return name, items, said.get("columns") or {}


def _refuse_changed(manifest: Manifest, source: Source, items: Sequence[Source]) -> None:
    """Raises UsageError where files are not what the run read."""
    asked = manifest.content["asked"]
    if source.digest() != asked["input"]:
        if not isinstance(source, Folder):
            raise UsageError(
                f"{source.name} is not the input of {manifest.out} any more; bring it: --input FILE"
            )
        # Of a folder the times of its files count, which copies don't keep; each image has its own digest.
        LOG.warning(f"{source.name} was changed since; images that differ are not compared")
    if [one.digest() for one in items] != asked.get("items", []):
        raise UsageError(f"the items are not those of {manifest.out} any more; bring them: --items FILE")


def _matched(source: Source, out: Path, job: str) -> Iterator[tuple[int, Record]]:
    """The number of each row, with its record."""
    rows = iter(source)
    for record in records(out):
        raw = next(rows, None)
        if raw is None or id_in_record(raw, job) != record.get("id"):
            place = "ends early" if raw is None else f"has {id_in_record(raw, job)!r} in row {raw.number}"
            raise UsageError(f"{out} has a record of {record.get('id')!r}, and {source.name} {place}")
        yield raw.number, record


def _draw(id: str) -> bytes:
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
