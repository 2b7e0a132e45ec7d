"""What modules say: on stderr by the command line, nowhere by the library, from child processes too."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from tgi_stack import logs

LOG = logging.getLogger("tgi_stack.tests")
HOSTILE = "a\x1b[31mred\x07\u202e"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    kept = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in logs.ROOTS}
    yield
    for name, (handlers, level) in kept.items():
        logging.getLogger(name).handlers[:] = handlers
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ["told", "warned", "wrong", "closing"]),
        ({"quiet": True}, ["wrong", "closing"]),
        ({"debug": True}, ["fastqwen: detail", "told", "warned", "wrong", "closing"]),
    ],
    ids=["plain", "quiet", "debug"],
)
def test_each_level_shows_where_it_belongs(
    capsys: pytest.CaptureFixture[str], options: dict[str, bool], shown: list[str]
) -> None:
    logs.show()
    logs.show(**options)  # a second call replaces the first
    LOG.debug("detail")
    LOG.info("told")
    LOG.warning("warned")
    LOG.error("wrong")
    logging.getLogger(logs.CLOSING).info("closing")
    assert capsys.readouterr().err.splitlines() == shown


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    logs.show()
    LOG.info("%s 100%% :smile: [b]", HOSTILE)
    LOG.info("100% sure")
    assert capsys.readouterr().err == "a\\x1b[31mred\\x07\\u202e 100% :smile: [b]\n100% sure\n"


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    logs.show(as_json=True)
    LOG.warning(f"{HOSTILE}\nsecond line")
    try:
        raise ValueError("broken")
    except ValueError:
        LOG.exception("it failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.keys() == {"time", "level", "logger", "message"}
    assert first["level"] == "WARNING"
    assert first["logger"] == LOG.name
    assert first["message"] == f"{HOSTILE}\nsecond line"
    assert second["traceback"].endswith("ValueError: broken")


def test_a_closed_stderr_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.show()
    monkeypatch.setattr(sys, "stderr", None)
    LOG.info("nobody reads this")
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:  # closing it fails again
        monkeypatch.setattr(sys, "stderr", full)
        LOG.info("nor this")
        monkeypatch.undo()


def test_probing_says_nothing_of_servers(capsys: pytest.CaptureFixture[str]) -> None:
    logs.show()
    servers = logging.getLogger(f"{logs.SERVERS}.connect")
    with logs.probing():
        servers.warning("hidden")
        LOG.info("downloading")
    servers.warning("seen")
    assert capsys.readouterr().err.splitlines() == ["downloading", "seen"]


def test_the_library_is_silent_unless_asked() -> None:
    script = (
        "import logging, tgi_stack, cache; "
        "[logging.getLogger(name).error('x') for name in ('tgi_stack.a', 'cache.b')]"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def child(pipe: Connection, level: int) -> None:
    logs.pass_on(pipe.send, level)
    LOG.debug("too much")
    LOG.info("%d of %s", 1, "two")
    try:
        raise ValueError(object())
    except ValueError:
        LOG.exception("it failed")


def test_what_children_say_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    logs.show()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs, logs.level()))
    process.start()
    theirs.close()
    for _ in range(2):
        logs.receive(ours.recv())
    process.join()
    said = capsys.readouterr().err
    assert said.startswith("1 of two\n")
    assert said.endswith("\nit failed\n")
    assert "ValueError: <object object" in said
