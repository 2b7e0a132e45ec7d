"""Writes constraints.txt from what is installed beside this interpreter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HEADER = "# The exact versions that `make setup` installs. Made by: make lock\n"


def main() -> None:
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    # A local version such as torch's +cpu names one build; the constraint is for all of them.
    lines = sorted(re.sub(r"\+\w+$", "", line) for line in frozen.splitlines())
    (Path(__file__).resolve().parents[1] / "constraints.txt").write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
