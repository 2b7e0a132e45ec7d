"""The command line in processes of its own, to be killed, interrupted and starved."""

from __future__ import annotations

import os
from pathlib import Path

import cli

# What the command imports and builds when it is called: here, so that no child does it anew.
import tgi_stack.backends.scripted
import tgi_stack.commands.actions.jobs  # noqa: F401
from tgi_stack import settings
from tgi_stack.commands.app import LateGroup
from tgi_stack.rows.output import Output

LateGroup.load("probs")
settings.load({}, {})


def start(arguments: list[str], asked: Path, gate: int | None = None) -> int:
    """Runs the command line in a forked child, which saves the import of everything; notes what it asks.

    Args:
        asked: takes the number of each row whose record is about to be written.
        gate: a descriptor; the child begins once something can be read from it.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        _note_asked(asked)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        if gate is not None:
            os.read(gate, 1)
        cli.app(arguments, prog_name="fastqwen")
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)  # whatever happened: the child must not go on as a second run of the tests


def _note_asked(asked: Path) -> None:
    log = os.open(asked, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write = Output.write

    def noting(self: Output, number: int, record: dict[str, object]) -> None:
        os.write(log, f"{number}\n".encode())
        write(self, number, record)

    Output.write = noting  # type: ignore[method-assign]  # in the child alone


def wait(pid: int) -> int:
    """How a child ended; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
