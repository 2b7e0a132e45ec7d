"""The typer application, and what every command does: its options, its lines on stderr, its exit status."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from tgi_stack import __version__, logs, settings
from tgi_stack.commands.errors import reported
from tgi_stack.commands.options import Common, Group, grouped
from tgi_stack.settings import Settings

Command = Callable[..., None]


def group(name: str, about: str) -> typer.Typer:
    """An application with commands; plain help: drawing boxes costs a tenth of a second."""
    return typer.Typer(
        name=name,
        help=about,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


ABOUT = "Semantic summaries of images with Qwen3-VL, and rankings read from Qwen3's next-token distribution."
app = group("fastqwen", ABOUT)
stack = group("stack", "The servers of this host; `make up` calls it.")
cache = group("cache", "What was computed before.")
app.add_typer(stack)
app.add_typer(cache)


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


def command(of: typer.Typer, name: str | None = None) -> Callable[[Command], Command]:
    """Adds a command whose parameters may be groups of options, one of them `common: Common`."""

    def added(function: Command) -> Command:
        @wraps(function)
        def run(**given: Any) -> None:
            common: Common = given["common"]
            logs.show(quiet=common.quiet, debug=common.debug, as_json=common.log_json)
            with reported(debug=common.debug):
                if common.config is not None:  # wrong ones are refused by commands that need none, too
                    settings.load({}, file=common.config)
                function(**given)

        of.command(name=name)(grouped(run))
        return function

    return added


def settings_of(common: Common, given: dict[str, Any], **more: Any) -> Settings:
    """The settings with the options among a command's arguments, in groups or alone, that are settings."""
    alone: dict[str, Any] = {}
    for name, value in given.items():
        alone |= vars(value) if isinstance(value, Group) else {name: value}
    flags = {name: value for name, value in (alone | more).items() if name in Settings.model_fields}
    return settings.load(flags, file=common.config)
