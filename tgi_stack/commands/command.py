"""What every command does: its common options, its lines on stderr, its exit status, its settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from tgi_stack import logs, settings
from tgi_stack.commands.errors import reported
from tgi_stack.commands.options import Common, Group, grouped
from tgi_stack.settings import Settings

Command = Callable[..., None]


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
