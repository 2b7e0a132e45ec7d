"""The codes of faults that tests name are told in docs/design/faults.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
COMMENT = re.compile(r"#[^#\n]*$", re.MULTILINE)
CODE = re.compile(r"\b[A-Z]\d\d\b")


def named(text: str) -> set[str]:
    """Codes that comments name; only letters of the list's parts count (`F40` is no fault)."""
    return {
        code for comment in COMMENT.findall(text) for code in CODE.findall(comment) if code[0] in "CDIKNPSX"
    }


def test_each_fault_named_in_tests_is_listed() -> None:
    listed = re.findall(r"^\| ([A-Z]\d\d) \|", (ROOT / "docs/design/faults.md").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    codes = {code for path in TESTS.rglob("*.py") for code in named(path.read_text())}
    assert codes == set(listed)


@pytest.mark.parametrize(
    ("line", "codes"),
    [("def a() -> None:  # C07, X05", {"C07", "X05"}), ('x = "K01"', set()), ("# noqa: S603", set())],
)
def test_codes_are_read_from_comments(line: str, codes: set[str]) -> None:
    assert named(line) == codes
