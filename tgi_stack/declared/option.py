"""What is said of an option beside its type and its default.

A field of `Settings`, of the stack's `Request` or of a command's own arguments bears one `Option`. What the
command line takes, `--help`, the keys of `fastqwen.toml`, the variables, those of the Makefile and
`docs/reference.md` are made from it.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, partial
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tgi_stack.errors import UsageError

# Headings of `--help`, in their order.
FILES = "Input and output"
SERVERS = "Model and servers"
PROMPT = "Prompt"
TORCH = "Torch"
CACHE = "Cache"
RUNNER = "Many hosts"
RUN = "Run"
GROUPS = (FILES, SERVERS, PROMPT, TORCH, CACHE, RUNNER, RUN)


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        help: what it does, in one sentence or two.
        group: its heading.
        on: the commands that take it, by their names; none for what a file or a variable alone may say.
        metavar: what stands for its value; without it the choices, else the unit.
        unit: what it is counted in.
        unset: what holds without it, where the default itself doesn't say so.
        changes_answers: whether a rerun that has another value would answer otherwise, and is refused.
        also: other spellings, and short ones.
        least, most: bounds, of what has no model that checks them.
        choices: the values that there are, of what has no type that lists them.
    """

    help: str
    group: str = RUN
    on: tuple[str, ...] = ()
    metavar: str = ""
    unit: str = ""
    unset: str = ""
    changes_answers: bool = True
    also: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    choices: tuple[str | int, ...] = ()


free = partial(Option, changes_answers=False)  # what may change between a run and its rerun


@dataclass(frozen=True, slots=True)
class Declared:
    """An option with its name, its type and its default."""

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """Its spelling on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return self.type is bool

    @property
    def is_repeated(self) -> bool:
        """Whether it is given once for each of several values."""
        return get_origin(self.type) in (tuple, list) and not self.option.metavar.endswith(",...")

    @property
    def metavar(self) -> str:
        """What stands for its value; nothing for a switch."""
        if self.is_switch:
            return ""
        known = self.option.metavar or "|".join(map(str, self.option.choices or choices(self.type)))
        return known or self.option.unit.upper() or "TEXT"

    @property
    def default_text(self) -> str:
        """What holds without it, as people read it; nothing for a switch, or for what must be given."""
        if self.is_switch or self.default is MISSING:
            return ""
        if self.option.unset:
            return self.option.unset
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def check(self, name: str, value: Any) -> None:
        """Holds a value to the choices or the bounds.

        Args:
            name: what to call it in a message.

        Raises:
            UsageError: it is none of them, or outside.
        """
        said = self.option
        if value is None:
            return
        if said.choices and value not in said.choices:
            raise UsageError(f"{name}={value}: one of {', '.join(map(str, said.choices))}")
        if said.least is not None and not value >= said.least:  # of what is no number, too
            most = "" if said.most is None else f" to {said.most:g}"
            raise UsageError(f"{name}={value}: from {said.least:g}{most}")
        if said.most is not None and not value <= said.most:
            raise UsageError(f"{name}={value}: from {said.least:g} to {said.most:g}")


def declared(of: Any) -> dict[str, Declared]:
    """The options among the fields of a class, by name."""
    return _declared(of)


@cache
def _declared(of: Any) -> dict[str, Declared]:
    hints = get_type_hints(of, include_extras=True)
    if is_dataclass(of):
        defaults = {one.name: one.default for one in fields(of)}
    else:
        defaults = {name: getattr(of, name) for name in hints}
    found = [(name, hints[name], default) for name, default in defaults.items()]
    options = {}
    for name, hint, default in found:
        kind, *said = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        for option in said:
            if isinstance(option, Option):
                options[name] = Declared(name, kind, default, option)
    return options


def choices(kind: Any) -> list[str]:
    """The literal values of a type, such as those of `Literal["a", "b"] | None`."""
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)]
    if get_origin(kind) in (Union, types.UnionType):
        parts = [one for one in get_args(kind) if one is not type(None)]
        return [word for part in parts for word in choices(part)] if all(map(choices, parts)) else []
    return []


def taken_by(name: str, options: Iterable[Declared]) -> Iterator[Declared]:
    """The options that a command takes; a group's name, such as `cache`, stands for all of its commands."""
    names = {name, name.partition(" ")[0]}
    return (one for one in options if names & set(one.option.on))
