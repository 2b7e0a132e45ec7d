"""Waits for what was started to answer, and tells why something does not."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from tgi_stack.errors import MachineError, RowError, ServerError
from tgi_stack.stack.running import faults
from tgi_stack.stack.running.containers import RESTARTS, SHAKY_S, State, last_status, states
from tgi_stack.stack.running.docker import Compose
from tgi_stack.stack.running.parts import Part

LOG = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
WELL = ("running", "created", "")


@dataclass
class Waiting:
    """Looks at parts until all have shown that they work, and none has been started again since it did.

    What a part has shown is remembered from one call to the next.
    """

    compose: Compose
    _before: dict[str, int] = field(default_factory=dict)  # restarts at the first look, by container
    _proven: dict[str, tuple[str, int]] = field(default_factory=dict)  # container and its restarts by then

    async def until_all_answer(self, parts: list[Part], timeout_s: float) -> None:
        """Raises ServerError for one that does not come up: which, why, and the end of its log."""
        until = time.monotonic() + timeout_s
        while True:
            there = self._look()
            reasons = {}
            for part in parts:
                state = (there or {}).get(part.service, State(part.service, ""))
                self._refuse_dead(part, state)
                if self._proven.get(part.service) != (state.id, state.restarts):
                    reasons[part] = await self._unproven(part, state, is_known=there is not None)
                    self._proven[part.service] = (state.id, state.restarts)
            waiting = {part: why for part, why in reasons.items() if why}
            for part in waiting:
                del self._proven[part.service]
            if not reasons:
                return
            if waiting and time.monotonic() >= until:
                part, why = next(iter(waiting.items()))
                raise ServerError(self._failed(part, f"not up after {timeout_s:g} s: {why}"))
            if waiting:
                await asyncio.sleep(min(LOOK_EVERY_S, max(0.05, until - time.monotonic())))

    def _look(self) -> dict[str, State] | None:
        """None where there is no Docker to ask: then the servers themselves are all that is asked."""
        try:
            return states(self.compose.folder)
        except MachineError:
            return None

    async def _unproven(self, part: Part, state: State, *, is_known: bool) -> str | None:
        """Why a part does not count as up yet; None for one that has just shown that it works.

        Args:
            is_known: whether Docker tells of containers.
        """
        if not is_known and part.prove is None:
            return None
        if state.health not in ("healthy", ""):
            return "its health check has not passed yet"
        try:
            shown = await part.shown(state)
        except (ServerError, RowError) as error:
            if is_known and not state.state:
                raise ServerError(f"{part.name} has no container; was it made down meanwhile?") from error
            return str(error)
        if state.shaky:  # as `status` says it
            return f"{ended(state)}, {state.ran_s():.0f} s ago; it has to stay up for {SHAKY_S:.0f}"
        LOG.info(f"{part.title}: {shown}")
        return None

    def _refuse_dead(self, part: Part, state: State) -> None:
        """Raises ServerError for a container that has ended and won't come up by waiting.

        One that dies late runs at nearly every look: what tells is how often the engine has started it.
        """
        seen = state.restarts - self._before.setdefault(state.id, state.restarts)
        restarts = state.restarts if state.state == "restarting" else seen
        if state.state in WELL and not seen:
            return
        if state.state == "paused":
            raise ServerError(f"{part.name} is paused; docker unpause {state.id[:12]}")
        fault = faults.diagnose(self._log(part.service) + (" OOMKilled" if state.out_of_memory else ""))
        lasting = fault is not None and not fault.transient
        if lasting or restarts >= RESTARTS or state.state in ("exited", "dead"):
            raise ServerError(self._failed(part, ended(state), out_of_memory=state.out_of_memory))

    def _failed(self, part: Part, otherwise: str, *, out_of_memory: bool = False) -> str:
        return told(part.name, self._log(part.service), otherwise, out_of_memory=out_of_memory)

    def _log(self, service: str) -> str:
        try:
            return self.compose.logs(service)
        except MachineError:
            return ""


def ended(state: State) -> str:
    """How a container ended, and how often."""
    status = last_status(state)
    said = "it ended" if status is None else f"it ended with status {status}"
    said += f" and was started again {state.restarts} times" if state.restarts else ""
    return f"{said} ({state.error})" if state.error else said


def told(what: str, log: str, otherwise: str = "it failed", *, out_of_memory: bool = False) -> str:
    """What did not come up, the reason and the fix, and the end of the log."""
    fault = faults.diagnose(log + (" OOMKilled" if out_of_memory else ""))
    shown = faults.last_lines(log)
    if fault:
        reason = f"{fault.reason}; {fault.fix}"
    else:
        reason = f"{otherwise}; make logs shows more" if shown else otherwise
    return f"{what} did not come up: {reason}" + (f"\n  the end of its log:\n{shown}" if shown else "")
