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

from cache.storage import paths
from tgi_stack import __version__
from tgi_stack.doctor.check import Check
from tgi_stack.errors import FastqwenError
from tgi_stack.stack.planning import gpus, plan
from tgi_stack.stack.planning.ports import taken
from tgi_stack.stack.planning.request import Request
from tgi_stack.stack.running import docker

LEAST_PYTHON = (3, 11)
NEEDED = ("aiohttp", "diskcache", "numpy", "pillow", "pyarrow", "pydantic", "tokenizers", "typer")
OPTIONAL = {"torch": "torch", "transformers": "torch", "bitsandbytes": "quant", "pillow-heif": "heif"}
PORTS = {"text": 8080, "vision": 8081, "gateway": 8443, "Grafana": 3000, "tier": 6379}
SKEW_S = 60.0
MARCH_2025 = 1_740_787_200


def examine(cache_dir: Path | None) -> Iterator[Check]:
    """A line for each, in the order of what is needed first; without `cache_dir` the user's cache folder."""
    yield python_line()
    yield from package_lines()
    yield from gpu_lines()
    for line in docker.examine():
        # Servers may be elsewhere: what only `make up` needs is no failure of this machine.
        state = "warning" if line.state == "failure" else line.state
        fix = line.fix if not line.fix or line.fix.startswith("for make ") else f"for make up: {line.fix}"
        yield Check(state, line.what, line.detail, fix, 3)
    yield ports_line()
    yield cache_line((cache_dir or paths.default()).absolute())


def python_line() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        return Check("failure", "Python", found, "fastqwen needs Python 3.11 or later", 3)
    return Check("ok", "Python", f"{found}, fastqwen {__version__}")


def package_lines() -> Iterator[Check]:
    found = {name: _version(name) for name in (*NEEDED, *OPTIONAL)}
    missing = [name for name in NEEDED if found[name] is None]
    if missing:
        yield Check("failure", "packages", f"missing: {', '.join(missing)}", "pip install fastqwen", 3)
    else:
        yield Check("ok", "packages", ", ".join(f"{name} {found[name]}" for name in NEEDED))
    there = [f"{name} {found[name]}" for name in OPTIONAL if found[name] is not None]
    absent = [name for name in OPTIONAL if found[name] is None]
    said = ", ".join(there) or "none"
    if "torch" in absent or "transformers" in absent:
        fix = "to compute in process: pip install 'fastqwen[torch]'"
        yield Check("warning", "optional packages", f"{said}; without {', '.join(absent)}", fix, 3)
    else:
        yield Check("ok", "optional packages", said + (f"; without {', '.join(absent)}" if absent else ""))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpu_lines() -> Iterator[Check]:
    """Each GPU, and what `make up` would place there."""
    try:
        found = gpus.read()
    except FastqwenError as error:
        yield Check("warning", "GPU", str(error), "nvidia-smi has to answer", 3)
        return
    if found.problem:
        yield Check("warning", "GPU", found.problem, "servers elsewhere: --endpoint; here: --engine torch", 3)
        return
    for gpu in found.gpus:
        memory = f"{gpu.free_mib:,} of {gpu.total_mib:,} MiB free"
        yield Check("ok", f"GPU {gpu.label}", f"{gpu.name}, {memory}, driver {gpu.driver}")
    for said in found.left_out:
        yield Check("warning", "GPU", said, status=3)
    try:
        made = plan.make(Request(), found)
    except FastqwenError as error:
        yield Check("warning", "make up", str(error), status=3)
    else:
        said = ", ".join(f"{s.name} on GPU {s.gpus[0].label} ({s.need_mib:,} MiB)" for s in made.servers)
        yield Check("ok", "make up", f"has room for {said}")


def ports_line(ports: Mapping[str, int] | None = None) -> Check:
    """The ports of this host that `make up`, `make gateway` and `make observe` publish."""
    used = {name: taken(port) for name, port in (ports or PORTS).items()}
    said = ", ".join(
        f"{port} ({name}) {'in use' if used[name] else 'free'}" for name, port in (ports or PORTS).items()
    )
    if not any(used.values()):
        return Check("ok", "ports", said)
    others = "TEXT_PORT=... VISION_PORT=... GATEWAY_PORT=... GRAFANA_PORT=... TIER_PORT=..."
    return Check("ok", "ports", f"{said}; where no server of yours holds them: {others}")


def cache_line(directory: Path, mounts: Path = paths.MOUNTS) -> Check:
    """Where the cache is: its file system, SQLite's version, its size in bytes."""
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    kind = paths.file_system(directory, mounts)
    files = directory.rglob("*") if directory.is_dir() else ()
    size = sum(path.stat().st_size for path in files if path.is_file())
    detail = f"{directory}, {kind}, SQLite {sqlite3.sqlite_version}, {size:,} bytes"
    if not os.access(nearest, os.W_OK):
        return Check("failure", "cache", detail, f"{nearest} can't be written; set FASTQWEN_CACHE_DIR", 3)
    if kind in paths.NETWORK:
        return Check("failure", "cache", detail, "SQLite loses data there; set FASTQWEN_CACHE_DIR", 3)
    return Check("ok", "cache", detail)


def clock_line(told: str | None, now: float | None = None) -> Check:
    """This machine's clock, held against the `Date` of a server's answer, where there is one."""
    now = time.time() if now is None else now
    here = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < MARCH_2025:
        return Check(
            "failure", "clock", here, "it is before fastqwen was written: set the clock (TLS needs it)", 3
        )
    try:
        there = parsedate_to_datetime(told).timestamp() if told else None
    except ValueError:
        there = None
    if there is None:
        return Check("ok", "clock", f"{here}; no server told its own")
    if abs(now - there) > SKEW_S:
        off = f"{here}, {now - there:+.0f} s from the server's"
        return Check("warning", "clock", off, "synchronise both (chrony, systemd-timesyncd)", 3)
    return Check("ok", "clock", f"{here}, {now - there:+.0f} s from the server's")
