"""Kills what a job under Ray runs on, at random, and proves that no row is lost, doubled or under a wrong id.

    python tools/chaos_ray.py [--kills 50] [--rows 5000] [--seed 1] [--targets driver,raylet]

Jobs of `probs` run one after another, in turn on a cluster of their own and on one of two nodes, against two
servers on loopback and a tier of the cache (redis-server or valkey-server). Every few seconds one of these
dies by SIGKILL, drawn at random: the run, an actor, a raylet (of the own cluster the only one; of the two
nodes the one without the run, which then comes back), a server (which comes back) or the tier (which comes
back empty). A run that ended is started again by the same command. Each finished job is held to what the
scripted answers must be, and its model calls to its rows and a block a kill.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FASTQWEN = Path(sys.executable).with_name("fastqwen")
TARGETS = ("driver", "actor", "raylet", "server", "tier")
BLOCK = 100
PAUSE_S = (0.2, 6.0)  # before a kill, once rows are being asked
LONGEST_S = 600.0  # of one job
RECORD = ("id", "status", "labels", "probabilities", "logprobs")

# A server whose answers are a pure function of the question; each question adds a byte to a file.
SERVER = """
import os, sys, time
from tests.loopback import Loopback, listening
port, count = int(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
made = Loopback("vllm", fault=lambda number, path: os.write(count, b".") and None, delay_s=0.02, port=port)
with listening(made):
    while os.getppid() == int(sys.argv[3]):
        time.sleep(0.2)
"""


@dataclass
class Server:
    """One of the servers."""

    port: int
    counted: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-c", SERVER, str(self.port), str(self.counted), str(os.getpid())]
        self.process = subprocess.Popen(command, cwd=ROOT)  # noqa: S603  # our own
        _await(self.port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class Tier:
    """The tier of the cache; it keeps nothing on disk, so that it comes back empty."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise SystemExit("no redis-server: apt-get install redis-server, or --targets without tier")
        told = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder))
        self.process = subprocess.Popen([program, *told], stdout=subprocess.DEVNULL)  # noqa: S603  # our own
        _await(self.port)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@dataclass
class Nodes:
    """A cluster of two nodes; the run joins the first."""

    cluster: Any = None
    second: Any = None

    def start(self) -> str:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.add()
        return str(self.cluster.address)

    @property
    def folder(self) -> str:
        return str(self.cluster.head_node.get_session_dir_path())

    def add(self) -> None:
        self.second = self.cluster.add_node(num_cpus=1, object_store_memory=10**8)

    def kill(self) -> None:
        """As a host that loses power: the raylet and what it started die."""
        self.cluster.remove_node(self.second, allow_graceful=False)

    def end(self) -> None:
        if self.cluster is not None:
            self.cluster.shutdown()


@dataclass
class Chaos:
    """All jobs, and what became of them."""

    rng: random.Random
    rows: int
    targets: tuple[str, ...]
    folder: Path
    servers: list[Server]
    tier: Tier | None
    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    kept: int = 0  # rows that a job's last start found done
    again: int = 0  # model calls beyond a job's rows, of all jobs
    allowed: int = 0
    restarts: int = 0
    jobs: int = 0

    def job(self, nodes: Nodes | None, address: str | None, most_kills: int) -> None:
        """One job from its first start to its last record; what is wrong with it is noted."""
        self.jobs += 1
        source, out = self.folder / f"in{self.jobs}.jsonl", self.folder / f"out{self.jobs}"
        _write(source, self.jobs, self.rows)
        before, killed = self._calls(), self.kills.total()
        command = [str(FASTQWEN), "probs", str(source), "-o", str(out), "--runner", "ray", "--engine", "vllm"]
        command += ["--model", "tiny", "--llm-batch-size", "1", "--rows-per-block", str(BLOCK)]
        command += [
            "--workers",
            "2",
            "--concurrency",
            "16",
            "--cache-dir",
            str(self.folder / f"cache{self.jobs}"),
            "--quiet",
        ]
        command += [part for one in self.servers for part in ("--endpoint", f"http://127.0.0.1:{one.port}")]
        command += ["--ray-address", address] if address else []
        command += ["--cache-tier", self.tier.url] if self.tier else []
        self._run(command, nodes, most_kills)
        killed = self.kills.total() - killed
        self.again += max(0, self._calls() - before - self.rows)
        self.kept += json.loads((out / "run.json").read_text())["counts"]["kept"]
        self.allowed += killed * BLOCK
        self._check(source, out)

    def _run(self, command: list[str], nodes: Nodes | None, most_kills: int) -> None:
        """Runs a command until it ends well; something is killed now and then."""
        began, log = time.monotonic(), self.folder / "log"
        while True:
            with log.open("ab") as file:
                process = subprocess.Popen(  # noqa: S603  # our own
                    command, stdout=file, stderr=file, env=os.environ | {"TMPDIR": str(self.folder)}
                )
            asked, next_kill = self._calls() + len(self.servers), math.inf
            while process.poll() is None:
                time.sleep(0.1)
                if (
                    next_kill == math.inf and self._calls() > asked
                ):  # rows are being asked, not a server tried
                    next_kill = time.monotonic() + self.rng.uniform(*PAUSE_S)
                if self.kills.total() < most_kills and time.monotonic() >= next_kill:
                    self._kill(process, nodes)
                    asked, next_kill = self._calls() + 1, math.inf
                if time.monotonic() - began > LONGEST_S:
                    process.kill()
                    raise SystemExit(f"a job took more than {LONGEST_S:g} s; its log is {log}")
            if process.returncode == 0:
                return
            self.restarts += 1
            if process.returncode > 0 and self.restarts > 3 * most_kills:
                raise SystemExit(f"a job ends with {process.returncode} again and again: {log}")

    def _kill(self, run: subprocess.Popen[bytes], nodes: Nodes | None) -> None:
        target = self.rng.choice(self.targets)
        if target == "driver":
            run.kill()
        elif target in ("server", "tier"):
            server = self.tier if target == "tier" and self.tier else self.rng.choice(self.servers)
            server.kill()
            time.sleep(self.rng.uniform(0.0, 1.5))
            server.start()
        elif target == "raylet" and nodes is not None:
            nodes.kill()
            nodes.add()
        else:
            name = "raylet/raylet" if target == "raylet" else "ray::MapWorker"
            place = nodes.folder if nodes else str(self.folder)
            found = [pid for pid in _named(name) if _has_files_in(place, pid)]
            if not found:  # none has started yet
                return
            os.kill(self.rng.choice(found), signal.SIGKILL)
        self.kills[target] += 1
        print(
            f"{self.kills.total():3} killed: {target} ({'two nodes' if nodes else 'own cluster'})", flush=True
        )

    def _calls(self) -> int:
        return sum(one.counted.stat().st_size for one in self.servers if one.counted.exists())

    def _check(self, source: Path, out: Path) -> None:
        verified = subprocess.run([FASTQWEN, "verify", str(out)], capture_output=True, text=True, check=False)  # noqa: S603
        if verified.returncode:
            self.faults.append(f"{out.name}: {verified.stdout}{verified.stderr}")
        plain = self.folder / "plain.jsonl"
        command = [
            str(FASTQWEN),
            "probs",
            str(source),
            "-o",
            str(plain),
            "--engine",
            "scripted",
            "--no-cache",
        ]
        subprocess.run([*command, "--overwrite", "--quiet"], check=True)  # noqa: S603
        expected = {record["id"]: record for record in _records([plain])}
        found = list(_records(sorted(out.glob("part-*"))))
        times = Counter(record["id"] for record in found)
        self.faults += [f"{out.name}: {id} is lost" for id in expected.keys() - times.keys()]
        self.faults += [f"{out.name}: {id} stands {n} times" for id, n in times.items() if n != 1]
        for record in found:
            wanted = expected.get(record["id"], {})
            if any(record.get(name) != wanted.get(name) for name in RECORD):
                self.faults.append(f"{out.name}: {record['id']} has the answer of another row: {record}")


def _write(path: Path, job: int, rows: int) -> None:
    with path.open("w") as file:
        for number in range(rows):
            row = {
                "id": f"j{job}-{number}",
                "prompt": f"Job {job}: is {number} even?\n",
                "labels": ["A", "B"],
            }
            file.write(json.dumps(row) + "\n")


def _records(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        with path.open() as file:
            yield from map(json.loads, file)


def _named(name: str) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdecimal() and name.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def _has_files_in(folder: str, pid: int) -> bool:
    """Whether a process belongs to a cluster whose files lie in a folder."""
    with suppress(OSError):
        files = (str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir())
        return any(name.startswith(folder) for name in files)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--clusters", default="own,nodes", help="own, nodes or both")
    args = parser.parse_args()
    targets = tuple(args.targets.split(","))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="c", dir="/tmp")))
        servers = [Server(_free_port(), folder / f"calls{number}") for number in range(2)]
        for server in servers:
            server.start()
            stack.callback(server.kill)
        tier = Tier(_free_port(), folder) if "tier" in targets else None
        if tier is not None:
            tier.start()
            stack.callback(tier.kill)
        chaos = Chaos(random.Random(args.seed), args.rows, targets, folder, servers, tier)
        kinds = args.clusters.split(",")
        while chaos.kills.total() < args.kills:
            nodes = Nodes() if kinds[chaos.jobs % len(kinds)] == "nodes" else None
            try:
                chaos.job(nodes, nodes.start() if nodes else None, args.kills)
            finally:
                if nodes:
                    nodes.end()
    told = ", ".join(f"{count} {name}" for name, count in sorted(chaos.kills.items()))
    print(f"{chaos.kills.total()} kills ({told}) in {chaos.jobs} jobs of {args.rows:,} rows")
    print(f"{len(chaos.faults)} rows lost, doubled or with another's answer; {chaos.restarts} restarts")
    print(f"{chaos.kept:,} rows were passed over by the last start of their job")
    print(f"{chaos.again:,} rows asked again; at most {chaos.allowed:,} (a block a kill)")
    for fault in chaos.faults[:20]:
        print(fault)
    sys.exit(bool(chaos.faults) or chaos.again > chaos.allowed)


def _await(port: int) -> None:
    """Until something listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing came to listen on {port}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
