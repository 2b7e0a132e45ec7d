"""What fastqwen says while it works: the standard `logging`, shown on stderr by the command line.

Every module has a logger by its own name. The library is silent until somebody adds a handler; the command
line adds `Stderr`. What users ought to know is INFO or more, what explains a run (`--debug`) is DEBUG.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime

from tgi_stack.redaction import redact

ROOTS = ("fastqwen", "tgi_stack", "cache")
CLOSING = "fastqwen"  # the command line's own lines: shown with --quiet too
SERVERS = "tgi_stack.backends.servers"

_probing: ContextVar[bool] = ContextVar("probing", default=False)


def escaped(text: str) -> str:
    """Secrets blotted out, and control characters made visible, so that data can't drive the terminal."""
    text = redact(text)
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def probing() -> Iterator[None]:
    """Within it, the client of servers tells the user nothing: its caller reports each server itself."""
    token = _probing.set(True)
    try:
        yield
    finally:
        _probing.reset(token)


class Plain(logging.Formatter):
    """The message alone; what is for `--debug` says who speaks."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.levelno < logging.INFO:
            text = f"fastqwen: {text}"
        if record.exc_info:
            text = f"{self.formatException(record.exc_info)}\n{text}"
        return escaped(text)


class Json(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message; with `--debug` an error's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line)


class Stderr(logging.Handler):
    """The one writer of stderr: lines, and below them a bar that is drawn over itself.

    A stderr that is closed or full loses lines; it ends no run.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        super().__init__()
        self.quiet = quiet
        self.as_json = as_json
        self._bar = ""
        self.setFormatter(Json() if as_json else Plain())
        self.addFilter(self._wanted)

    def _wanted(self, record: logging.LogRecord) -> bool:
        if _probing.get() and record.name.startswith(SERVERS):
            return False
        return not self.quiet or record.name == CLOSING or record.levelno >= logging.ERROR

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  # what `logging` asks of handlers: a bad record ends no program
            self.handleError(record)
            return
        self._write(self._over() + line + "\n" + self._bar)

    def draw(self, bar: str) -> None:
        """Draws a bar, of one line or several, in place of the last one; an empty one takes it away."""
        self.acquire()
        try:
            if bar or self._bar:
                self._write(self._over() + bar)
            self._bar = bar
        finally:
            self.release()

    def _over(self) -> str:
        """What has the terminal write over the bar: up to its first line, and all from there on cleared."""
        if not self._bar:
            return ""
        above = self._bar.count("\n")
        return (f"\x1b[{above}A" if above else "") + "\r\x1b[J"

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()


def show(*, quiet: bool = False, debug: bool = False, as_json: bool = False) -> Stderr:
    """Shows on stderr what all modules say from now on; a handler of an earlier call goes."""
    handler = Stderr(quiet=quiet, as_json=as_json)
    for name in ROOTS:
        logger = logging.getLogger(name)
        for earlier in [one for one in logger.handlers if isinstance(one, Stderr)]:
            logger.removeHandler(earlier)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
    return handler


def screen() -> Stderr | None:
    """The handler that `show` added, if any."""
    found = [one for one in logging.getLogger(CLOSING).handlers if isinstance(one, Stderr)]
    return found[-1] if found else None


class Passed(logging.Handler):
    """Hands each record to `send`, made fit for a pipe: for processes whose parent shows what they say."""

    def __init__(self, send: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Passes one record on; nobody is left to be told where the parent is gone."""
        whole = logging.makeLogRecord(record.__dict__ | {"msg": record.getMessage(), "args": None})
        if whole.exc_info:
            whole.msg = f"{logging.Formatter().formatException(whole.exc_info)}\n{whole.msg}"
            whole.exc_info = None
        with suppress(OSError):
            self._send(whole)


def level() -> int:
    """The level from which on what a child process says is wanted here."""
    return logging.getLogger("tgi_stack").getEffectiveLevel()


def pass_on(send: Callable[[logging.LogRecord], None], from_level: int) -> None:
    """In a child process: has all that modules say sent to the parent, whose `receive` takes it."""
    handler = Passed(send)
    for name in ROOTS:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(from_level)


def receive(record: logging.LogRecord) -> None:
    """Treats a record of a child process as one of this process."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
