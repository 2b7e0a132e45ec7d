"""Names of tests are short enough to be read in a list."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
MOST_WORDS = 8


def long_names(text: str) -> list[str]:
    names = re.findall(r"^(?:async )?def test_(\w+)", text, re.MULTILINE)
    return [name for name in names if len(name.split("_")) > MOST_WORDS]


def test_names_have_at_most_eight_words() -> None:
    found = {path.name: long_names(path.read_text()) for path in TESTS.rglob("*.py")}
    assert not {name: names for name, names in found.items() if names}
    assert long_names("async def test_a_b_c_d_e_f_g_h_i() -> None:\n") == ["a_b_c_d_e_f_g_h_i"]
