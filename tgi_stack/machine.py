"""What this machine has: Python, packages, GPU, Docker, a place for the cache, a clock."""

from __future__ import annotations

import importlib.metadata
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path

from tgi_stack import __version__
from tgi_stack.errors import FastqwenError
from tgi_stack.findings import Line
from tgi_stack.stack import docker, gpus, plan
from tgi_stack.stack.ports import taken
from tgi_stack.stack.request import Request

LEAST_PYTHON = (3, 11)
NEEDED = ("aiohttp", "diskcache", "numpy", "pillow", "pyarrow", "pydantic", "tokenizers", "typer")
OPTIONAL = {"torch": "torch", "transformers": "torch", "bitsandbytes": "quant", "pillow-heif": "heif"}
# SQLite's locks are not to be trusted on these.
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "fuse.sshfs", "afs", "ceph")
LEAST_SQLITE = (3, 24)
PORTS = {"text": 8080, "vision": 8081, "gateway": 8443, "Grafana": 3000}
SKEW_S = 60.0
MARCH_2025 = 1_740_787_200


def examine(environ: Mapping[str, str] = os.environ) -> Iterator[Line]:
    """A line for each, in the order of what is needed first."""
    yield python_line()
    yield from package_lines()
    yield from gpu_lines()
    for line in docker.examine():
        # Servers may be elsewhere: what only `make up` needs is no failure of this machine.
        state = "warning" if line.state == "failure" else line.state
        fix = f"for make up: {line.fix}" if line.fix else ""
        yield Line(state, line.what, line.detail, fix, 3)
    yield ports_line()
    yield cache_line(environ)


def python_line() -> Line:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        return Line("failure", "Python", found, "fastqwen needs Python 3.11 or later", 3)
    return Line("ok", "Python", f"{found}, fastqwen {__version__}")


def package_lines() -> Iterator[Line]:
    found = {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    missing = [name for name in NEEDED if found[name] is None]
    if missing:
        yield Line("failure", "packages", f"missing: {', '.join(missing)}", "pip install fastqwen", 3)
    else:
        yield Line("ok", "packages", ", ".join(f"{name} {found[name]}" for name in NEEDED))
    there = [f"{name} {found[name]}" for name in OPTIONAL if found[name] is not None]
    absent = [name for name in OPTIONAL if found[name] is None]
    said = ", ".join(there) or "none"
    if "torch" in absent or "transformers" in absent:
        fix = "to compute in process: pip install 'fastqwen[torch]'"
        yield Line("warning", "optional packages", f"{said}; without {', '.join(absent)}", fix, 3)
    else:
        yield Line("ok", "optional packages", said + (f"; without {', '.join(absent)}" if absent else ""))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpu_lines() -> Iterator[Line]:
    """Each GPU, and what `make up` would place there."""
    try:
        found = gpus.read()
    except FastqwenError as error:
        yield Line("warning", "GPU", str(error), "nvidia-smi has to answer", 3)
        return
    if found.problem:
        yield Line("warning", "GPU", found.problem, "servers elsewhere: --endpoint; here: --engine torch", 3)
        return
    for gpu in found.gpus:
        memory = f"{gpu.free_mib:,} of {gpu.total_mib:,} MiB free"
        yield Line("ok", f"GPU {gpu.label}", f"{gpu.name}, {memory}, driver {gpu.driver}")
    for said in found.left_out:
        yield Line("warning", "GPU", said, status=3)
    try:
        made = plan.make(Request(), found)
    except FastqwenError as error:
        yield Line("warning", "make up", str(error), status=3)
    else:
        said = ", ".join(f"{s.name} on GPU {s.gpus[0].label} ({s.need_mib:,} MiB)" for s in made.servers)
        yield Line("ok", "make up", f"has room for {said}")


def ports_line(ports: Mapping[str, int] | None = None) -> Line:
    """The ports of this host that `make up`, `make gateway` and `make observe` publish."""
    used = {name: taken(port) for name, port in (ports or PORTS).items()}
    said = ", ".join(
        f"{port} ({name}) {'in use' if used[name] else 'free'}" for name, port in (ports or PORTS).items()
    )
    if not any(used.values()):
        return Line("ok", "ports", said)
    return Line("ok", "ports", f"{said}; where no server of yours holds them: TEXT_PORT=... VISION_PORT=...")


def cache_line(environ: Mapping[str, str] = os.environ) -> Line:
    """Where the cache is: its file system, SQLite's version, its size."""
    place = cache_place(environ)
    sqlite = f"SQLite {sqlite3.sqlite_version}"
    nearest = next(path for path in (place, *place.parents) if path.exists())
    kind = file_system(nearest)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) if place.is_dir() else 0
    detail = f"{place}, {kind}, {sqlite}, {size:,} bytes"
    if not os.access(nearest, os.W_OK):
        return Line("failure", "cache", detail, f"{nearest} can't be written; set FASTQWEN_CACHE_DIR", 3)
    if kind in NETWORK_FILE_SYSTEMS:
        return Line("warning", "cache", detail, "SQLite's locks may fail there; set FASTQWEN_CACHE_DIR", 3)
    if sqlite3.sqlite_version_info < LEAST_SQLITE:
        return Line("warning", "cache", detail, "an old SQLite; use a newer Python", 3)
    return Line("ok", "cache", detail)


def cache_place(environ: Mapping[str, str] = os.environ) -> Path:
    """FASTQWEN_CACHE_DIR, else the user's cache folder."""
    if named := environ.get("FASTQWEN_CACHE_DIR"):
        return Path(named).expanduser().absolute()
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fastqwen"


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of file system that holds a path, as Linux tells it."""
    try:
        rows = [line.split(" ") for line in mounts.read_text().splitlines()]
    except OSError:
        return "file system unknown"
    kinds = {row[1].replace("\\040", " "): row[2] for row in rows if len(row) > 2}
    inside = path.resolve()
    holders = [point for point in kinds if inside.is_relative_to(point)]
    return kinds[max(holders, key=len)] if holders else "file system unknown"


def clock_line(told: str | None, now: float | None = None) -> Line:
    """This machine's clock, held against the `Date` of a server's answer, where there is one."""
    now = time.time() if now is None else now
    here = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < MARCH_2025:
        return Line(
            "failure", "clock", here, "it is before fastqwen was written: set the clock (TLS needs it)", 3
        )
    try:
        there = parsedate_to_datetime(told).timestamp() if told else None
    except ValueError:
        there = None
    if there is None:
        return Line("ok", "clock", f"{here}; no server told its own")
    if abs(now - there) > SKEW_S:
        off = f"{here}, {now - there:+.0f} s from the server's"
        return Line("warning", "clock", off, "synchronise both (chrony, systemd-timesyncd)", 3)
    return Line("ok", "clock", f"{here}, {now - there:+.0f} s from the server's")
