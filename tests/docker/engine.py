"""A Docker engine of the tests' own: its daemon, its images, and a GPU's runtime that only seems to be one.

It runs in namespaces of networks, mounts and processes that `halves.py` makes (`unshare`), so nothing of it
outlives the run: no rule of iptables, no mount, no process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tgi_stack.stack.files.rendering import OTHER_IMAGES
from tgi_stack.stack.planning.engines import ENGINES

HERE = Path(__file__).resolve().parent
IMAGES = {engine.image: "server" for engine in ENGINES.values()} | {
    OTHER_IMAGES[name]: stage
    for name, stage in (
        ("CADDY_IMAGE", "caddy"),
        ("PYTHON_IMAGE", "programs"),
        ("VALKEY_IMAGE", "valkey"),
        ("REDIS_EXPORTER_IMAGE", "exporter"),
        ("PROMETHEUS_IMAGE", "prometheus"),
        ("GRAFANA_IMAGE", "grafana"),
        ("DCGM_IMAGE", "dcgm"),
    )
}
DATA_BYTES = 4 * 2**30  # that images and volumes may take; they take one
BASE = "fastqwen-tests/base"
# What nvidia-smi tells here and in containers: two L4, empty.
NVIDIA_SMI = """\
#!/bin/sh
memory="23034, 22563" others="8.9, 575.51, [N/A]"
each() { for n in 0 1; do echo "$(printf "$1" $n $n)"; done; }
case "$*" in
*query-gpu=index*) each "%s, GPU-0000000%s-0000-0000-0000-000000000000, NVIDIA L4, $memory, $others" ;;
*memory.total,memory.free*) each "23034, 22563" ;;
*query-gpu=memory.total*) each 23034 ;;
*query-gpu=memory.free*) each 22563 ;;
esac
"""
# As NVIDIA's toolkit does: mounts are added to a container before it is made.
RUNTIME = """\
#!{python}
import json, os, sys
words = sys.argv[1:]
if "create" in words and "--bundle" in words:
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    if any(name.startswith("NVIDIA_VISIBLE_DEVICES=") for name in config["process"]["env"]):
        for source, target in {mounts!r}.items():
            mount = dict(source=source, destination=target, type="bind", options=["rbind", "ro"])
            config["mounts"].append(mount)
        with open(path, "w") as file:
            json.dump(config, file)
os.execvp("runc", ["runc", *words])
"""


class NoEngineError(Exception):
    """This machine can't run one: its kernel, or what it allows."""


@dataclass
class Engine:
    """A daemon that runs, or is stopped for a while; `environ` has programs talk to it.

    Attributes:
        home: what `environment.py` made.
        folder: of this run; goes with it.
        mounts: brought into containers with a GPU, beside nvidia-smi.
    """

    home: Path
    folder: Path
    mounts: dict[str, str] = field(default_factory=dict)
    _daemon: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        return {
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_CONFIG": os.fspath(self.folder / "client"),
            "DOCKER_BUILDKIT": "0",
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
        }

    @property
    def volumes(self) -> Path:
        """Where the daemon keeps them."""
        return self.folder / "data" / "volumes"

    def docker(self, *words: str | Path, check: int | None = 0, stdin: Path | None = None) -> str:
        """What a command of the client prints."""
        with open(stdin or os.devnull, "rb") as given:
            done = subprocess.run(
                ["docker", *map(str, words)],
                stdin=given,
                capture_output=True,
                text=True,
                env=os.environ | self.environ,
            )
        assert check is None or done.returncode == check, done.stdout + done.stderr
        return done.stdout + done.stderr

    def state(self, container: str) -> str:
        """Of a container: its state, its health if it has one, and how often it was started again."""
        shown = "{{.State.Status}} {{with .State.Health}}{{.Status}}{{end}} {{.RestartCount}}"
        return self.docker("inspect", "--format", shown, container, check=None).strip()

    def start(self) -> None:
        """The daemon; it answers when this returns."""
        command = [
            *("dockerd", f"--host=unix://{self.folder}/docker.sock", f"--data-root={self.folder}/data"),
            *(f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/docker.pid"),
            *(f"--config-file={self.folder}/daemon.json", f"--cgroup-parent={self._cgroup}"),
            *(f"--add-runtime=nvidia={self.folder}/bin/nvidia-runtime", "--shutdown-timeout=5"),
        ]  # fmt: skip
        with (self.folder / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        for _ in range(120):
            with contextlib.suppress(AssertionError):
                self.docker("version")
                return
            assert self._daemon.poll() is None, (self.folder / "daemon.log").read_text()[-3000:]
            time.sleep(0.25)
        raise AssertionError("dockerd does not answer")

    def stop(self) -> None:
        """As `systemctl stop docker`: containers that are to restart do so with the daemon."""
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGTERM)
            try:
                self._daemon.wait(60)
            except subprocess.TimeoutExpired:
                self._daemon.kill()
                self._daemon.wait()
            self._daemon = None

    @property
    def _cgroup(self) -> str:
        return f"fastqwen-tests-{self.folder.parent.parent.name}"  # that of pytest's run

    def prepare(self) -> None:
        """What the daemon and the client start with."""
        (self.folder / "bin").mkdir(parents=True)
        shutil.copytree(self.home / "client", self.folder / "client")
        # In memory: it is faster, and gone with the namespace of mounts.
        (self.folder / "data").mkdir()
        size, place = f"size={DATA_BYTES}", os.fspath(self.folder / "data")
        memory = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", place]
        subprocess.run(memory, check=True)
        # No name server: a host without a network says so at once.
        resolving = {"dns": ["127.0.0.1"], "dns-opts": ["timeout:1", "attempts:1"]}
        (self.folder / "daemon.json").write_text(json.dumps(resolving))
        smi = self.folder / "bin" / "nvidia-smi"
        smi.write_text(NVIDIA_SMI)
        runtime = self.folder / "bin" / "nvidia-runtime"
        mounts = {os.fspath(smi): "/usr/bin/nvidia-smi"} | self.mounts
        runtime.write_text(RUNTIME.format(python=sys.executable, mounts=mounts))
        for program in (smi, runtime):
            program.chmod(0o755)

    def prove(self) -> None:
        """The daemon answers, and a container on a network of its own runs to its end.

        Raises:
            NoEngineError: one of them does not.
        """
        try:
            self.start()
            self.docker("import", "-", BASE, stdin=self.home / "base.tar")
            self.docker("network", "create", "proof")
            self.docker("run", "--rm", "--network", "proof", "--publish", "127.0.0.1::80", BASE, "/bin/true")
            self.docker("network", "rm", "proof")
        except AssertionError as error:
            raise NoEngineError(str(error)) from error

    def make_images(self) -> None:
        """All that the compose file names."""
        context = self.folder / "context"
        shutil.copytree(HERE / "image", context / "image")
        ignored = shutil.ignore_patterns("__pycache__", "docker", "live")
        for name in ("tgi_stack", "cache"):
            shutil.copytree(ROOT / name, context / "source" / name, ignore=ignored)
        (context / "source" / "tests").mkdir()
        for path in (ROOT / "tests").glob("*.py"):
            shutil.copy(path, context / "source" / "tests")
        shutil.copytree(
            ROOT / "tests" / "payloads", context / "source" / "tests" / "payloads", ignore=ignored
        )
        for image, stage in IMAGES.items():
            file = context / "image" / "Dockerfile"
            self.docker("build", "--quiet", "--target", stage, "--tag", image, "--file", file, context)

    def clean(self) -> None:
        """Containers, daemon and files; nothing is left."""
        with contextlib.suppress(AssertionError):
            for id in self.docker("ps", "--all", "--quiet").split():
                self.docker("rm", "--force", "--volumes", id, check=None)
        self.stop()
        for group in Path("/sys/fs/cgroup").glob(f"**/{self._cgroup}"):
            with contextlib.suppress(OSError):
                group.rmdir()
        for mount in sorted(_mounts_below(self.folder), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def _mounts_below(folder: Path) -> list[str]:
    places = [line.split(" ")[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [place for place in places if place.startswith(f"{folder}/")]


@contextmanager
def running(home: Path, folder: Path, mounts: dict[str, str]) -> Iterator[Engine]:
    """An engine with its images, until the block ends.

    Raises:
        NoEngineError: see `Engine.prove`.
    """
    engine = Engine(home, folder, mounts)
    engine.prepare()
    try:
        engine.prove()
        engine.make_images()
        yield engine
    finally:
        engine.clean()
