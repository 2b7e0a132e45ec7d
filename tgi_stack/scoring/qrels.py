"""What is relevant, as a TREC qrels file says it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from tgi_stack.errors import InputError
from tgi_stack.text_files import TextFileError, as_utf_8, opened, short_lines

LOG = logging.getLogger(__name__)

MAX_LINE = 2**20  # bytes
GRADE = re.compile("[+-]?[0-9]+")  # `int` takes more: 1_0, and digits of other scripts
MOST_GRADE = 10**6  # the library counts the candidates of each grade up to the highest


@dataclass(frozen=True)
class Qrels:
    """What a qrels file holds.

    Attributes:
        grades: by query and candidate, their ids decoded.
        written: ids as they stand in the file -> as they are decoded, where the two differ: the file may mean
            them as they stand.
    """

    grades: dict[str, dict[str, int]] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    def of(self, query: str, candidates: Sequence[str]) -> dict[str, int]:
        """The grades of a query by the ids of its candidates: of two that one id stands for, the decoded."""
        name = query if query in self.grades else self.written.get(query, query)
        grades = dict(self.grades.get(name, {}))
        for id in candidates:
            decoded = self.written.get(id, id)
            if decoded in grades and decoded != id and id not in grades and decoded not in candidates:
                grades[id] = grades.pop(decoded)
        return grades

    def without(self, seen: set[str]) -> tuple[str, ...]:
        """The queries with positives of which there is no record."""
        found = seen | {self.written[id] for id in seen & self.written.keys()}
        return tuple(
            query
            for query, grades in self.grades.items()
            if query not in found and any(grade > 0 for grade in grades.values())
        )


def read_qrels(path: Path) -> Qrels:
    """Grades of a TREC qrels file; percent-encoded ids are decoded as `metrics.trec_lines` encodes them.

    A candidate that stands twice with one grade counts once, and is said.

    Raises:
        InputError: a line that is not `query 0 candidate grade`, or one candidate twice with two grades.
    """
    found = Qrels()
    places: dict[tuple[str, str], int] = {}
    doubled: list[int] = []
    try:
        with opened(path) as file:
            for number, line in enumerate(short_lines(as_utf_8(file), MAX_LINE), 1):
                if line.strip():
                    first = _take_grade(found, places, line, f"{path}:{number}", number)
                    doubled += [number] if first != number else []
    except TextFileError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if doubled:
        LOG.warning(
            f"{path}: lines that repeat an earlier one count once: {len(doubled):,} (first line {doubled[0]})"
        )
    return found


def _take_grade(
    found: Qrels,
    places: dict[tuple[str, str], int],
    line: bytes,
    place: str,
    number: int,
) -> int:
    """Keeps a line's grade: the number of the line in which its candidate stands first."""
    try:
        query, _, candidate, grade = line.decode().split()
        value = int(grade if GRADE.fullmatch(grade) else "")
    except ValueError as error:
        raise InputError(f"{place}: not `query 0 candidate grade`") from error
    if abs(value) > MOST_GRADE:
        raise InputError(f"{place}: a grade of {grade[:20]}; grades go up to {MOST_GRADE:,}")
    pair = _decoded(query), _decoded(candidate)
    found.written.update((raw, id) for raw, id in zip((query, candidate), pair, strict=True) if raw != id)
    known = found.grades.setdefault(pair[0], {})
    if known.setdefault(pair[1], value) != value:
        raise InputError(
            f"{place}: {pair[1]!r} of query {pair[0]!r} has the grade {value}, in line {places[pair]} "
            f"{known[pair[1]]}; leave one of the lines out"
        )
    return places.setdefault(pair, number)


def _decoded(id: str) -> str:
    try:
        return unquote(id, errors="strict")
    except UnicodeDecodeError:  # percent signs of its own
        return id
