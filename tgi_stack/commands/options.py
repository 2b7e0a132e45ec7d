"""The arguments that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tgi_stack.declared.option import FILES, RUN, Option

if TYPE_CHECKING:
    from tgi_stack.settings import Settings as Settings
else:  # what commands declare; pydantic, which checks the values, costs a tenth of a second
    from tgi_stack.declared.run import Fields as Settings

__all__ = ["Arguments", "Common", "Group", "Input", "Items", "Map", "Out", "Positional", "Settings"]
CONFIG = "./fastqwen.toml, if it is there"


@dataclass(frozen=True)
class Positional:
    """What is said of an argument that has no name on the command line."""

    metavar: str
    help: str


class Group:
    """Options that come together: a dataclass whose fields are declared as a command's own are."""


@dataclass(frozen=True)
class Common(Group):
    """What every command takes."""

    config: Annotated[Path | None, Option("The settings' file.", RUN, metavar="FILE", unset=CONFIG)] = None
    json: Annotated[bool, Option("The results as JSON on stdout; a job needs -o for that.", RUN)] = False
    quiet: Annotated[bool, Option("Only the closing lines and errors.", RUN)] = False
    debug: Annotated[bool, Option("Tracebacks, and what the client does.", RUN)] = False
    log_json: Annotated[bool, Option("Lines on stderr as JSON: time, level, logger, message.", RUN)] = False
    progress: Annotated[
        str | None,
        Option(
            "How a job shows how far it is.",
            RUN,
            metavar="plain|rich|none",
            unset="rich on a terminal, else plain",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What a command is called with; each field is an argument, an option or a group of them.

    A field of the type `Settings` stands for the options of all settings that the command takes.
    """

    common: Common


Input = Annotated[str, Positional("INPUT", "A file of rows, a folder of them, or - for JSON lines on stdin.")]
Out = Annotated[Path | None, Option("Where records go.", FILES, metavar="OUT", unset="stdout", also=("-o",))]
Items = Annotated[
    list[str] | None,
    Option("What ids stand for; several files are joined by id.", FILES, metavar="ITEMS", unset="none"),
]
Map = Annotated[
    str | None,
    Option(
        "Our names of fields for the file's own.", FILES, metavar="id=asin,title=name", unset="as they are"
    ),
]
