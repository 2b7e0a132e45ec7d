"""Runs a notebook from its first cell to its last, in a folder of its own, and stores what it shows.

    python tools/run_notebook.py examples/tour.ipynb

A test holds what is stored to what runs (`tests/examples/test_walk.py`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

LONGEST_S = 300  # of a cell


def read(path: Path) -> Any:
    """The notebook as it is stored."""
    return nbformat.read(path, as_version=4)


def ran(path: Path) -> Any:
    """The notebook with what it shows now.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = read(path)
    known = {name: value for name, value in os.environ.items() if not name.startswith("FASTQWEN_")}
    root = path.resolve().parents[1]
    known |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=known)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
    notebook.metadata.pop("language_info", None)
    return notebook


def shown(notebook: Any) -> Iterator[list[str]]:
    """What each cell of code shows, as text."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            yield [text for output in cell.outputs for text in _texts(output)]


def _texts(output: Any) -> Iterator[str]:
    if output.output_type == "stream":
        yield output.text
    elif output.output_type == "error":
        yield output.evalue
    else:
        found = output.data
        yield str(found.get("text/html") or found.get("text/plain"))


def main() -> None:
    for name in sys.argv[1:]:
        path = Path(name)
        nbformat.write(ran(path), path)


if __name__ == "__main__":
    main()
