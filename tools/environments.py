"""Environments beside .venv in which some of the tests run: `oldest` and `tgi`.

    python tools/environments.py oldest

- `oldest` holds the lowest version of each package that pyproject.toml names for the core and for the extras
  that are tested in it, torch excepted, as uv resolves them;
- `tgi` holds the extra `tgi`: text-generation wants a huggingface-hub that transformers 5 can't have.

Prints the environment's Python. Its packages are installed once for a pyproject.toml and a constraints.txt,
outside the clone; the clone has an environment of its own that finds them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINNED = ROOT / "constraints.txt"
FOLDER = ROOT / "out" / "environments"
# Not `ray`, which is one release; not `tgi` and `unsloth`, which can't live beside the rest.
CLAIMED = ("torch", "heif", "quant", "plot", "object", "tier", "lora", "gguf", "schema")
EXTRAS = {"oldest": (*CLAIMED, "dev"), "tgi": ("tgi", "dev")}
# Of what only the tests need these are not pinned: today's datasets wants a huggingface-hub of 1, with which
# `oldest` would hold transformers 5 and `tgi` could not be; an older one wants older ones of the others.
FREE = frozenset({"datasets", "dill", "multiprocess", "fsspec"})
# Claimed, and above their floor there: torch is not taken older; of the others the tests' tools want more.
RAISED = frozenset({"numpy", "rich", "torch"})
# What the extra `tgi` can't have at the pinned version.
AGED = ("huggingface-hub", "transformers", "tokenizers")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(EXTRAS))
    name = parser.parse_args().name
    key = _key()
    packages = _cache() / f"{name}-{key}"
    if not (packages / "ready").exists():
        print(f"building {packages}", file=sys.stderr)
        shutil.rmtree(packages, ignore_errors=True)
        _build(name, packages)
        (packages / "ready").touch()
    own = FOLDER / name
    if not (own / f"ready-{key}").exists():
        shutil.rmtree(own, ignore_errors=True)
        _build_own(own, packages)
        (own / f"ready-{key}").touch()
    print((own / "bin" / "python").relative_to(ROOT))


def _cache() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "fastqwen" / "environments"


def _key() -> str:
    parts = (Path(__file__), PINNED, ROOT / "pyproject.toml")
    whole = b"".join(part.read_bytes() for part in parts) + sys.version.encode()
    return hashlib.sha256(whole).hexdigest()[:12]


def _build(name: str, folder: Path) -> None:
    """The packages, without the project."""
    python = folder / "bin" / "python"
    _run(sys.executable, "-m", "venv", folder)
    _run(python, "-m", "pip", "install", "-q", "uv", "setuptools>=77")
    wanted, pins = folder / "wanted.txt", folder / "pins.txt"
    wanted.write_text("".join(f"{package}=={version}\n" for package, version in _wanted(name).items()))
    extras = [word for extra in EXTRAS[name] for word in ("--extra", extra)]
    resolve: list[str | Path] = [
        folder / "bin" / "uv",
        "pip",
        "compile",
        "-q",
        "--no-header",
        "--no-annotate",
    ]
    resolve += extras
    resolve += ["--resolution", "lowest-direct", "-c", wanted, "--python", python, "-o", pins]
    _run(*resolve, ROOT / "pyproject.toml")
    if name == "oldest":
        _refuse_raised(pins)
    # As constraints: pip chooses the build of torch, and what comes with it.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra in EXTRAS[name]:
        asked += project["optional-dependencies"][extra]
    _run(python, "-m", "pip", "install", "-q", "-c", pins, *asked)


def _build_own(folder: Path, packages: Path) -> None:
    """An environment that has those packages, and this clone."""
    _run(sys.executable, "-m", "venv", folder)
    places = [
        Path(sysconfig.get_path("purelib", vars={"base": str(base), "platbase": str(base)}))
        for base in (folder, packages)
    ]
    # Before its own, where venv may have put an older setuptools.
    (places[0] / "packages.pth").write_text(f"import sys; sys.path.insert(1, {str(places[1])!r})\n")
    install = ("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", ROOT)
    _run(folder / "bin" / "python", *install)


def _wanted(name: str) -> dict[str, str]:
    """What is not left to the resolver: for `oldest` torch, and the packages that only the tests need."""
    pinned = _pinned()
    if name == "tgi":
        return {name: version for name, version in pinned.items() if name not in {*AGED, *FREE}}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = [*project["dependencies"]]
    for extra in CLAIMED:
        claimed += project["optional-dependencies"][extra]
    tools = _names(project["optional-dependencies"]["dev"]) - _names(claimed) - FREE
    return {package: pinned[package] for package in ("torch", *sorted(tools))}


def _refuse_raised(pins: Path) -> None:
    """Ends the build where a claimed package is not at its floor: what is claimed would not be tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = [*project["dependencies"]]
    for extra in CLAIMED:
        claimed += project["optional-dependencies"][extra]
    floors = (re.match(r"([A-Za-z0-9._-]+)(?:\[.*?\])?>=([0-9.]+)", one) for one in claimed)
    found = _versions(pins)
    for package, floor in (floor.groups() for floor in floors if floor is not None):
        version = found.get(_normal(package), "none")
        if package not in RAISED and not f"{version}.".startswith(f"{floor}."):
            raise SystemExit(f"{package} is resolved to {version}, not to its floor {floor}: who wants more?")


def _names(requirements: Iterable[str]) -> set[str]:
    return {_normal(re.split(r"[^A-Za-z0-9._-]", one)[0]) for one in requirements}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pinned() -> dict[str, str]:
    """The versions of constraints.txt."""
    return _versions(PINNED)


def _versions(file: Path) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", file.read_text(), re.MULTILINE)
    return {_normal(name): version for name, version in found}


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603  # pip and uv


if __name__ == "__main__":
    main()
