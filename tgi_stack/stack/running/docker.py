"""Docker of this host: whether it can run the servers, and Compose's commands."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from tgi_stack.doctor.check import Check
from tgi_stack.errors import MachineError
from tgi_stack.stack.files.docker_folder import ALL_PROFILES, DockerFolder
from tgi_stack.stack.files.rendering import PROJECT
from tgi_stack.stack.programs import Ended, MissingProgramError, follow, run
from tgi_stack.stack.running import faults

INSTALL_DOCKER = "install Docker Engine 20.10 or later: https://docs.docker.com/engine/install"
INSTALL_BUILDX = "install its plugin (package docker-buildx-plugin)"
INSTALL_TOOLKIT = f"install the NVIDIA Container Toolkit, then: {faults.CONFIGURE}"


def examine() -> list[Check]:
    """Whether Docker here can run the servers: the program, the daemon, Compose, the NVIDIA runtime."""
    try:
        info = run(["docker", "info", "--format", "{{json .}}"])
    except MissingProgramError as error:
        return [Check("failure", "Docker", str(error), INSTALL_DOCKER, 3)]
    except MachineError as error:
        return [Check("failure", "Docker", str(error), "restart Docker", 3)]
    found = _json(info.stdout)
    lines = [_daemon(info, found), _compose()]
    if lines[0].state == "ok":
        has = "nvidia" in str(found.get("Runtimes"))
        detail = "runtime nvidia" if has else "Docker has no runtime named nvidia"
        state, fix = ("ok", "") if has else ("failure", INSTALL_TOOLKIT)
        lines.append(Check(state, "NVIDIA container toolkit", detail, fix, 3))
        lines.append(_buildx())
    return lines


def _daemon(info: Ended, found: dict[str, object]) -> Check:
    # The client prints what it knows of itself also where no daemon answers.
    version = found.get("ServerVersion")
    if info.status == 0 and version:
        return Check("ok", "Docker", f"engine {version}")
    known = faults.diagnose(info.said)
    said = (info.stderr or info.stdout).strip().splitlines()
    detail = known.reason if known else (said[-1] if said else "no daemon answers")
    return Check("failure", "Docker", detail, known.fix if known else INSTALL_DOCKER, 3)


def _compose() -> Check:
    done = run(["docker", "compose", "version", "--short"])
    version = done.stdout.strip()
    if done.status == 0 and version.lstrip("v")[:1].isdigit():
        return Check("ok", "Docker Compose", version)
    fix = "install the Compose plugin (package docker-compose-plugin)"
    return Check("failure", "Docker Compose", "docker compose is not there", fix, 3)


def _buildx() -> Check:
    """Needed by `make pin` alone."""
    done = run(["docker", "buildx", "version"])
    if done.status == 0:
        return Check("ok", "Docker buildx", " ".join(done.stdout.split()[1:2]) or "there")
    return Check(
        "warning", "Docker buildx", "docker buildx is not there", f"for make pin: {INSTALL_BUILDX}", 3
    )


def _json(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Compose:
    """Compose's commands on the folder's file."""

    folder: DockerFolder

    def up(self, services: list[str]) -> Ended:
        """Creates and starts services, all that the profiles name without any; those that run stay."""
        return follow([*self._command(), "up", "--detach", "--no-build", *services])

    def models(self) -> Ended:
        """Fetches the weights."""
        return follow([*self._command(), "run", "--rm", "-T", "--no-deps", "models"])

    def down(self) -> Ended:
        """Stops and removes the containers and networks; volumes stay."""
        return follow([*self._command(ALL_PROFILES), "down", "--remove-orphans"])

    def logs(self, service: str, lines: int = 300) -> str:
        """The last lines that a service printed."""
        asked = ["logs", "--no-color", "--no-log-prefix", "--tail", str(lines), service]
        return run([*self._command(), *asked]).said

    def _command(self, profiles: tuple[str, ...] | None = None) -> list[str]:
        command = ["docker", "compose", "--project-name", PROJECT]
        for profile in self.folder.profiles if profiles is None else profiles:
            command += ["--profile", profile]
        if self.folder.env.is_file():
            command += ["--env-file", os.fspath(self.folder.env)]
        return [*command, "--file", os.fspath(self.folder.compose)]


def digest(image: str) -> str:
    """The digest of an image's manifest in its registry, for `pin`.

    Raises:
        MachineError: the registry does not tell.
    """
    if run(["docker", "buildx", "version"]).status:
        raise MachineError(
            f"{image}: its digest is asked with docker buildx, which is not there; {INSTALL_BUILDX}"
        )
    done = run(
        ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", image], 120.0
    )
    found = done.stdout.strip().strip('"')
    if done.status or not found.startswith("sha256:"):
        known = faults.diagnose(done.said)
        said = f"{known.reason}; {known.fix}" if known else f"{done.said[:200]}; is its tag right?"
        raise MachineError(f"{image}: {said}")
    return found
