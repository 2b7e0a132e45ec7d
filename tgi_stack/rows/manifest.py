"""`OUT.run.json`: what a run was asked, of what input, by whom it was answered, and what came of it.

It decides what a rerun of a command does: go on, have nothing to do, or refuse because something that changes
answers is not what it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tgi_stack import __version__, images
from tgi_stack.declared.option import declared
from tgi_stack.declared.run import Fields
from tgi_stack.errors import DiskError, UsageError
from tgi_stack.prompting import prompts
from tgi_stack.prompting.template_file import digest_of
from tgi_stack.redaction import redact_command
from tgi_stack.rows.formats import SPOOLED
from tgi_stack.rows.ledger import sha256_of
from tgi_stack.rows.reader import File, Source
from tgi_stack.settings import Settings
from tgi_stack.types import Identity
from tgi_stack.writing import write_json


def manifest_path(out: Path) -> Path:
    """Where the manifest of an output stands: beside a file, in a folder of parts."""
    if out.is_dir():
        return out / "run.json"
    return out.with_name(out.name + ".run.json")


def question(
    job: str,
    settings: Settings,
    source: Source,
    items: list[Source],
    template: str | None = None,
    form: str | None = None,
) -> dict[str, Any]:
    """All that answers depend on but who gives them; flat, so that differences have names.

    Args:
        template: what was read of the prompt file.
        form: the schema that answers are held to, whole, whatever file it came from.
    """
    values = settings.model_dump(mode="json")
    asked = {one.flag: values[name] for name, one in declared(Fields).items() if one.option.changes_answers}
    asked["--prompt-file"] = None if template is None else digest_of(template)
    asked["--schema"] = form
    return {
        "job": job,
        "prompt version": prompts.VERSION,
        **({"image version": images.VERSION} if job == "summarize" or settings.item_images else {}),
        "input": source.digest(),
        "--map": source_of(source)["columns"],
        "items": [one.digest() for one in items],
        **asked,
    }


def source_of(source: Source) -> dict[str, Any]:
    """Where an input can be read again: its absolute path, or `-`, and how its columns are named."""
    if source.place is not None:
        return {"name": source.place, "columns": source.columns}
    if isinstance(source, File):
        spooled = source.path.name.startswith(SPOOLED)
        return {"name": "-" if spooled else str(source.path.resolve()), "columns": source.columns}
    return {"name": str(source.base.resolve()), "columns": source.columns}


def places(settings: Settings, source: Source, items: Sequence[Source]) -> dict[str, Any]:
    """Where all that a run reads can be read again, but the images of rows and a checkpoint."""
    prompt = settings.prompt_file
    return {
        "input": source_of(source),
        "items": [source_of(one) for one in items],
        "prompt_file": None if prompt is None else str(prompt.resolve()),
    }


class Manifest:
    """The run.json of one output."""

    def __init__(self, out: Path, content: dict[str, Any]) -> None:
        self.out = out
        self.content = content

    @classmethod
    def new(cls, out: Path, asked: dict[str, Any], command: list[str]) -> Manifest:
        """The manifest of a run that begins."""
        return cls(
            out,
            {
                "command": redact_command(command),
                "fastqwen": __version__,
                "state": "running",
                "asked": asked,
                "identity": None,
                "started": _now(),
            },
        )

    @classmethod
    def read(cls, out: Path) -> Manifest | None:
        """The manifest beside an output, or None.

        Raises:
            UsageError: it is there and can't be understood.
        """
        path = manifest_path(out)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DiskError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"{path} is broken ({error}); to start anew: --overwrite") from error
        return cls(out, content)

    @property
    def is_complete(self) -> bool:
        return self.content.get("state") == "complete"

    def take_more(self, asked: Mapping[str, Any], source: Source) -> None:
        """Goes on with more of a pipe than was read of it under a smaller --limit."""
        before, checked = self.content.get("asked", {}), self.content.get("checked")
        was, now = before.get("input"), asked.get("input")
        if checked and was is not None and was != now and source.begins_with(was, checked["rows"]):
            before["input"] = now
            del self.content["checked"]

    def refuse_changes(self, asked: Mapping[str, Any]) -> None:
        """Raises UsageError, naming the first difference, where a rerun asks for something else."""
        before = self.content.get("asked", {})
        for name in [*before, *asked]:
            if before.get(name) != asked.get(name):
                was, now = short(before.get(name)), short(asked.get(name))
                raise UsageError(
                    f"{self.out} was made with {name} {was}, not {now}; to start anew: --overwrite"
                )

    def set_identity(self, identity: Identity) -> None:
        """Notes who answers.

        Raises:
            UsageError: answers of another identity are in the output already.
        """
        now = asdict(identity)
        before = self.content.get("identity")
        if before is not None and before != now:
            name = next(name for name in now if before.get(name) != now[name])
            was, other = short(before.get(name)), short(now[name])
            raise UsageError(
                f"{self.out} holds answers of {name} {was}, not {other}; to start anew: --overwrite"
            )
        self.content["identity"] = now

    def close(self, state: str, counts: dict[str, Any], whole: dict[str, Any] | None = None) -> None:
        """Notes how the run ended, and of a complete one the digest of OUT; writes the manifest.

        Args:
            counts: those of `Tally.noted`; how they grew stands beside them.
            whole: digest and size of a complete OUT, where they are known.
        """
        counts = dict(counts)
        beside = {name: counts.pop(name, None) for name in ("timeline", "times")}
        self.content |= {"state": state, "counts": counts, **beside, "ended": _now()}
        if state == "complete":
            self.content["out"] = whole or {
                "sha256": sha256_of(self.out),
                "bytes": self.out.stat().st_size,
            }
        self.write()

    def remove(self) -> None:
        """Takes it away: nothing was done that it could speak of."""
        manifest_path(self.out).unlink(missing_ok=True)

    def write(self) -> None:
        """Replaces the file."""
        write_json(manifest_path(self.out), self.content)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def short(value: Any) -> str:
    """A value as one line of a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + '..."'
