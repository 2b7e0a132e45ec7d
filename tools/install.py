"""What `make setup` runs: a virtual environment with fastqwen and the exact versions of constraints.txt.

Needs Python alone. Before torch is fetched it says which build pip has chosen: on Linux the public registry
has CUDA builds only, which bring gigabytes of packages beside them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"


def torch_pin() -> str:
    """The `torch==...` line of the constraints."""
    return next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))


def announce_torch(python: Path, index: list[str], wanted: str) -> None:
    """Says which torch pip would install from here, and what comes with it; refuses a CPU one for `cuda`."""
    command = [str(python), "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run(  # noqa: S603  # our own interpreter and arguments
        [*command, "-c", str(CONSTRAINTS), *index, torch_pin()], check=True, capture_output=True, text=True
    )
    packages = [entry["metadata"] for entry in json.loads(report.stdout)["install"]]
    version = next(p["version"] for p in packages if p["name"] == "torch")
    cuda = [p["name"] for p in packages if p["name"].startswith(("nvidia-", "cuda-"))]
    if not cuda and wanted == "cuda" and sys.platform == "linux":
        raise SystemExit(f"setup: your package index has torch {version} without CUDA; give TORCH_INDEX=URL")
    if not cuda:
        print(f"setup: torch {version}, a build without CUDA packages (about 0.2 GB to fetch)")
        return
    print(f"setup: torch {version} with {len(cuda)} CUDA packages (several GB to fetch)")
    print("       for a CPU build: make setup TORCH_INDEX=URL, with the CPU index that pytorch.org names")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--torch", choices=("cpu", "cuda", "none"), required=True)
    parser.add_argument("--torch-index", default="")
    args = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036  # whatever Python the user has runs this
        raise SystemExit(
            f"setup: Python 3.11 or later is needed, this is {sys.version.split()[0]}; use PYTHON=..."
        )
    subprocess.run([sys.executable, "-m", "venv", args.venv], check=True)  # noqa: S603
    python = args.venv / "bin" / "python"
    index = ["--extra-index-url", args.torch_index] if args.torch_index else []
    # Quantised weights are tested where torch is; bitsandbytes computes on a CPU as well.
    extras = "dev" if args.torch == "none" else "torch,quant,dev"
    if args.torch == "none":
        print("setup: no torch: a client of servers; the engine here and its tests need TORCH=cpu or cuda")
    else:
        announce_torch(python, index, args.torch)
    install = [python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, *index, "-e", f"{ROOT}[{extras}]"]
    subprocess.run(install, check=True)  # noqa: S603
    print(f"setup: ready, try {args.venv}/bin/fastqwen --help")


if __name__ == "__main__":
    main()
