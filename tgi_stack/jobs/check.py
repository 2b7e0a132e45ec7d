"""Reads an input as a job would, and tells what would fail: no model is asked, nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from tgi_stack.backends.scripted import Script, ScriptedBackend
from tgi_stack.errors import InputError, MachineError, RowError, UsageError
from tgi_stack.hub import locate_files, locate_tokenizer
from tgi_stack.images.grid import Grid
from tgi_stack.jobs import pipeline
from tgi_stack.jobs.rerank.items import join_items
from tgi_stack.jobs.spec import JobSpec
from tgi_stack.jobs.tally import Tally
from tgi_stack.prompting.framing import framing
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.vocabulary import tokenizer_of
from tgi_stack.rows.ledger import Discard
from tgi_stack.rows.reader import RawRow, Source
from tgi_stack.settings import DEFAULT_MODELS, Settings

FIRST = 3  # rows of each type that are shown
OF_TOKENS = ("label.", "text.too_long")  # errors that another tokenizer may not have
NOT_CHECKED = (
    "not checked: labels and lengths, for want of {name}'s tokenizer; name one that is on this machine "
    "(--model or --tokenizer)"
)
ADVICE = "to record each as failed: --skip-bad-rows"


@dataclass
class Findings(Discard):
    """What would fail.

    Attributes:
        rows: how many were looked at.
        types: how many rows would fail, by the type of their error.
        first: the first rows of each type, as their records.
        bad: rows that a job refuses before its first request, unless it skips them.
        refusals: why a job would not begin at all.
        not_checked: what could not be told.
    """

    rows: int = 0
    types: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bad: int = 0
    refusals: list[str] = field(default_factory=list)
    not_checked: str = ""
    skips_bad_rows: bool = False

    def write(self, number: int, record: dict[str, Any]) -> None:
        """Takes note of a record."""
        if record["status"] == "ok":
            return
        type = record["error"]["type"]
        if self.not_checked and type.startswith(OF_TOKENS):
            return
        self.types[type] += 1
        shown = [*self.first.get(type, ()), record]
        self.first[type] = sorted(shown, key=lambda one: one["error"]["row"])[:FIRST]

    @property
    def status(self) -> int:
        """The exit status that the job would have, if its model answers all that it is asked."""
        if self.refusals or (self.bad and not self.skips_bad_rows):
            return UsageError.exit_status
        return 1 if self.types else 0

    def lines(self) -> Iterator[str]:
        """For people."""
        for type, count in self.types.most_common():
            yield f"{count:,} x {type}"
            for record in self.first[type]:
                name = "" if record["id"] is None else f" ({record['id']})"
                yield f"  row {record['error']['row']}{name}: {record['error']['message']}"
        yield from self.refusals
        if self.bad and not self.skips_bad_rows:
            yield f"{self.bad:,} malformed rows: the job would not begin; {ADVICE}"
        if self.not_checked:
            yield self.not_checked
        failing = self.types.total()
        yield f"{self.rows:,} rows: {self.rows - failing:,} could be asked, {failing:,} would fail"

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        shown = {
            type: [record["error"] | {"id": record["id"]} for record in records]
            for type, records in self.first.items()
        }
        return {
            "rows": self.rows,
            "would_fail": self.types.total(),
            "types": {type: {"count": count, "first": shown[type]} for type, count in self.types.items()},
            "malformed": self.bad,
            "refusals": self.refusals,
            "not_checked": self.not_checked or None,
            "status": self.status,
        }


async def check(spec: JobSpec, source: Source) -> Findings:
    """Runs a job against nobody.

    Raises:
        UsageError: settings that no job can have.
    """
    found = Findings(skips_bad_rows=spec.settings.skip_bad_rows)
    tally, spec = _counted(spec, source, found)
    if tally is None:
        return found
    name, profile = _profile(spec.settings, spec.kind)
    if profile is None:
        found.not_checked = NOT_CHECKED.format(name=name)
    backend = ScriptedBackend(Script(), spec.kind, profile=profile)
    job = spec.job(backend, None)

    def parse(raw: RawRow) -> Any:
        try:
            return job.parse(raw)
        except RowError:
            found.bad += 1
            raise

    await pipeline.run(replace(job, parse=parse), source, found, spec.settings, tally)
    found.rows = tally.rows
    return found


def _counted(spec: JobSpec, source: Source, found: Findings) -> tuple[Tally | None, JobSpec]:
    """Counts the rows, and notes why a job would refuse them; no tally where they can't be read at all."""
    skipping = spec.settings.model_copy(update={"skip_bad_rows": True})
    if spec.name == "rerank" and not spec.settings.skip_bad_rows:
        try:
            join_items(spec.items, pictures=spec.settings.item_images)
        except InputError as error:
            found.refusals.append(str(error))
    tally, spec = Tally(), replace(spec, settings=skipping)
    try:
        pipeline.count(spec.schema, source, skipping, tally, items=spec.items)
    except (InputError, UsageError) as error:
        found.refusals.append(str(error))
        try:
            tally.rows = tally.input_rows = sum(1 for _ in islice(source, skipping.limit))
        except InputError:
            return None, spec
    return tally, spec


def _profile(settings: Settings, kind: str) -> tuple[str, Profile | None]:
    """A model's name, and what prompts for it are written for, where its small files are on this machine."""
    name = settings.model_for(kind) or DEFAULT_MODELS[kind]
    try:
        checkpoint = locate_files(name, kind, settings.revision, may_download=False)
        given = None
        if settings.tokenizer is not None:
            given = locate_tokenizer(settings.tokenizer, kind, may_download=False)
        config = checkpoint.config
        profile = Profile(
            tokenizer_of(checkpoint, given),
            closes_thinking=framing(checkpoint.chat_template).closes_thinking,
            context=int(config.get("text_config", config).get("max_position_embeddings", 4096)),
            grid=Grid.from_checkpoint(checkpoint.folder) if kind == "vision" else None,
        )
    except (MachineError, UsageError):  # a name of a server's own, or files that are elsewhere
        return name, None
    return name, profile
