"""`fastqwen settings`, `check` and `schema`: what is told before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tgi_stack.commands.declare import OptionsOf, command
from tgi_stack.commands.options import Arguments, Input, Items, Map, Positional, Settings
from tgi_stack.declared.option import FILES, Option
from tgi_stack.declared.servers import JOBS

TAKERS = (*JOBS, "bench", "doctor", "cache")
SHAPES = (*JOBS, "item")


@command("settings", "checks.settings", takes=TAKERS)
@dataclass(frozen=True, kw_only=True)
class EffectiveSettings(Arguments):
    """The settings as a command would have them, and where each came from; secrets are left out.

    What is printed can be a fastqwen.toml.
    """

    jobs: Annotated[
        list[str] | None, Positional("COMMAND", f"Whose settings: {', '.join(TAKERS)}; else all.")
    ] = None
    flags: Annotated[dict[str, Any], OptionsOf(Settings)]


@command("check", "checks.check", takes=JOBS)
@dataclass(frozen=True, kw_only=True)
class Check(Arguments):
    """What would fail in an input, by type, with the first rows of each; no model is asked.

    It ends with the exit status that the job would have.
    """

    input: Input
    job: Annotated[str, Option("The job that it is an input of.", FILES, choices=JOBS)]
    items: Items = None
    map: Map = None
    settings: Settings


@command("schema", "checks.schema")
@dataclass(frozen=True, kw_only=True)
class Schema(Arguments):
    """The JSON schema of a job's rows and records, or of items."""

    name: Annotated[str, Positional("NAME", f"{', '.join(SHAPES[:-1])} or {SHAPES[-1]}.")]
    only: Annotated[
        str | None, Option("One of the two.", FILES, choices=("row", "record"), unset="both, either will do")
    ] = None
