"""The Ray cluster of a run: one that is there, or one of our own on this host that ends with the run."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from tgi_stack.concurrency import cores
from tgi_stack.declared.runner import workers_of
from tgi_stack.errors import MachineError, UsageError
from tgi_stack.ray import watchdog
from tgi_stack.settings import Settings

LOG = logging.getLogger(__name__)

STORE_BYTES = 200 * 2**20  # of our own cluster, in shared memory; what is more goes to its folder
LONGEST_FOLDER = 18  # its sockets lie in it, and their paths may have 107 characters
LEAST_CPUS = 0.01
ENDS_S = 15.0
CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Crew:
    """The workers of a run.

    Attributes:
        cpus, gpus: what Ray sets aside for each.
        threads: of torch in each, where it computes on CPUs; else None.
        images: processes that decode images, of each.
    """

    least: int
    most: int
    cpus: float
    gpus: float
    threads: int | None
    images: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """What Ray says that there is."""

    nodes: int
    cpus: float
    gpus: float

    @classmethod
    def now(cls) -> Cluster:
        """As it is now."""
        alive = [node for node in ray.nodes() if node["Alive"]]
        found = ray.cluster_resources()
        return cls(len(alive), float(found.get("CPU", 0)), float(found.get("GPU", 0)))

    def crew(self, settings: Settings) -> Crew:
        """Who works, so that all of them find room.

        A worker asks for at most half of its share of the cores: when a node goes, those that are left have
        room for its workers. Nothing else of the run asks for any, so that few cores are no deadlock.

        Raises:
            UsageError: GPUs that Ray does not know of, or for a job that computes on none.
        """
        in_process = settings.engine == "torch"
        gpus = self._gpus_of_each(settings, in_process)
        if settings.workers is not None:
            least, most = workers_of(settings.workers)
        elif gpus:
            least = most = max(1, math.floor(self.gpus / gpus))
        else:
            least = most = max(1, self.nodes if in_process else math.floor(self.cpus))
        if most * gpus > self.gpus:
            LOG.warning(f"Ray has {self.gpus:g} GPUs for {most} workers of {gpus:g}; some wait for more")
        share = max(self.cpus, 1.0) / most
        a_node = max(1, math.floor(self.cpus / max(1, self.nodes)))
        beside = math.ceil(most / max(1, self.nodes))
        threads = max(1, a_node // beside) if in_process and not gpus else None
        cpus = max(LEAST_CPUS, math.floor(min(1.0, share / 2) * 100) / 100)
        return Crew(least, most, cpus, gpus, threads, max(1, a_node // beside))

    def _gpus_of_each(self, settings: Settings, in_process: bool) -> float:
        given = settings.gpus_per_worker
        computes = in_process and settings.device != "cpu"
        if given and not computes:
            raise UsageError("--gpus-per-worker is for --engine torch that computes on GPUs; leave it out")
        if given and given > self.gpus:
            raise UsageError(f"--gpus-per-worker {given:g}: Ray knows of {self.gpus:g} GPUs here")
        if given is not None:
            return given
        return 1.0 if computes and self.gpus else 0.0

    def told(self) -> str:
        """What is there and what is free, for a message."""
        free = ray.available_resources()
        gpus = f", {self.gpus:g} GPUs ({free.get('GPU', 0):g} free)" if self.gpus else ""
        return f"{self.nodes} nodes, {self.cpus:g} cores ({free.get('CPU', 0):g} free){gpus}"


@contextmanager
def joined(settings: Settings) -> Iterator[None]:
    """Ray for as long as the block lasts.

    Raises:
        MachineError: the cluster can't be reached, or none can be started here.
    """
    address = settings.ray_address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process, whose stderr the user reads
    if ray.is_initialized():
        yield
    elif address is not None:
        _refuse_nobody(address)
        try:
            with _hushed():
                ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise MachineError(
                f"--ray-address {address}: {reason}; start a cluster with: ray start --head"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()
    else:
        with _own(quiet):
            yield


@contextmanager
def _own(quiet: dict[str, Any]) -> Iterator[None]:
    folder = _folder()
    LOG.info(
        "Ray: a cluster is started on this host for this run. Its ports are open on all interfaces and "
        "wait for a token of its own; on a host without a firewall give --ray-address"
    )
    logging.getLogger("ray").setLevel(logging.ERROR)
    guard = subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", watchdog.__file__, str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the run
    )
    before = dict(os.environ)
    if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray keeps one in the user's home
    try:
        with _hushed():
            ray.init(
                address="local",
                num_cpus=cores(),
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                _temp_dir=str(folder),
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        yield
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if ray.is_initialized():
            raise
        raise MachineError(f"Ray can't be started here: {str(error).splitlines()[0]}") from error
    finally:
        ray.shutdown()
        if guard.stdin is not None:
            guard.stdin.close()
        guard.wait(ENDS_S)
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            if name not in before:
                os.environ.pop(name, None)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keeps Ray's core from writing to stderr that it was told to be quiet."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        logging.getLogger("ray").setLevel(logging.ERROR)  # which `init` has set anew
        os.close(kept)
        os.close(nowhere)


def _refuse_nobody(address: str) -> None:
    """Raises MachineError where nothing listens at HOST:PORT, for which Ray would wait without a word."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:  # auto, or a scheme of Ray's own
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S):
            return
    except (OSError, OverflowError) as error:
        raise MachineError(
            f"--ray-address {address}: {error}; start a cluster there with: ray start --head --port {port}"
        ) from error


def _folder() -> Path:
    """A new folder for one cluster's sockets, logs and what spills."""
    where = tempfile.gettempdir()
    return Path(
        tempfile.mkdtemp(prefix="fastqwen-ray-", dir=where if len(where) <= LONGEST_FOLDER else "/tmp")  # noqa: S108
    )
