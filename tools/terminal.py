"""A command on a terminal of its own, and what stands on its screen as time goes on."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MOVES = re.compile(r"\x1b\[(\d*)([A-Za-z])")
BEGUN = re.compile(r"\x1b(\[\d*)?")


class Screen:
    """What a terminal shows of a text: lines, the cursor up, lines and the rest of the screen cleared."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = self._column = 0
        self._begun = ""  # a move whose end has not come yet

    def write(self, text: str) -> None:
        """Takes more of it in."""
        text, self._begun = self._begun + text, ""
        while text:
            if BEGUN.fullmatch(text):
                self._begun = text
                return
            move = MOVES.match(text)
            if move is not None:
                self._move(int(move[1] or 1), move[2])
                text = text[move.end() :]
                continue
            self._put(text[0])
            text = text[1:]

    def _move(self, count: int, what: str) -> None:
        if what == "A":
            self._row = max(0, self._row - count)
        elif what in ("J", "K"):
            self.lines[self._row] = self.lines[self._row][: self._column]
            if what == "J":
                del self.lines[self._row + 1 :]

    def _put(self, character: str) -> None:
        if character == "\n":
            self._row, self._column = self._row + 1, 0
            self.lines += [""] * (self._row + 1 - len(self.lines))
        elif character == "\r":
            self._column = 0
        elif character >= " ":
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1


def played(
    command: Sequence[str | Path], environment: Mapping[str, str], folder: Path, columns: int = 100
) -> list[list[str]]:
    """The screens of a command's stderr, one after each of its writes; the last is what is left.

    Raises:
        RuntimeError: it can't be started, or fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    known = dict(environment) | {"TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "1"}
    process = subprocess.Popen(  # noqa: S603  # our own program
        list(map(str, command)), env=known, cwd=folder, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    screen, screens, decoder = Screen(), [], codecs.getincrementaldecoder("utf-8")()
    while True:
        try:
            written = os.read(ours, 65536)
        except OSError:  # nobody holds the other end any more
            break
        screen.write(decoder.decode(written))
        screens.append(list(screen.lines))
        time.sleep(0.01)
    os.close(ours)
    if process.wait() not in (0, 1):
        raise RuntimeError("\n".join(screen.lines))
    return screens
