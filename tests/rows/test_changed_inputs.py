"""An input is what was checked: a row that is another, is missing or is new is noticed, a touch is not."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Fastqwen, write_rows
from tgi_stack.errors import InputError
from tgi_stack.jobs import spec
from tgi_stack.jobs.rerank.items import join_items
from tgi_stack.jobs.spec import READINGS, opened
from tgi_stack.rows.looking.check import check
from tgi_stack.rows.looking.per_row import Numbers, digest_of
from tgi_stack.rows.manifest import question
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.reader import Source
from tgi_stack.rows.schema import Schema
from tgi_stack.settings import load

CHANGED = "the input changed while it was read"
Rows = list[dict[str, Any]]
ROWS: Rows = [{"id": f"r{n}", "prompt": f"prompt {n}", "labels": ["A", "B"]} for n in range(600)]


def write(path: Path, rows: Rows) -> Path:
    """Rows in the format that the suffix asks for, in place: the file stays the one it is."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(rows[0])
            table.writerows([json.dumps(v) if isinstance(v, list) else v for v in r.values()] for r in rows)
    else:
        lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def checked(path: Path) -> Source:
    source = open_source(str(path), kind="probs")
    assert check(source, Schema("probs")) == len(ROWS)
    return source


def other(rows: Rows) -> Rows:
    return [*rows[:400], rows[400] | {"prompt": "another"}, *rows[401:]]


def fewer(rows: Rows) -> Rows:
    return rows[:-3]


def one_less(rows: Rows) -> Rows:
    return rows[:400] + rows[401:]


def more(rows: Rows) -> Rows:
    return [*rows, rows[0] | {"id": "new"}]


def swapped(rows: Rows) -> Rows:
    return [*rows[:400], rows[401], rows[400], *rows[402:]]


def labels(rows: Rows) -> Rows:
    return [*rows[:-1], rows[-1] | {"labels": ["A", "C"]}]


def renamed(rows: Rows) -> Rows:
    return [{name.replace("prompt", "note"): value for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "parquet"])
@pytest.mark.parametrize("change", [other, fewer, one_less, more, swapped, labels, renamed])
def test_changed_rows_are_noticed(tmp_path: Path, suffix: str, change: Callable[[Rows], Rows]) -> None:
    path = write(tmp_path / f"r.{suffix}", ROWS)
    source = checked(path)
    write(path, change(ROWS))
    read = []
    with pytest.raises(InputError, match=CHANGED):
        read = [raw.value for raw in source.rows()]
    with pytest.raises(InputError, match=CHANGED):
        source.refuse_changed()
    assert read in ([], ROWS)


def test_rows_before_the_changed_one_are_given(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", ROWS)
    source = checked(path)
    write(path, other(ROWS))
    rows = iter(source)
    assert [raw.value for raw in islice(rows, 400)] == ROWS[:400]
    with pytest.raises(InputError, match="row 401 is not what it was"):
        next(rows)


def test_a_blank_line_in_place_of_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", ROWS)
    source = checked(path)
    path.write_text(path.read_text().replace(json.dumps(ROWS[5]), " " * len(json.dumps(ROWS[5]))))
    with pytest.raises(InputError, match="a row before row 7 is missing"):
        list(source)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_times_alone_say_nothing(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"r.{suffix}", ROWS)
    source = checked(path)
    os.utime(path)
    assert len(list(source)) == len(ROWS)
    source.refuse_changed()
    write(path, ROWS)
    source.refuse_changed()
    before = path.stat()
    write(path, swapped(ROWS))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match=CHANGED):
        list(source)


def test_a_change_that_is_undone_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", ROWS)
    source = checked(path)
    write(path, [ROWS[0], ROWS[1] | {"prompt": "another"}, *ROWS[2:]])
    rows = iter(source)
    assert next(rows).value == ROWS[0]
    write(path, ROWS)  # the second row was read ahead
    with pytest.raises(InputError, match="row 2 is not what it was"):
        next(rows)


@pytest.mark.parametrize("gone", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-400])])
def test_a_torn_or_missing_file_is_changed(tmp_path: Path, gone: Callable[[Path], object]) -> None:
    path = write(tmp_path / "r.parquet", ROWS)
    source = checked(path)
    gone(path)
    with pytest.raises(InputError, match=CHANGED):
        list(source)


@pytest.mark.parametrize("place", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "parquet"])
@pytest.mark.parametrize("folder", [False, True])
def test_what_is_no_file_by_now_is_left(
    tmp_path: Path, suffix: str, place: Callable[[Path], object], folder: bool
) -> None:
    path = write(tmp_path / f"r.{suffix}", ROWS)
    source = checked(tmp_path if folder else path)
    path.unlink()
    place(path)
    for look in (lambda: list(source), source.refuse_changed, source.look_again):
        with pytest.raises(InputError, match=CHANGED):
            look()


def test_pictures_that_come_or_go_are_noticed(tmp_path: Path) -> None:
    for name in ("b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff\xe0 a picture")
    source = open_source(str(tmp_path), folders=True)
    assert len(list(source.look())) == 2
    assert len(list(source)) == 2
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    with pytest.raises(InputError, match="row 1 is not what it was"):
        list(source)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "c.jpg").unlink()
    with pytest.raises(InputError, match="rows are missing after row 1"):
        list(source)


def test_items_are_held_to_their_bytes(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "i.jsonl", {"id": "a", "title": "x"})
    source = open_source(str(path), kind="item")
    source.digest()
    os.utime(path)
    source.refuse_changed()
    write_rows(path, {"id": "a", "title": "y"})
    with pytest.raises(InputError, match=CHANGED):
        source.refuse_changed()


def test_what_was_digested_is_what_is_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", ROWS)
    source = open_source(str(path), kind="probs")
    source.digest()
    os.utime(path)
    assert source.look_again() == len(ROWS)
    write(path, labels(ROWS))
    with pytest.raises(InputError, match="not what the run began with"):
        source.look_again()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=50)
@given(VALUES, VALUES)
def test_digests_tell_values_apart(one: Any, another: Any) -> None:
    same = json.dumps(one, default=repr) == json.dumps(another, default=repr)
    assert (digest_of(one) == digest_of(another)) == same
    assert digest_of(one) != 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 400_000), st.integers(-(2**63), 2**63 - 1), max_size=200))
def test_numbers_are_kept_for_any_rows(numbers: dict[int, int]) -> None:
    kept = Numbers()
    for row, number in numbers.items():
        kept.set(row, number)
    assert {row: kept.get(row) for row in numbers} == numbers
    assert list(kept.values()) == [numbers[row] for row in sorted(numbers) if numbers[row]]
    assert list(islice(kept.values(), 3)) == [numbers[row] for row in sorted(numbers) if numbers[row]][:3]


def joining(base: Path, source: Source, name: str, content: bytes) -> None:
    """Reads half of what was checked, has a file come into the folder, and reads the rest."""
    assert len(list(source.look())) == 3
    rows = iter(source)
    read = [next(rows)]
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).write_bytes(content)
    read += rows
    assert len(read) == 3
    source.refuse_changed()


PICTURE = b"\xff\xd8\xff\xe0 a picture"
LINE = json.dumps({"id": "new", "prompt": "p", "labels": ["A", "B"]}).encode() + b"\n"


@pytest.mark.parametrize("name", ["a.jpg", "z.jpg", "deep/z.jpg", "z"])
def test_a_picture_that_joins_is_noticed(tmp_path: Path, name: str) -> None:
    for kept in ("b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / kept).write_bytes(PICTURE)
    with pytest.raises(InputError, match=CHANGED):
        joining(tmp_path, open_source(str(tmp_path), folders=True), name, PICTURE)


@pytest.mark.parametrize("name", ["notes.txt", ".z.jpg", "rows.jsonl"])
def test_what_is_no_picture_may_join(tmp_path: Path, name: str) -> None:
    for kept in ("b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / kept).write_bytes(PICTURE)
    joining(tmp_path, open_source(str(tmp_path), folders=True), name, LINE)


@pytest.mark.parametrize("pattern", ["", "part-*", "**/part-*"])
@pytest.mark.parametrize("name", ["part-0.jsonl", "part-9.jsonl", "deep/part-1.jsonl"])
def test_a_part_that_joins_is_noticed(tmp_path: Path, pattern: str, name: str) -> None:
    for number, row in enumerate(ROWS[:3], 1):
        write(tmp_path / f"part-{number}.jsonl", [row])
    source = open_source(str(tmp_path / pattern), kind="probs")
    if pattern == "part-*" and name.startswith("deep"):
        joining(tmp_path, source, name, LINE)  # the pattern does not name it
        return
    with pytest.raises(InputError, match=f"{CHANGED}.*{name} came into it"):
        joining(tmp_path, source, name, LINE)


@pytest.mark.parametrize("name", ["notes.txt", ".part-4.jsonl", "_SUCCESS", "part-4.parquet.tmp"])
def test_what_is_no_part_may_join(tmp_path: Path, name: str) -> None:
    for number, row in enumerate(ROWS[:3], 1):
        write(tmp_path / f"part-{number}.jsonl", [row])
    joining(tmp_path, open_source(str(tmp_path), kind="probs"), name, LINE)


def test_an_emptied_folder_is_changed(tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path / "part-1.jsonl", ROWS[:3]).parent), kind="probs")
    list(source.look())
    (tmp_path / "part-1.jsonl").unlink()
    with pytest.raises(InputError, match=CHANGED):
        source.refuse_changed()


@pytest.mark.parametrize(
    ("given", "out", "taken"),
    [
        ("in", "in/out.jsonl", True),
        ("in", "in/deep/out.parquet", True),
        ("in", "other/../in/out.jsonl", True),
        ("in", "link/out.jsonl", True),
        ("in", "in/.hidden/out.jsonl", False),
        ("in", "out.jsonl", False),
        ("in/part-*", "in/part-9.jsonl", True),
        ("in/part-*", "in/out.jsonl", False),
        ("in/*", "in/deep/out.jsonl", False),
        ("in/**/*.jsonl", "in/out.jsonl", True),
        ("in/**/*.jsonl", "in/deep/out.jsonl", True),
        ("i[mn]/*.jsonl", "in/out.jsonl", True),
    ],
)
def test_out_is_no_part_of_the_input(
    fastqwen: Fastqwen, tmp_path: Path, given: str, out: str, taken: bool
) -> None:
    for folder in ("in/deep", "other"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("in", target_is_directory=True)
    write(tmp_path / "in" / "part-1.jsonl", ROWS[:1])
    done = fastqwen("probs", given, "-o", out, "--engine", "scripted", check=2 if taken else 0)
    assert ("would be read as rows of the input" in done.stderr) == taken
    assert taken != (tmp_path / out).exists()


def test_the_prompt_noted_is_the_one_read(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{{history}} {{candidates}}")
    rows = write(tmp_path / "rows.jsonl", ROWS[:1])
    chosen = load({"prompt_file": str(prompt)}, {})

    def asked(change: str = "") -> Any:
        job, source = opened("rerank", str(rows), (), {}, chosen)
        prompt.write_text(prompt.read_text() + change)
        return question("rerank", chosen, source, [], job.template)["--prompt-file"]

    assert asked() == asked(" Which?") != asked()


@pytest.mark.parametrize("times", [1, READINGS])
def test_items_half_there_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    path, rows = tmp_path / "i.jsonl", write(tmp_path / "rows.jsonl", ROWS[:1])
    whole = [{"id": name, "title": name} for name in "abc"]
    job, _ = opened("rerank", str(rows), [str(write_rows(path, *whole))], {}, load({}, {}))
    job.items[0].digest()
    left = [None] * times

    def join(*given: Any, **options: Any) -> Any:
        """Reads what is half there, so many times; then the file is what it was."""
        if not left:
            return join_items(*given, **options)
        left.pop()
        write_rows(path, whole[0])
        found = join_items(*given, **options)
        write_rows(path, *whole)
        return found

    monkeypatch.setattr(spec, "join_items", join)
    if times < READINGS:
        assert set(job.joined()) == {"a", "b", "c"}
    else:
        with pytest.raises(InputError, match="written to while it was read"):
            job.joined()
