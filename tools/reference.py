"""Writes what is made from the declarations: `docs/reference.md`, and the Makefile's part for the servers.

    python tools/reference.py

A test holds both to the code (`tests/repository/test_reference.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from tgi_stack import words
from tgi_stack.commands.app import COMMANDS, LateGroup
from tgi_stack.commands.declare import DECLARED, CommandLine, hints_of, options_of, spellings
from tgi_stack.commands.options import Common, Positional
from tgi_stack.declared.option import GROUPS, Declared, declared
from tgi_stack.declared.run import Fields
from tgi_stack.settings import PREFIX
from tgi_stack.stack.planning.beside import Beside
from tgi_stack.stack.planning.request import Request

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
VARIABLES = ROOT / "docker" / "variables.mk"
HEAD = """# Reference

`python tools/reference.py` writes this page from the code, and a test holds it to that. The other pages say
what things are for.

Options win over variables, variables over `fastqwen.toml` in the current folder (or `--config FILE`), and
that over defaults. A key of the file is an option's name with underscores. A list is written `A,B,C`, in the
file also as an array. A variable holds what the option would be given; a switch is `true` or `false`. An
unknown key is refused, an unknown variable is told.
"""
OF_ROUTES = "How an answer was obtained; [Probabilities](probabilities.md) says what each is worth."
WRITTEN = (
    "# The variables of `make up`. tools/reference.py writes them from tgi_stack/stack/planning/request.py."
)


def main() -> None:
    """Writes both."""
    PAGE.write_text(page(), encoding="utf-8")
    VARIABLES.write_text(makefile(), encoding="utf-8")


# -- the page ------------------------------------------------------------------------------------------------


def page() -> str:
    """`docs/reference.md`."""
    for name in COMMANDS:
        LateGroup.load(name)
    order = list(COMMANDS)
    lines = sorted(DECLARED, key=lambda one: order.index(one.name.split()[0]))
    parts = [
        HEAD,
        "## Commands\n",
        *map(_command, lines),
        "### Of every command\n",
        _options(declared(Common).values()),
        "## Settings\n",
        *_settings(lines),
        "## Variables\n\nBeside `FASTQWEN_NAME` of each setting:\n",
        _table(("variable", "meaning"), words.VARIABLES),
        "## Variables of `make up`\n\nThey are options of `fastqwen stack plan` and `up` as well.\n",
        _rows(
            ("variable", "option", "default", "meaning"),
            ((f"`{name.upper()}`", _spelt(one), _default(one), one.option.help) for name, one in _stack()),
        ),
        "## Exit statuses\n",
        _table(("status", "meaning"), words.EXIT_STATUSES, code=False),
        "## Errors\n\nWhat `error.type` of a failed row's record says.\n",
        _table(("type", "meaning"), words.ERRORS),
        "## Flags\n\nWhat a reader of an answer must know.\n",
        _table(("flag", "meaning"), words.FLAGS),
        f"## Routes\n\n{OF_ROUTES}\n",
        _table(("route", "meaning"), words.ROUTES),
        "## Beside an output\n\nWhat `OUT.run.json` holds.\n",
        _table(("key", "meaning"), words.NOTED),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _command(line: CommandLine) -> str:
    about, _, more = (inspect.getdoc(line.arguments) or "").partition("\n\n")
    positional, own, stack = [], [], False
    for name, hint in hints_of(line.arguments).items():
        others = options_of(hint)
        if name in (known := declared(line.arguments)):
            own.append(known[name])
        elif others is not None:
            stack = stack or others.of is Request
        elif said := [one for one in get_args(hint)[1:] if isinstance(one, Positional)]:
            positional.append(said[0])
    usage = " ".join(["fastqwen", line.name, *(one.metavar for one in positional), "[OPTIONS]"])
    text = [f"### {line.name}\n", f"`{usage}`\n", about + "\n"]
    rows = [
        f"`{one.strip()}`" if one.startswith("{") else one
        for one in more.removeprefix("A row: ").split(" or ")
    ]
    text += [f"A row: {' or '.join(rows)}\n"] if more.startswith("A row: ") else [more + "\n"] if more else []
    text += [f"- `{one.metavar}`: {one.help}" for one in positional] + ([""] if positional else [])
    text += [_options(own)] if own else []
    text += ["The variables of `make up`, as options: see below.\n"] if stack else []
    if line.settings:
        flags = ", ".join(f"`{one.flag}`" for one in line.settings)
        text.append(f"[Settings](#settings): {flags}.\n")
    return "\n".join(text)


def _options(options: Iterable[Declared]) -> str:
    rows = ((_spelt(one), _default(one), one.option.help) for one in options)
    return _rows(("option", "default", "meaning"), rows)


def _settings(lines: Iterable[CommandLine]) -> Iterator[str]:
    takers: dict[str, list[str]] = {}
    for line in lines:
        for one in line.settings:
            takers.setdefault(one.name, []).append(line.name)
    yield f"A key `name` is the variable `{PREFIX}NAME`. *Rerun*: whether a rerun may change it.\n"
    for group in GROUPS:
        found = [one for one in declared(Fields).values() if one.option.group == group]
        yield f"### {group}\n"
        yield _rows(
            ("key", "option", "default", "rerun", "commands", "meaning"),
            (
                (
                    f"`{one.name}`",
                    _spelt(one) if one.name in takers else "none",
                    _default(one),
                    "no" if one.option.changes_answers else "yes",
                    _shortened(takers.get(one.name, [])) or "all",
                    one.option.help,
                )
                for one in found
            ),
        )


def _shortened(names: list[str]) -> str:
    """Names of commands; those of `cache` are one where all of them are meant."""
    of_cache = [name for name in names if name.startswith("cache ")]
    if len(of_cache) > 1:
        names = [name for name in names if name not in of_cache] + ["cache"]
    return ", ".join(names)


def _spelt(one: Declared) -> str:
    value = f" {one.metavar}" if one.metavar else ""
    return ", ".join(f"`{word}{value}`" for word in spellings(one)).replace("|", "\\|")


def _default(one: Declared) -> str:
    return "off" if one.is_switch else one.default_text or "none"


def _stack() -> Iterable[tuple[str, Declared]]:
    return [*declared(Request).items(), *declared(Beside).items()]


def _table(head: tuple[str, str], rows: Mapping[str, str], *, code: bool = True) -> str:
    return _rows(head, ((f"`{name}`" if code else name, meaning) for name, meaning in rows.items()))


def _rows(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines)
        .replace("| --- ", "|---")
        .replace("--- |", "---|")
        + "\n"
    )


# -- the Makefile's variables --------------------------------------------------------------------------------


def makefile() -> str:
    """`docker/variables.mk`."""
    flags = [f'{one.flag} "$({name.upper()})"' for name, one in declared(Request).items()]
    # Only what is given: without it, what runs stays as it is.
    beside = [
        f'$(if $({name.upper()}),{one.flag} "$({name.upper()})")' for name, one in declared(Beside).items()
    ]
    said = []
    for name, one in _stack():
        value = f"{name.upper()}=$({name.upper()})"
        choices = f"{one.metavar}: " if "|" in one.metavar else ""
        default = f" [{one.default_text}]" if one.option.unset else ""
        said.append(f'\t@echo "  {value}   {choices}{one.option.help}{default}"')
    return "\n".join(
        [
            WRITTEN,
            *(
                f"{name.upper()} ?= {'' if one.default is None else one.default}".rstrip()
                for name, one in _stack()
            ),
            "SERVERS = " + " \\\n\t".join(flags),
            "BESIDE = " + " \\\n\t".join(beside),
            "define say_variables",
            *said,
            "endef",
            "",
        ]
    )


if __name__ == "__main__":
    main()
