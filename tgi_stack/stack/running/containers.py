"""The containers of this host that are ours, as `docker inspect` tells of them.

Not as `docker compose ps` does: it tells no number of restarts, and of a container that is about to start
again a status of 0.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tgi_stack.errors import MachineError, UsageError
from tgi_stack.stack.files.declared import is_place
from tgi_stack.stack.files.docker_folder import DockerFolder, locate
from tgi_stack.stack.files.rendering import PROJECT
from tgi_stack.stack.programs import run
from tgi_stack.stack.running import faults

OURS = f"label=com.docker.compose.project={PROJECT}"
RESTARTS = 3  # of a container that ends again and again
SHAKY_S = 60.0  # who was started again so often a moment ago may end again
DEATHS_S = 3600  # how far back deaths are looked up
_LABEL = "com.docker.compose."
_FRACTION = re.compile(r"\.\d+")


@dataclass(frozen=True, slots=True)
class State:
    """A container of ours.

    Attributes:
        state: `running`, `restarting`, `exited`, `created`, `paused`, `dead`.
        health: empty for one without a health check.
        exit_code: of its last end, where it does not run.
        restarts: by the engine, since somebody started it.
        since: when it started last, in seconds since 1970.
        error: why it could not be started at all.
        file: the compose file that it is from.
    """

    service: str
    state: str
    health: str = ""
    exit_code: int = 0
    restarts: int = 0
    since: float = 0.0
    out_of_memory: bool = False
    error: str = ""
    id: str = ""
    file: str = ""

    def ran_s(self) -> float:
        """For how long it has run."""
        return time.time() - self.since if self.state == "running" else 0.0

    @property
    def shaky(self) -> bool:
        """Whether it ends again and again, however well it looks now."""
        return self.restarts >= RESTARTS and self.ran_s() < SHAKY_S


def states(folder: DockerFolder) -> dict[str, State]:
    """By service, of the containers that there are.

    Raises:
        MachineError: Docker does not answer, or they are those of another clone.
    """
    listed = run(["docker", "ps", "--all", "--no-trunc", "--filter", OURS, "--format", "{{.ID}}"])
    if listed.status:
        raise MachineError(faults.in_a_line(listed.said))
    ids = listed.stdout.split()
    # One that has gone meanwhile makes the status 1; the others are told all the same.
    told = _list(run(["docker", "inspect", "--type", "container", *ids]).stdout) if ids else []
    found = [_state(one) for one in told if _labels(one).get(f"{_LABEL}oneoff") != "True"]
    _refuse_another_clone(found, folder.compose)
    return {one.service: one for one in found}


def of_url(url: str) -> str | None:
    """The server of `make up` at an address, and its container's state; None where it is none of ours."""
    try:
        folder = locate()
        written = folder.written
        there = states(folder) if written else {}
    except (UsageError, MachineError):
        return None
    server = next((one for one in (written or {}).get("servers", ()) if is_place(one["url"], url)), None)
    if server is None or not there:
        return None
    state = there.get(server["service"], State(server["service"], "not there"))
    health = f", health {state.health}" if state.health else ""
    again = f", started again {state.restarts} times" if state.restarts else ""
    said = f"{server['name']} of make up: {server['model']} on {server['engine']}"
    return f"{said}, its container is {state.state}{health}{again}"


def last_status(state: State) -> int | None:
    """What a container ended with the last time; None where nobody knows any more."""
    if state.state != "running":
        return state.exit_code
    now = int(time.time())
    asked = [
        "--filter",
        f"container={state.id}",
        "--filter",
        "event=die",
        "--format",
        "{{json .Actor.Attributes}}",
    ]
    done = run(["docker", "events", "--since", str(now - DEATHS_S), "--until", str(now + 1), *asked])
    codes = re.findall(r'"exitCode":"(\d+)"', done.stdout)
    return int(codes[-1]) if codes else None


def _refuse_another_clone(found: list[State], ours: Path) -> None:
    """Raises MachineError where a clone that is still there has its servers up."""
    for one in found:
        theirs = Path(one.file.partition(",")[0])
        if one.file and theirs.resolve() != ours.resolve() and theirs.is_file():
            raise MachineError(
                f"servers of another clone are up on this host ({theirs.parent.parent}, {one.service}); "
                "make down there, or use them from here: they answer on the same addresses"
            )


def _list(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _labels(told: dict[str, Any]) -> dict[str, str]:
    return (told.get("Config") or {}).get("Labels") or {}


def _state(told: dict[str, Any]) -> State:
    labels, now = _labels(told), told.get("State") or {}
    return State(
        service=labels.get(f"{_LABEL}service", ""),
        state=str(now.get("Status", "")).lower(),
        health=str((now.get("Health") or {}).get("Status", "")).lower(),
        exit_code=int(now.get("ExitCode") or 0),
        restarts=int(told.get("RestartCount") or 0),
        since=_seconds(str(now.get("StartedAt", ""))),
        out_of_memory=bool(now.get("OOMKilled")),
        error=str(now.get("Error") or ""),
        id=str(told.get("Id", "")),
        file=labels.get(f"{_LABEL}project.config_files", ""),
    )


def _seconds(stamp: str) -> float:
    """Of a time as Docker writes it, with nanoseconds."""
    try:
        return datetime.fromisoformat(_FRACTION.sub("", stamp)).timestamp()
    except ValueError:
        return 0.0
