"""Runs programs of this machine; the only file of the stack that starts processes."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Thread

from tgi_stack.errors import MachineError

LOG = logging.getLogger(__name__)

KEPT_LINES = 200
# Colours and moves of the cursor, which Compose prints into pipes too.
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


@dataclass(frozen=True, slots=True)
class Ended:
    """What a program printed, and how it ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Both streams, for looking for a reason."""
        return f"{self.stdout}\n{self.stderr}".strip()


class MissingProgramError(MachineError):
    """A program that is not on PATH."""


def run(command: Sequence[str], timeout_s: float = 30.0) -> Ended:
    """Runs a program to its end.

    Raises:
        MissingProgramError: it is not on PATH.
        MachineError: it can't be started, or did not end in time.
    """
    program = _find(command[0])
    try:
        done = subprocess.run(  # noqa: S603  # a list, no shell
            [program, *command[1:]],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{' '.join(command[:3])} did not end within {timeout_s:.0f} s") from error
    except OSError as error:
        raise MachineError(f"{program}: {error.strerror}") from error
    return Ended(done.returncode, _plain(done.stdout), _plain(done.stderr))


def follow(command: Sequence[str]) -> Ended:
    """Runs a program that may take long; each line it prints is said at once, the last ones are kept.

    Raises:
        MissingProgramError, MachineError: see `run`.
    """
    program = _find(command[0])
    try:
        process = subprocess.Popen(  # noqa: S603  # a list, no shell
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise MachineError(f"{program}: {error.strerror}") from error
    lines: list[str] = []

    def read() -> None:
        for line in process.stdout or ():
            lines.append(_plain(line).rstrip())
            del lines[:-KEPT_LINES]
            LOG.info(lines[-1])

    reader = Thread(target=read, daemon=True)
    reader.start()
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        raise
    reader.join(5.0)
    return Ended(status, "\n".join(lines), "")


def _plain(text: str) -> str:
    return _TERMINAL.sub("", text)


def _find(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingProgramError(f"{name} is not on PATH")
    return found
