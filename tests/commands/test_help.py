"""What `--help` prints is made from what is declared, and costs little."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from typing import Any, get_type_hints

import pytest

from tests.commands.test_common_options import ALL
from tests.conftest import ROOT, Fastqwen
from tgi_stack.commands.app import COMMANDS
from tgi_stack.commands.declare import DECLARED, CommandLine
from tgi_stack.declared.option import GROUPS, declared
from tgi_stack.declared.run import Fields
from tgi_stack.settings import Settings
from tgi_stack.stack.planning.request import Request

HEADING = re.compile(r"^(\S[\w ]*):\n", re.MULTILINE)


def sections(said: str) -> dict[str, str]:
    """What stands under each heading."""
    _, *parts = HEADING.split(said[said.index("\n") :])
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_rerank_groups_its_options_and_shows_defaults(fastqwen: Fastqwen) -> None:
    said = fastqwen("rerank", "--help").stdout
    found = sections(said)
    assert tuple(found) == GROUPS
    for heading, options in {
        "Input and output": "INPUT --items -o --map --limit",
        "Model and servers": "--engine --endpoint --model --fallback",
        "Prompt": "--item-fields --mode --max-side",
        "Torch": "--device --dtype",
        "Cache": "--cache-dir --offline",
        "Run": "--concurrency --config --quiet --help",
    }.items():
        lines = {word.rstrip(",") for line in found[heading].splitlines() for word in line.split()[:2]}
        assert set(options.split()) - {"--help"} <= lines, heading
    for default in ("[default: 448]", "[default: 20]", "[default: listwise]", "[default: auto]"):
        assert default in said
    assert "auto: bf16 on a GPU, fp32 on a CPU." in " ".join(said.split())


@pytest.mark.parametrize("name", ALL)
def test_each_value_shows_its_default(name: str) -> None:
    for one in ALL[name].params:
        if one.param_type_name == "option" and not one.is_flag and not one.required:
            assert "[default:" in one.help, one.name
        assert one.param_type_name == "argument" or one.is_flag or one.metavar, one.name


@pytest.mark.parametrize(
    ("of", "names"), [(Fields, Settings.model_fields), (Request, Request.__dataclass_fields__)]
)
def test_each_field_is_declared(of: Any, names: dict[str, Any]) -> None:
    assert list(declared(of)) == list(names)
    for one in declared(of).values():
        assert one.option.group in GROUPS
        assert re.fullmatch(r"[A-Z].*\.", one.option.help), one.name


@pytest.mark.parametrize("one", DECLARED, ids=lambda one: one.name)
def test_each_command_is_done_by_a_function(one: CommandLine) -> None:
    module, _, name = one.does.partition(".")
    function = getattr(importlib.import_module(f"tgi_stack.commands.actions.{module}"), name)
    assert get_type_hints(function) == {"given": one.arguments, "return": type(None)}


@pytest.mark.parametrize("name", ["rerank", "eval", "cache info", "stack up", "bench"])
def test_help_imports_none_of_a_commands_work(name: str) -> None:
    asked = [*name.split(), "--help"]
    code = f"import sys, cli; cli.app({asked}, standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & {
        "aiohttp",
        "asyncio",
        "cache",
        "huggingface_hub",
        "numpy",
        "pydantic",
        "rich",
        "tgi_stack.jobs",
        "tgi_stack.logs",
        "tgi_stack.commands.actions",
    }


def test_choices_are_completed() -> None:
    mode = next(one for one in ALL["fastqwen rerank"].params if one.name == "mode")
    assert [item.value for item in mode.shell_complete(None, "p")] == ["pointwise"]


def test_listed_commands_are_told_in_one_line(fastqwen: Fastqwen) -> None:
    listed = fastqwen("--help").stdout.partition("Commands:")[2].strip().splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert not [line for line in listed if line.endswith("...")]
    for name, (_, about) in COMMANDS.items():
        said = " ".join(fastqwen(name, "--help").stdout.split())
        assert about in said, name
