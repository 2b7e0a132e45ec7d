"""Prints what each package of pyproject.toml costs here: its version, its size on disk, and its import alone
in milliseconds of the processor.

    python tools/dependencies.py
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMES = 5  # the least of so many
MODULES = {
    "pillow": "PIL.Image",
    "pyarrow": "pyarrow.parquet",
    "scipy": "scipy.stats",
    "pillow-heif": "pillow_heif",
}


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bare = _seconds("pass")
    print(f"{'package':24}{'extra':10}{'version':12}{'MB':>8}{'import, ms':>12}")
    groups = {"": project["dependencies"]} | project["optional-dependencies"]
    for extra, requirements in groups.items():
        if extra == "dev":
            continue
        for name in _names(requirements):
            print(_line(name, extra, bare))


def _names(requirements: list[str]) -> Iterator[str]:
    for one in requirements:
        yield re.split(r"[^A-Za-z0-9._-]", one)[0]


def _line(name: str, extra: str, bare: float) -> str:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return f"{name:24}{extra:10}not installed"
    module = MODULES.get(name, name.replace("-", "_"))
    took = 1000 * (_seconds(f"import {module}") - bare)
    return f"{name:24}{extra:10}{found.version:12}{_megabytes(found):8.1f}{max(took, 0):12.0f}"


def _megabytes(found: Distribution) -> float:
    sizes = (Path(str(found.locate_file(path))) for path in found.files or [])
    return sum(path.stat().st_size for path in sizes if path.is_file()) / 1e6


def _seconds(program: str) -> float:
    return min(_once(program) for _ in range(TIMES))


def _once(program: str) -> float:
    before = _used()
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603  # our own interpreter
    return _used() - before


def _used() -> float:
    """Seconds of the processor that the processes started here have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
