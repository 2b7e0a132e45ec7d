"""Environments beside .venv in which some of the tests run: `oldest` and `tgi`.

    python tools/environments.py oldest

- `oldest` holds the lowest version of each package that pyproject.toml names for the core and for the extras
  that are tested in it, torch excepted, as uv resolves them;
- `tgi` holds the extra `tgi`: text-generation wants a huggingface-hub that transformers 5 can't have.

Prints the environment's Python. An environment is built once for a pyproject.toml and a constraints.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINNED = ROOT / "constraints.txt"
FOLDER = ROOT / "out" / "environments"
# Not `ray`, which is one release; not `tgi` and `unsloth`, which can't live beside the rest.
CLAIMED = ("torch", "heif", "quant", "plot", "object", "tier", "lora", "gguf", "schema")
EXTRAS = {"oldest": (*CLAIMED, "dev"), "tgi": ("tgi", "dev")}
# What the extra `tgi` can't have at the pinned version.
AGED = ("huggingface-hub", "transformers", "tokenizers")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(EXTRAS))
    name = parser.parse_args().name
    folder = FOLDER / name
    python = folder / "bin" / "python"
    key = _key()
    ready = folder / f"ready-{key}"
    if not ready.exists():
        print(f"building {folder.relative_to(ROOT)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _build(name, folder, python)
        ready.touch()
    print(python.relative_to(ROOT))


def _key() -> str:
    parts = (Path(__file__), PINNED, ROOT / "pyproject.toml")
    whole = b"".join(part.read_bytes() for part in parts) + sys.version.encode()
    return hashlib.sha256(whole).hexdigest()[:12]


def _build(name: str, folder: Path, python: Path) -> None:
    _run(sys.executable, "-m", "venv", folder)
    _run(python, "-m", "pip", "install", "-q", "uv")
    wanted, constraints = folder / "wanted.txt", folder / "constraints.txt"
    wanted.write_text("".join(f"{package}=={version}\n" for package, version in _wanted(name).items()))
    extras = [word for extra in EXTRAS[name] for word in ("--extra", extra)]
    resolve: list[str | Path] = [
        folder / "bin" / "uv",
        "pip",
        "compile",
        "-q",
        "--no-header",
        "--no-annotate",
        *extras,
    ]
    resolve += ["--resolution", "lowest-direct", "-c", wanted, "--python", python, "-o", constraints]
    _run(*resolve, ROOT / "pyproject.toml")
    _run(python, "-m", "pip", "install", "-q", "-c", constraints, "-e", f"{ROOT}[{','.join(EXTRAS[name])}]")


def _wanted(name: str) -> dict[str, str]:
    """What is not left to the resolver: for `oldest` torch, and the packages that only the tests need."""
    pinned = _pinned()
    if name == "tgi":
        return {package: version for package, version in pinned.items() if package not in AGED}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = [*project["dependencies"]]
    for extra in CLAIMED:
        claimed += project["optional-dependencies"][extra]
    tools = _names(project["optional-dependencies"]["dev"]) - _names(claimed)
    return {package: pinned[package] for package in ("torch", *sorted(tools))}


def _names(requirements: Iterable[str]) -> set[str]:
    return {_normal(re.split(r"[^A-Za-z0-9._-]", one)[0]) for one in requirements}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pinned() -> dict[str, str]:
    """The versions of constraints.txt."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", PINNED.read_text(), re.MULTILINE)
    return {_normal(name): version for name, version in found}


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603  # pip and uv


if __name__ == "__main__":
    main()
