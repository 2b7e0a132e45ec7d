"""Programs that stand in for others on PATH: they note each call and print what they are told to."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

_SCRIPT = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
words = " ".join(sys.argv[1:])
before = (folder / "calls").read_text() if (folder / "calls").exists() else ""
with open(folder / "calls", "a") as calls:
    calls.write(words + "\\n")
for part, status, stdout, stderr, after in json.loads((folder / "plays.json").read_text()):
    if part in words and after in before:
        sys.stdout.write(stdout)
        sys.stderr.write(stderr)
        sys.exit(status)
"""


class StandIn:
    """One program; what is told last is looked at first, a call that matches nothing ends well and silent."""

    def __init__(self, name: str, programs: Path) -> None:
        self._folder = programs.parent / f"{name}.d"
        self._folder.mkdir(parents=True)
        self._plays: list[tuple[str, int, str, str, str]] = []
        self._write()
        path = programs / name
        path.write_text(_SCRIPT.format(python=sys.executable, folder=str(self._folder)))
        path.chmod(0o755)

    def play(
        self, part: str, stdout: str = "", *, status: int = 0, stderr: str = "", after: str = ""
    ) -> StandIn:
        """How a call with `part` among its words goes, once one with `after` has been made."""
        self._plays.insert(0, (part, status, stdout, stderr, after))
        self._write()
        return self

    def _write(self) -> None:
        (self._folder / "plays.json").write_text(json.dumps(self._plays))

    @property
    def calls(self) -> list[str]:
        noted = self._folder / "calls"
        return noted.read_text().splitlines() if noted.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder of PATH, but for what scripts need: the machine has no Docker and no GPU."""
    folder = tmp_path / "programs" / "bin"
    folder.mkdir(parents=True)
    others = tmp_path / "programs" / "others"
    others.mkdir()
    for name in ("sh", "env", "tr", "make", "printf"):
        found = next((p for p in map(Path, os.environ["PATH"].split(":")) if (p / name).exists()), None)
        if found is not None:
            (others / name).symlink_to(found / name)
    monkeypatch.setenv("PATH", f"{folder}:{others}")
    return folder
