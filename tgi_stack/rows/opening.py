"""The source that an INPUT argument names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tgi_stack.errors import InputError
from tgi_stack.rows.columns import Kind, Wanted
from tgi_stack.rows.folder import FilesOfRows, is_rows, list_folder
from tgi_stack.rows.formats import STANDARD_INPUT, spooled
from tgi_stack.rows.reader import File, Folder, Parts, Source
from tgi_stack.rows.stores.copies import fetched
from tgi_stack.rows.stores.urls import place_of


def open_source(
    name: str,
    *,
    folders: bool = False,
    columns: Mapping[str, str] | None = None,
    kind: Kind | None = None,
    limit: int | None = None,
) -> Source:
    """The source that an INPUT argument names: `-`, a file, or a folder: of files of rows, which are
    read as one input, or (with `folders`) of images, where it holds any.

    Args:
        columns: our name of a field -> the file's own, as `--map` gives them.
        kind: whose fields are asked for; None for all that there are.
        limit: how many rows are wanted at most: no more of JSON lines are taken out of a pipe.

    Raises:
        InputError: no such file, a folder with nothing in it that is taken, or a suffix that is not read.
    """
    if name == "-":
        return File(spooled(rows=limit), Path.cwd(), STANDARD_INPUT, Wanted(kind, columns))
    if (url := place_of(name)) is not None:
        rows = None if folders else is_rows
        found = _open_here(fetched(url, rows), str(url), folders, columns, kind, limit)
        found.place = str(url)
    elif not Path(name).exists() and (matching := FilesOfRows.matching(name)) is not None:
        found = Parts(matching, columns, kind)
        found.place = os.path.abspath(name)
    else:
        found = _open_here(Path(name), name, folders, columns, kind, limit)
    return found


def _open_here(
    path: Path,
    name: str,
    folders: bool,
    columns: Mapping[str, str] | None,
    kind: Kind | None,
    limit: int | None,
) -> Source:
    """The source that a path of this host is."""
    if path.is_dir():
        return _open_folder(path, columns, kind, pictures=folders)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_fifo():  # can be read once only
        return File(spooled(path, "".join(path.suffixes), limit), path.parent, name, Wanted(kind, columns))
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a pipe; give one, or - for standard input")
    return File(path, path.parent, name, Wanted(kind, columns))


def _open_folder(
    path: Path, columns: Mapping[str, str] | None, kind: Kind | None, *, pictures: bool
) -> Source:
    """Pictures, where they are taken and some are there; else the files of rows as one input."""
    if pictures:
        found = list_folder(path)
        if found.pictures or not found.parts:
            return Folder(path)
    return Parts(FilesOfRows(path), columns, kind)
