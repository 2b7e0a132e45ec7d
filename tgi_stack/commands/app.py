"""The typer application: its commands, and the module of each, which is imported when it is called."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from tgi_stack import __version__
from tgi_stack.errors import BROKEN_PIPE

# Each command's module, and what `fastqwen --help` says of it without importing that.
COMMANDS = {
    "summarize": ("jobs", "Semantic summaries of a folder of images, or of rows."),
    "rerank": ("jobs", "Ranks each row's candidates."),
    "probs": ("jobs", "Label probabilities of prompts of your own."),
    "check": ("checks", "What would fail in an input, by type. No model is asked."),
    "verify": ("outputs", "Proves an output. Every input row stands once, digests hold, counts add up."),
    "eval": ("outputs", "How good rankings are. Recall@k, NDCG@k and MRR with bootstrap 95 % intervals."),
    "compare": (
        "outputs",
        "How far outputs of the same rows are apart. With --against, some rows of one are asked again "
        "elsewhere.",
    ),
    "report": (
        "reports",
        "One HTML file of a run, or of two side by side. Pictures, rankings, bias, calibration, errors.",
    ),
    "show": (
        "reports",
        "One record of an output, in the terminal. What was answered, and what was asked where it is given.",
    ),
    "cache": ("cache", "What was computed before."),
    "settings": (
        "checks",
        "The settings of a command, and where each comes from. Secrets are left out.",
    ),
    "schema": ("checks", "The JSON schema of a job's rows and records, or of items."),
    "plan-scale": (
        "checks",
        "How long a job of very many rows takes under Ray. What limits it, and what it costs.",
    ),
    "doctor": ("servers", "What works here. Each line is ok, a warning, or a failure with the fix."),
    "stack": ("servers", "The servers of this host; `make up` calls it."),
    "bench": (
        "bench",
        "The speed-up table of the optimisations, measured here. What each costs in accuracy, too.",
    ),
}


class Group(TyperGroup):
    """Commands; its switches are off, not unknown: for an unknown one typer loads pydantic."""

    def get_params(self, ctx: Any) -> list[Any]:
        found = super().get_params(ctx)
        for one in found:
            if getattr(one, "is_flag", False) and one.default is None:
                one.default = False
        return found


class LateGroup(Group):
    """Lists the commands of `COMMANDS`; the module of one is imported when it is called."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: TyperCommand(name, help=about) for name, (_, about) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name is None else self.load(name), rest

    @staticmethod
    @functools.cache  # reading all declared options takes typer a tenth of a second
    def load(name: str) -> Any:
        """The command itself, or the group of that name."""
        importlib.import_module(f"tgi_stack.commands.{COMMANDS[name][0]}")
        return typer.main.get_command(PARTS[name])


def group(name: str, about: str, cls: type[Group] = Group) -> typer.Typer:
    """An application with commands; plain help: drawing boxes costs a tenth of a second."""
    return typer.Typer(
        name=name,
        cls=cls,
        help=about,
        no_args_is_help=True,
        add_completion=cls is LateGroup,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


ABOUT = "Semantic summaries of images with Qwen3-VL, and rankings read from Qwen3's next-token distribution."
app = group("fastqwen", ABOUT, LateGroup)
# An application for each listed name: typer reads the options of the one that is called.
PARTS = {name: group(name, about) for name, (_, about) in COMMANDS.items()}


@contextmanager
def ended() -> Iterator[None]:
    """Around what typer does itself: help ends as commands do where stdout can't be written.

    A usage error that stderr doesn't take stays one.
    """
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer and rich say 1
            raise SystemExit(_told(end.__context__) or BROKEN_PIPE) from None
        raise
    except OSError as error:
        if status := _told(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what is left for stderr goes nowhere
            raise SystemExit(status) from None
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with suppress(OSError):
            typer.echo(f"fastqwen: standard output: {error.strerror}", err=True)
        raise SystemExit(3) from None


def _told(error: OSError) -> int | None:
    """The exit status of the usage error that was being told when a stream failed, if one was."""
    return getattr(error.__context__, "exit_code", None)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"fastqwen {__version__}")
        raise typer.Exit


@app.callback(help=ABOUT)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before the commands."""
