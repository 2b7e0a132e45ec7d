"""Whether one environment can hold fastqwen with its extra `torch` and today's vLLM (Linux x86-64).

    python tools/beside_vllm.py [PACKAGE ...]

uv resolves both and installs nothing: versions of what both want are printed, or why there are none, with its
exit status. PACKAGE is `vllm` unless another is named, such as `vllm==0.33.0`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from environments import ROOT, _cache

SHOWN = ("vllm", "torch", "transformers", "huggingface-hub", "tokenizers", "llguidance", "numpy", "pillow")
PLATFORM = "x86_64-manylinux_2_28"


def resolver() -> Path:
    """uv, in an environment of its own outside the clone."""
    folder = _cache() / "uv"
    if not (folder / "bin" / "uv").exists():
        venv.create(folder, with_pip=True, clear=True)
        install: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "install", "-q", "uv"]
        subprocess.run(install, check=True)  # noqa: S603  # pip
    return folder / "bin" / "uv"


def main() -> None:
    wanted = sys.argv[1:] or ["vllm"]
    with tempfile.TemporaryDirectory() as folder:
        beside, found = Path(folder) / "beside.in", Path(folder) / "found.txt"
        beside.write_text("\n".join(wanted) + "\n")
        command: list[str | Path] = [resolver(), "pip", "compile", "-q", "--no-header", "--no-annotate"]
        command += ["--python", sys.executable, "--python-platform", PLATFORM, "--extra", "torch"]
        command += [ROOT / "pyproject.toml", beside, "-o", found]
        done = subprocess.run(command, check=False)  # noqa: S603  # uv
        if done.returncode:
            raise SystemExit(done.returncode)
        versions = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", found.read_text(), re.MULTILINE))
    told = ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
    print(f"one environment holds fastqwen[torch] and {' '.join(wanted)}: {told}")


if __name__ == "__main__":
    main()
