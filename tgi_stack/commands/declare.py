"""From a command's arguments, declared as a dataclass, to what typer reads."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from tgi_stack.commands.app import PARTS
from tgi_stack.commands.options import Arguments, Group, Positional, Settings
from tgi_stack.declared.option import FILES, GROUPS, RUN, Declared, declared, taken_by

KEPT = 44  # characters of a default that stays on one line
AnyArguments = TypeVar("AnyArguments", bound=Arguments)


@dataclass(frozen=True)
class OptionsOf:
    """Marks a dict that holds what was given of the options that another class declares."""

    of: Any


@dataclass(frozen=True)
class CommandLine:
    """A command as declared: its full name, its arguments, what does it, the settings that it takes."""

    name: str
    arguments: type[Arguments]
    does: str
    settings: tuple[Declared, ...]


DECLARED: list[CommandLine] = []


class Command(TyperCommand):
    """A command whose help stands under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                name, about = str(parameter.metavar), record[1].replace("  [required]", "")
                sections[FILES].insert(0, (name, about))
            else:
                sections[getattr(parameter, "rich_help_panel", None) or RUN].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def get_help(self, ctx: Any) -> str:
        return super().get_help(ctx).replace("\N{NO-BREAK SPACE}", " ")


def command(full: str, does: str, takes: tuple[str, ...] = ()) -> Any:
    """Decorates the arguments of a command, which adds it to the application.

    Args:
        full: its name, after that of its group where it has one: `cache gc`.
        does: the function that is called with them: a module of `commands.actions` and its name in it.
        takes: whose settings are its options; its own unless told.
    """

    def added(arguments: type[AnyArguments]) -> type[AnyArguments]:
        settings = [one for each in takes or (full,) for one in taken_by(each, declared(Settings).values())]
        DECLARED.append(CommandLine(full, arguments, does, tuple(dict.fromkeys(settings))))

        def run(**given: Any) -> None:
            # Late, and by its name: what a command needs to run would cost `--help` its start.
            importlib.import_module("tgi_stack.commands.calling").call(arguments, does, given)

        parameters = list(_parameters(arguments, DECLARED[-1].settings))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        PARTS[full.split()[0]].command(full.split()[-1], cls=Command, help=inspect.getdoc(arguments))(run)
        return arguments

    return added


def hints_of(arguments: type) -> dict[str, Any]:
    """The types of a dataclass's fields, with what is said of them."""
    hints = get_type_hints(arguments, include_extras=True)
    return {one.name: hints[one.name] for one in fields(arguments)}


def options_of(hint: Any) -> OptionsOf | None:
    """What a field stands for, where that is the options of another class."""
    said = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((one for one in said if isinstance(one, OptionsOf)), None)


def _parameters(arguments: type, settings: Sequence[Declared]) -> Iterator[inspect.Parameter]:
    own = declared(arguments)
    defaults = {one.name: one.default for one in fields(arguments)}
    for name, hint in hints_of(arguments).items():
        others = options_of(hint)
        if name in own:
            yield _option(own[name])
        elif hint is Settings or (others is not None and others.of is Settings):
            yield from map(_checked_later, settings)
        elif others is not None:
            yield from (_option(one, unset=True) for one in declared(others.of).values())
        elif isinstance(hint, type) and issubclass(hint, Group):
            yield from _parameters(hint, ())
        else:
            yield _argument(name, hint, defaults[name])


def _argument(name: str, hint: Any, default: Any) -> inspect.Parameter:
    kind, said = get_args(hint)
    assert isinstance(said, Positional)  # noqa: S101
    info = typer.Argument(metavar=said.metavar, help=said.help, show_default=False)
    return _parameter(name, Annotated[kind, info], default)


def _checked_later(one: Declared) -> inspect.Parameter:
    """An option whose value `Settings` turns into what it is, and checks."""
    kind: Any = bool if one.is_switch else list[str] if one.is_repeated else str
    return _parameter(one.name, Annotated[kind | None, _info(one)], None)


def _option(one: Declared, *, unset: bool = False) -> inspect.Parameter:
    """An option whose value typer turns into what it is; `unset` where none means that it was not given."""
    kind = one.type | None if unset else one.type
    return _parameter(one.name, Annotated[kind, _info(one)], None if unset else one.default)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _info(one: Declared) -> Any:
    said, metavar = one.option, one.metavar
    words = (
        [word for word in metavar.split("|") if word.islower() or word.isalnum()] if "|" in metavar else []
    )

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return typer.Option(
        *spellings(one),
        metavar=metavar or None,
        help=help_of(one),
        show_default=False,
        rich_help_panel=said.group,
        autocompletion=complete if words else None,
    )


def spellings(one: Declared) -> list[str]:
    """How an option may be written: the short way first."""
    short = [word for word in one.option.also if not word.startswith("--")]
    long = [word for word in one.option.also if word.startswith("--")]
    return [*short, one.flag, *long]


def help_of(one: Declared) -> str:
    """What `--help` says of an option, its default at the end."""
    if not one.default_text:
        return one.option.help
    default = f"[default: {one.default_text}]"
    if len(default) <= KEPT:
        default = default.replace(" ", "\N{NO-BREAK SPACE}")
    return f"{one.option.help} {default}"
