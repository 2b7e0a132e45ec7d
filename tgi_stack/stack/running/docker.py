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

INSTALL_DOCKER = "install Docker Engine 24 or later: https://docs.docker.com/engine/install"
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


def _json(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class State:
    """A container of ours; `health` is empty for one without a health check."""

    service: str
    state: str
    health: str
    exit_code: int


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

    def states(self) -> dict[str, State]:
        """By service, of the containers that there are."""
        done = run([*self._command(), "ps", "--all", "--format", "json"])
        if done.status:
            known = faults.diagnose(done.said)
            raise MachineError(f"{known.reason}; {known.fix}" if known else done.said[:400])
        return {state.service: state for state in map(_state, _entries(done.stdout))}

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


def _entries(printed: str) -> list[dict[str, object]]:
    """Compose prints an array up to 2.20, later an object a line."""
    try:
        found = json.loads(printed)
        return found if isinstance(found, list) else [found]
    except ValueError:
        return [_json(line) for line in printed.splitlines() if line.strip()]


def _state(entry: dict[str, object]) -> State:
    code = entry.get("ExitCode")
    return State(
        str(entry.get("Service", "")),
        str(entry.get("State", "")).lower(),
        str(entry.get("Health", "")).lower(),
        code if isinstance(code, int) else 0,
    )


def digest(image: str) -> str:
    """The digest of an image's manifest in its registry, for `pin`.

    Raises:
        MachineError: the registry does not tell.
    """
    done = run(
        ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", image], 120.0
    )
    found = done.stdout.strip().strip('"')
    if done.status or not found.startswith("sha256:"):
        known = faults.diagnose(done.said)
        raise MachineError(f"{image}: {known.reason if known else done.said[:200]}; is its tag right?")
    return found
