"""Builds the wheel, installs it with [torch] in an empty environment outside the clone, and uses it there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, folder: Path) -> None:
    """Runs a command in a folder; fails where it does."""
    print("$", *command, flush=True)
    subprocess.run(command, check=True, cwd=folder)  # noqa: S603


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fastqwen-wheel-") as name:
        folder = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, folder=folder)
        wheel = next(folder.glob("*.whl"))
        run(sys.executable, "-m", "venv", folder / "env", folder=folder)
        binaries = folder / "env" / "bin"
        pins = ROOT / "constraints.txt"
        run(binaries / "pip", "install", "-q", "-c", pins, f"{wheel}[torch]", folder=folder)
        run(binaries / "fastqwen", "--help", folder=folder)
        images = ROOT / "examples" / "catalogue" / "images"
        fastqwen = (binaries / "fastqwen", "summarize", images, "--limit", "3", "--engine", "torch")
        run(*fastqwen, "--model", "tiny", folder=folder)


if __name__ == "__main__":
    main()
