"""What every command does when it is called: its lines on stderr, its exit status, its settings."""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from tgi_stack import logs, settings
from tgi_stack.commands.declare import hints_of, options_of
from tgi_stack.commands.errors import reported
from tgi_stack.commands.options import Arguments, Common, Group, Settings
from tgi_stack.declared.option import declared
from tgi_stack.rows.stores.copies import copied


def call(arguments: type[Arguments], does: str, given: dict[str, Any]) -> None:
    """Calls the function of a command with its arguments, built from what typer read."""
    common = Common(**_taken(given, declared(Common)))
    logs.show(quiet=common.quiet, debug=common.debug, as_json=common.log_json)
    with reported(debug=common.debug):
        if common.config is not None:  # wrong ones are refused by commands that need none, too
            settings.load({}, {}, common.config)
        own = declared(arguments)  # an option of its own may bear the name of a setting
        others = {name: value for name, value in given.items() if name not in own}
        values = {
            name: given[name] if name in own else _here(_value(name, hint, others, common))
            for name, hint in hints_of(arguments).items()
        }
        for name, one in own.items():
            one.check(one.flag, values[name])
        module, _, function = does.partition(".")
        getattr(importlib.import_module(f"tgi_stack.commands.actions.{module}"), function)(
            arguments(**values)
        )


def _value(name: str, hint: Any, given: dict[str, Any], common: Common) -> Any:
    others = options_of(hint)
    if hint is Common:
        return common
    if hint is Settings:
        return settings.load(_taken(given, declared(Settings)), file=common.config)
    if others is not None:
        return {key: value for key, value in _taken(given, declared(others.of)).items() if value is not None}
    if isinstance(hint, type) and issubclass(hint, Group):
        return hint(**_taken(given, {one.name: one for one in fields(hint)}))  # type: ignore[arg-type]
    return given[name]


def _here(value: Any) -> Any:
    """What is read by its path, on this host: outputs in a store are copied."""
    if isinstance(value, list):
        return [_here(one) for one in value]
    return copied(value) if isinstance(value, Path) else value


def _taken(given: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}
