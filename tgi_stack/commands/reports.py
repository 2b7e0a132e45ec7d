"""`fastqwen report` and `show`: what they take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tgi_stack.commands.declare import OptionsOf, command
from tgi_stack.commands.options import Arguments, Positional, Settings
from tgi_stack.declared.option import FILES, RUN, Option

THUMBNAILS = 1000

RunInput = Annotated[
    str | None,
    Option("What the run read: brings titles, histories, prompts.", FILES, metavar="INPUT", unset="none"),
]
RunItems = Annotated[
    list[str] | None, Option("Its items, as the run read them.", FILES, metavar="ITEMS", unset="none")
]


@command("report", "reports.write_report")
@dataclass(frozen=True, kw_only=True)
class Report(Arguments):
    """One HTML file of a run, or of two side by side. Pictures, rankings, bias, calibration, errors.

    It opens from the disk and fetches nothing. Titles, histories and prompts are in no record:
    --input and --items bring them, held to the digests in run.json.
    """

    output: Annotated[Path, Positional("OUT", "What a job wrote with -o.")]
    other: Annotated[
        Path | None, Positional("OTHER", "Another output of the same rows, to compare with.")
    ] = None
    settings: Settings
    out: Annotated[Path, Option("The page.", FILES, metavar="FILE.html", also=("-o",))] = Path("report.html")
    input: RunInput = None
    items: RunItems = None
    images: Annotated[
        Path | None,
        Option(
            "Where pictures are, by the rows' ids or paths.",
            FILES,
            metavar="DIR",
            unset="as the input says, or the cache",
        ),
    ] = None
    no_images: Annotated[bool, Option("No pictures.", FILES)] = False
    thumbnails: Annotated[
        int,
        Option(
            "Pictures in the page; the rest is drawn from a folder when asked for.",
            FILES,
            metavar="N",
            least=0,
        ),
    ] = THUMBNAILS
    redact: Annotated[bool, Option("Ids become hashes; texts, names and pictures are left out.", RUN)] = False


@command("show", "show.show_record", takes=("show",))
@dataclass(frozen=True, kw_only=True)
class Show(Arguments):
    """One record of an output, in the terminal. What was answered, and what was asked where it is given."""

    output: Annotated[Path, Positional("OUT", "What a job wrote with -o.")]
    id: Annotated[str, Positional("ID", "The row's id.")]
    input: RunInput = None
    items: RunItems = None
    prompt: Annotated[
        bool, Option("The prompts as they were sent; the model's tokenizer must be on this machine.", RUN)
    ] = False
    flags: Annotated[dict[str, Any], OptionsOf(Settings)]
