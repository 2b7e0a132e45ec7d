"""Strict JSON lines: what `json` alone lets through is refused here, in and out."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import orjson

MAX_LINE_BYTES = 32 * 2**20
MAX_DIGITS = 4300  # of an integer: more take Python a time that grows with their square
FLOATS_FROM = 2.0**63

# Characters that some readers take for the end of a line; escaped, a record stays one line for all of them.
_LINE_BREAKS = {c.encode(): b"\\u%04x" % ord(c) for c in "\x85\u2028\u2029"}


class LineError(ValueError):
    """A line that is not strict JSON; `column` counts from 1."""

    def __init__(self, message: str, column: int = 1) -> None:
        super().__init__(message)
        self.column = column


def loads(line: bytes, *, most: float = MAX_LINE_BYTES) -> dict[str, Any]:
    """The object a line of at most `most` bytes holds.

    Raises:
        LineError: not UTF-8, not JSON, not an object, NaN or Infinity, a duplicate key, too deep, too long.
    """
    if len(line) > most:
        raise LineError(f"the line has {len(line):,} bytes; at most {most:,}")
    value = quick(line)
    return _strictly(line) if value is None else value  # the strict decoder says what is wrong


def quick(line: bytes) -> dict[str, Any] | None:
    """The object that some JSON is, where orjson alone can tell; None where a strict decoder has to."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if type(value) is dict and _is_whole(value, line) else None


def _is_whole(value: dict[str, Any], line: bytes) -> bool:
    """Whether a value is all that stands in a line, as it stands there.

    Of a key that stands twice orjson keeps the last: each key has a colon, so where all that stand in the
    line are accounted for, none was dropped. Of an integer beyond 64 bits, which has 19 digits or more, it
    makes a float.
    """
    if b"\\u003" in line:
        return False
    try:
        if _LONG not in line.translate(_DIGITS):
            return line.count(b":") == orjson.dumps(value).count(b":")
        return line.count(b":") == _colons(value)
    except (RecursionError, orjson.JSONEncodeError):  # nested deeply
        return False


def _colons(value: dict[str, Any] | list[Any]) -> float:
    """The colons of a value as compact JSON, unless some are escaped there.

    Not a number where a float may be an integer that was rounded.
    """
    found: float
    inner: Any
    if type(value) is dict:
        found, inner = len(value) + "".join(value).count(":"), value.values()
    else:
        found, inner = 0, value
        if (kinds := set(map(type, inner))) == {str}:  # as most lists are
            return "".join(inner).count(":")
        if kinds == {float} and min(inner) > -FLOATS_FROM and max(inner) < FLOATS_FROM:
            return 0
    for one in inner:
        kind = type(one)
        if kind is str:
            found += one.count(":")
        elif kind is dict or kind is list:
            found += _colons(one)
        elif kind is float and abs(one) >= FLOATS_FROM:
            return math.nan
    return found


def _strictly(line: bytes) -> dict[str, Any]:
    try:
        value = value_of(line.decode())
    except UnicodeDecodeError as error:
        raise LineError(f"not UTF-8: {error.reason}", error.start + 1) from error
    if not isinstance(value, dict):
        raise LineError("not a JSON object")
    return value


def value_of(text: str) -> Any:
    """Any JSON value.

    Raises:
        LineError: see `loads`.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")  # some of Python's messages go on with the place
        raise LineError(f"not JSON: {reason[:1].lower()}{reason[1:]}", error.colno) from error
    except RecursionError as error:
        raise LineError("nested too deeply") from error


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise LineError(f"an integer of {len(digits):,} digits; at most {MAX_DIGITS:,}")
    return int(digits)


def _number(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise LineError(f"{text[:20]} is beyond what a number holds")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise LineError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise LineError(f"key {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return value


def dumps(record: dict[str, Any]) -> bytes:
    """A record as one line of UTF-8, its newline included.

    Raises:
        ValueError: a number in it is not finite.
    """
    try:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # a lone surrogate, which no UTF-8 has, is written as its escape
        line = _ENCODER.encode(record).encode("utf-8", "backslashreplace") + b"\n"
    # orjson writes null for what is not finite; that would pass for a value nobody knows.
    if b"null" in line and not is_finite(record):
        raise ValueError("a number of the record is not finite")
    return in_one_line(line)


def in_one_line(line: bytes) -> bytes:
    """JSON in which nothing else than its end passes for one."""
    if not line.isascii():
        for character, escape in _LINE_BREAKS.items():
            line = line.replace(character, escape)
    return line


def is_finite(value: Any) -> bool:
    """Whether all numbers of a record are."""
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is dict:
        return all(map(is_finite, value.values()))
    return all(map(is_finite, value)) if isinstance(value, list | tuple) else True


_DIGITS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else 0 for byte in range(256))
_LONG = b"0" * 19
# Made once: making them costs as much as a short line does.
_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=_integer, parse_float=_number, object_pairs_hook=_no_duplicates
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
