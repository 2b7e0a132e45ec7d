"""Gets what a Docker engine of the tests' own needs, outside the clone; `make test-docker` runs it.

    python tests/docker/environment.py

Prints a folder, which is named by a digest of what it is built from: built once, then found. It holds
Compose's plugin and `base.tar`, a Debian with the programs that the images consist of; no registry is asked.
Needs Debian and root. Where something can't be had, it says so in a line and ends with 1.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ("docker.io", "debootstrap", "iproute2")
RELEASE, RELEASE_WITH_COMPOSE = "bookworm", "trixie"  # the former has no Compose of version 2
PYTHON = "3.11"  # of that release
IN_THE_BASE = (
    "ca-certificates",
    "curl",
    "python3-minimal",
    "libpython3-stdlib",
    "libcap2-bin",
    "caddy",
    "prometheus",
    "prometheus-redis-exporter",
    "redis-server",  # in Valkey's place, which this release has not
)
# What the stand-ins for servers import, and the hub's client, which fetches weights in TGI's image.
LIBRARIES = (
    "numpy",
    "pillow",
    "tokenizers",
    "pydantic",
    "jsonschema",
    "attrs",
    "diskcache",
    "huggingface-hub",
    "typer",
)
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"


def folder() -> Path:
    """Where everything is, or will be."""
    parts = (RELEASE, RELEASE_WITH_COMPOSE, PYTHON, *IN_THE_BASE, *LIBRARIES)
    lines = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    pinned = [line for line in lines if line.partition("==")[0] in LIBRARIES]
    key = hashlib.sha256(" ".join((*parts, *pinned)).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "fastqwen" / f"docker-{key[:12]}"


def build(target: Path) -> None:
    """Makes the folder, in the place of older ones; one that was broken off is begun anew."""
    for old in target.parent.glob("docker-*"):
        shutil.rmtree(old)
    target.mkdir(parents=True)
    _compose(target)
    base = target / "base"
    names = ",".join(IN_THE_BASE)
    _run("debootstrap", "--variant=minbase", f"--include={names}", RELEASE, base, MIRROR)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--target",
        base / "opt/libraries",
        "--only-binary",
        ":all:",
    )
    _run(
        *pip, "--python-version", PYTHON, "--implementation", "cp", "-c", ROOT / "constraints.txt", *LIBRARIES
    )
    for useless in ("var/cache/apt", "var/lib/apt", "usr/share/doc", "usr/share/locale", "usr/bin/promtool"):
        shutil.rmtree(base / useless, ignore_errors=True)
    _run("tar", "--create", "--file", target / "base.tar", "--directory", base, ".")
    shutil.rmtree(base)
    (target / "ready").touch()


def install_engine() -> None:
    """Debian's packages of an engine; starting none."""
    wanted = ("dockerd", "containerd", "runc", "debootstrap", "ip")
    if all(shutil.which(name) for name in wanted):
        return
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    _run("apt-get", "update", env=quiet)
    _run("apt-get", "install", "-y", "--no-install-recommends", *PACKAGES, env=quiet)


def _compose(target: Path) -> None:
    """The plugin from the release that has it, by package lists that apt itself never sees."""
    apt = target / "apt"
    for needed in ("lists/partial", "archives/partial", "none"):
        (apt / needed).mkdir(parents=True)
    source = apt / "sources.list"
    source.write_text(f"deb [signed-by={KEYS}] {MIRROR} {RELEASE_WITH_COMPOSE} main\n")
    settings = {
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": apt / "none",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt,
        "APT::Sandbox::User": "root",
    }
    given = [f"-o{name}={value}" for name, value in settings.items()]
    _run("apt-get", *given, "update")
    _run("apt-get", *given, "download", "docker-compose", cwd=apt)
    _run("dpkg", "-x", *apt.glob("docker-compose_*.deb"), apt / "x")
    plugins = target / "client" / "cli-plugins"
    plugins.mkdir(parents=True)
    shutil.copy(next(apt.glob("x/usr/**/cli-plugins/docker-compose")), plugins)
    shutil.rmtree(apt)


def _run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    subprocess.run([*map(str, command)], check=True, stdout=sys.stderr, env=env, cwd=cwd)


def main() -> None:
    if os.geteuid() or not KEYS.exists():
        raise SystemExit("a Docker engine of the tests' own needs Debian and root")
    target = folder()
    try:
        install_engine()
        if not (target / "ready").exists():
            print(f"building {target} (two minutes, 600 MB)", file=sys.stderr)
            build(target)
    except (subprocess.CalledProcessError, OSError) as error:
        raise SystemExit(f"what an engine needs can't be had here: {error}") from error
    print(target)


if __name__ == "__main__":
    main()
