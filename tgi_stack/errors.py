"""Everything that can go wrong, as one tree.

    FastqwenError
    ├── UsageError             what was asked for can't be done as written          exit 2
    │   ├── SettingsError      an option, a variable or the settings file
    │   ├── PromptFileError    a prompt file
    │   └── InputError         an input file as a whole (place: file, line, column)
    ├── MachineError           this machine: disk, permission, missing package      exit 3
    │   ├── DiskError
    │   ├── LockedError
    │   ├── CheckpointError
    │   └── MissingPackageError
    ├── ServerError            no server, the wrong one, a refused key              exit 4
    │   ├── NoEngineError
    │   │   └── AbsentServerError
    │   └── WrongServerError   another model, another tokenizer, a refused key
    └── RowError               one row; becomes its record and never stops a run    exit 1
        ├── ImageError         type `image.*`
        ├── TextError          type `text.*`
        ├── LabelError         type `label.*`
        ├── ScoreError         type `score.*`
        ├── ItemError          type `item.*`
        ├── AnswerError        type `server.*`
        └── SchemaError        type `schema.*`

A message says what is wrong, with the value that is, and ends with what to do where something can be done.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

# The exit status of a command whose output nobody reads any more; Windows has no such signal.
BROKEN_PIPE = 128 + getattr(signal, "SIGPIPE", 13)


class FastqwenError(Exception):
    """The root; `exit_status` is what the command line ends with."""

    exit_status = 1


class UsageError(FastqwenError):
    exit_status = 2


class SettingsError(UsageError):
    """An option, a `FASTQWEN_*` variable or a key of the settings file."""


class PromptFileError(UsageError):
    """A prompt file that can't be read or holds an unknown placeholder."""


class InputError(UsageError):
    """An input that can't be processed as a whole."""


class MachineError(FastqwenError):
    exit_status = 3


class DiskError(MachineError):
    """A file that can't be read or written."""


class LockedError(MachineError):
    """Another run is writing the same output."""


class CheckpointError(MachineError):
    """Files of a model that are incomplete, damaged or not understood."""


class MissingPackageError(MachineError):
    """A package that an extra brings is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'fastqwen[{extra}]'")
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingPackageError], tuple[str, str]]:
        return type(self), (self.package, self.extra)


class ServerError(FastqwenError):
    exit_status = 4


class NoEngineError(ServerError):
    """Nothing that could compute was found."""


class AbsentServerError(NoEngineError):
    """A server that does not answer; `why` is the message without what to do."""

    def __init__(self, why: str, instead: str) -> None:
        super().__init__(f"{why}; {instead}")
        self.why = why
        self.instead = instead

    def __reduce__(self) -> tuple[type[AbsentServerError], tuple[str, str]]:
        return type(self), (self.why, self.instead)


class WrongServerError(ServerError):
    """A server that answers, but not as what was asked for."""


class RowError(FastqwenError):
    """One row can't be answered.

    Attributes:
        type: a stable name such as `image.truncated`, for programs.
        flags: what was noticed before it failed.
        attempts: how often a server was asked.
    """

    def __init__(self, type: str, message: str, flags: Sequence[str] = (), attempts: int = 0) -> None:
        super().__init__(message)
        self.type = type
        self.flags = tuple(flags)
        self.attempts = attempts

    def __reduce__(self) -> tuple[type[RowError], tuple[str, str, tuple[str, ...], int]]:
        return type(self), (self.type, str(self), self.flags, self.attempts)


# Of the servers' refusals those that a question gets wherever, and whenever, it is asked.
_CERTAIN = frozenset({"server.refused", "server.mismatch", "server.poison", "offline.miss", "dry.miss"})


def is_certain(error: Exception) -> bool:
    """Whether it follows from the question alone: an equal one that was asked meanwhile fails alike."""
    if isinstance(error, AnswerError):
        return error.type in _CERTAIN
    # A process that decodes may have been killed from outside.
    return (
        isinstance(error, TextError | LabelError | ScoreError | ImageError) and error.type != "image.crashed"
    )


class ImageError(RowError):
    """An image that is missing, unreadable, refused or broken."""


class TextError(RowError):
    """A text that can't be sent: too long, or not Unicode."""


class LabelError(RowError):
    """Labels that can't be read at this place of this vocabulary."""


class ScoreError(RowError):
    """A reading that is no number."""


class ItemError(RowError):
    """A candidate or history item that can't be resolved."""


class AnswerError(RowError):
    """A row that no server answered, or that one refused."""


class SchemaError(RowError):
    """A row that lacks a field or has one of the wrong type."""
