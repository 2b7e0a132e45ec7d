"""What is made from the declarations is as they are now."""

from __future__ import annotations

import pytest

import reference
from tests.commands.test_common_options import ALL
from tgi_stack.settings import PREFIX, Settings
from tgi_stack.stack.planning.request import Request

PAGE = reference.PAGE.read_text(encoding="utf-8")
STALE = "python tools/reference.py"


def test_the_page_is_of_this_code() -> None:
    assert reference.page() == PAGE, STALE


def test_the_makefiles_variables_are_of_this_code() -> None:
    assert reference.makefile() == reference.VARIABLES.read_text(encoding="utf-8"), STALE
    assert all(f"\n{name.upper()} ?=" in reference.makefile() for name in Request.__dataclass_fields__)


@pytest.mark.parametrize("name", ALL)
def test_each_command_and_option_is_on_the_page(name: str) -> None:
    _, found, rest = PAGE.partition(f"\n### {name.removeprefix('fastqwen ')}\n")
    assert found
    own = rest.partition("\n#")[0]
    for one in ALL[name].params:
        for flag in one.opts if one.param_type_name == "option" else [one.metavar]:
            assert f"`{flag}" in (own if f"`{flag}" in own else PAGE.partition("### Of every command")[2]), (
                flag
            )


def test_each_setting_is_on_the_page() -> None:
    assert PREFIX in PAGE
    assert [name for name in Settings.model_fields if f"\n| `{name}` |" not in PAGE] == []
