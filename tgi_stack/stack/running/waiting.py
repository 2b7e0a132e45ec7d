"""Waits for servers to answer, and tells why one does not."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from tgi_stack.errors import MachineError, RowError, ServerError
from tgi_stack.stack.running import faults
from tgi_stack.stack.running.docker import Compose, State
from tgi_stack.stack.running.readiness import prove

LOG = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
RESTARTS_SEEN = 5  # looks at a container that is starting again and again
NOWHERE = State("", "no container", "", 0)
Entry = dict[str, Any]  # of a server in stack.json


@dataclass
class Waiting:
    """Looks at servers until each has answered."""

    compose: Compose
    _restarts: dict[str, int] = field(default_factory=dict)

    async def until_all_answer(self, servers: list[Entry], timeout_s: float) -> None:
        """Raises ServerError for one that does not come up: which, why, and the end of its log."""
        until = time.monotonic() + timeout_s
        waiting = {server["name"]: server for server in servers}
        reasons: dict[str, str] = {}
        while waiting:
            states = states_of(self.compose)
            for name, server in list(waiting.items()):
                self._refuse_dead(server, states.get(server["service"]))
                if states and states.get(server["service"], NOWHERE).health not in ("healthy", ""):
                    reasons[name] = "its health check has not passed yet"
                    continue
                try:
                    took = await prove(*asked(server))
                except (ServerError, RowError) as error:
                    reasons[name] = str(error)
                    continue
                LOG.info(f"{entry(server)}: answers, {took:.1f} s for the first")
                del waiting[name]
            if waiting and time.monotonic() >= until:
                name, server = next(iter(waiting.items()))
                raise ServerError(self._failed(server, f"not up after {timeout_s:.0f} s: {reasons[name]}"))
            if waiting:
                await asyncio.sleep(min(LOOK_EVERY_S, max(0.05, until - time.monotonic())))

    def _refuse_dead(self, server: Entry, state: State | None) -> None:
        """Raises ServerError for a container that has ended and won't come up by waiting."""
        if state is None or state.state not in ("exited", "dead", "restarting"):
            return
        name = server["name"]
        self._restarts[name] = self._restarts.get(name, 0) + 1
        fault = faults.diagnose(self.compose.logs(server["service"]))
        lasting = fault is not None and not fault.transient
        if lasting or state.state != "restarting" or self._restarts[name] >= RESTARTS_SEEN:
            raise ServerError(self._failed(server, f"it ended with status {state.exit_code}"))

    def _failed(self, server: Entry, otherwise: str) -> str:
        try:
            log = self.compose.logs(server["service"])
        except MachineError:
            log = ""
        return told(f"{server['name']} ({server['model']} on {server['engine']})", log, otherwise)


def states_of(compose: Compose) -> dict[str, State]:
    """Empty where there is no Docker to ask: then the servers themselves are all that is asked."""
    try:
        return compose.states()
    except MachineError:
        return {}


def asked(server: Entry) -> tuple[str, str, str, str]:
    """What `prove` has to know of a server."""
    return server["url"], server["kind"], server["model"], server["revision"]


def entry(server: Entry) -> str:
    """A server in a line."""
    labels = ", ".join(gpu["gpu"] for gpu in server["gpus"])
    return (
        f"{server['name']}: {server['model']} on {server['engine']} {server['engine_version']}, "
        f"GPU {labels}, {server['url']}"
    )


def told(what: str, log: str, otherwise: str = "it failed") -> str:
    """What did not come up, the reason and the fix, and the end of the log."""
    fault = faults.diagnose(log)
    reason = f"{fault.reason}; {fault.fix}" if fault else f"{otherwise}; make logs shows more"
    shown = faults.last_lines(log)
    return f"{what} did not come up: {reason}" + (f"\n  the end of its log:\n{shown}" if shown else "")
