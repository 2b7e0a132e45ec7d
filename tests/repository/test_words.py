"""Every word that records and messages use is listed with its meaning, and none that nobody uses."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Fastqwen, write_rows
from tgi_stack import words
from tgi_stack.backends.servers import retry, transport
from tgi_stack.backends.servers.transport import TransportError
from tgi_stack.rows.columns import FIELDS
from tgi_stack.settings import PREFIX, Settings

LISTED = words.ERRORS.keys() | words.FLAGS.keys() | words.ROUTES.keys()
KINDS = {word.partition(".")[0] for word in LISTED if "." in word}
WORD = re.compile(rf"(?:{'|'.join(sorted(KINDS))})\.[a-z_0-9]+(?:\.[a-z]+)?")
# Of the dry run, which asks nobody, and of the backend for tests.
INNER = {"dry.miss", "scripted.failure"}
NONE_OF_OURS = {"text.color", "text.parse_math"}  # matplotlib's
# Ways in which no whole reply comes; those that a row fails of make a word with `server.`.
WAYS = set(re.findall(r"`(\w+)`", TransportError.__doc__ or ""))
BROKEN = {
    f"server.{way}" for way in WAYS if retry.of_transport(way, silent_before=True) is retry.Decision.TRANSIENT
}
MADE = {f"schema.{name}" for fields in FIELDS.values() for name in fields} | {
    "resolution.bf16",
    "resolution.fp16",
}
MADE |= BROKEN


def constants() -> Iterator[str]:
    """The strings of the code."""
    for package in ("tgi_stack", "cache"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "words.py":
                nodes = ast.walk(ast.parse(path.read_text()))
                yield from (
                    node.value
                    for node in nodes
                    if isinstance(node, ast.Constant) and isinstance(node.value, str)
                )


STRINGS = set(constants())


def test_each_word_of_the_code_is_listed() -> None:
    assert {one for one in STRINGS if WORD.fullmatch(one)} - LISTED == NONE_OF_OURS


def test_each_way_that_replies_break_is_listed() -> None:
    raised = set(re.findall(r'TransportError\("(\w+)"|kind = "(\w+)"', inspect.getsource(transport)))
    assert {way for pair in raised for way in pair if way} <= WAYS
    assert words.ERRORS.keys() >= BROKEN


@pytest.mark.parametrize("word", sorted(LISTED))
def test_each_listed_word_is_used(word: str) -> None:
    assert word in STRINGS | MADE


def test_each_variable_is_listed() -> None:
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    named = {name for one in STRINGS for name in re.findall(r"FASTQWEN_[A-Z_]*[A-Z]", one)} - {
        "FASTQWEN_NAME"
    }
    assert named - settings == {name for name in words.VARIABLES if name.startswith(PREFIX)}


def test_what_stands_beside_outputs_is_listed(fastqwen: Fastqwen, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "A or B?\n", "num_candidates": 2})
    fastqwen("probs", rows, "-o", "o.jsonl", "--engine", "scripted")
    noted = json.loads((tmp_path / "o.jsonl.run.json").read_text())
    assert noted.keys() == words.NOTED.keys()
    assert all(f"`{name}`" in words.NOTED["times"] for name in noted["times"])
