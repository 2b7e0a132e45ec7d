"""`fastqwen stack`: plan, up, wait, status, down. Says lines, raises errors, prints nothing itself."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from tgi_stack.doctor.check import Check
from tgi_stack.errors import FastqwenError, MachineError, ServerError, UsageError
from tgi_stack.stack.files import keys
from tgi_stack.stack.files.docker_folder import DockerFolder
from tgi_stack.stack.planning import gpus, plan
from tgi_stack.stack.planning.ports import refuse_taken_ports
from tgi_stack.stack.planning.request import Request
from tgi_stack.stack.programs import Ended
from tgi_stack.stack.running import docker, faults, pinning
from tgi_stack.stack.running.docker import Compose
from tgi_stack.stack.running.readiness import prove
from tgi_stack.stack.running.waiting import NOWHERE, Waiting, asked, entry, states_of, told

LOG = logging.getLogger(__name__)

IN_PROCESS = "or compute in process, without servers: --engine torch"
ENGINE = ("Docker", "Docker Compose")


@dataclass(frozen=True, slots=True)
class Stack:
    """The servers of a folder.

    Args:
    """

    folder: DockerFolder

    # -- plan --------------------------------------------------------------------------------------------

    def plan(
        self, given: dict[str, Any], extras: tuple[str, ...], assume: str | None, *, pin: bool
    ) -> list[str]:
        """What runs where, as lines; written to the folder's files unless the GPUs are assumed.

        Args:
            given: fields of `Request`.
            extras: `gateway`, `observe`.
            assume: GPUs that are not there, see `gpus.assumed`.
            pin: ask anew for the newest commits and digests.

        Raises:
            UsageError, MachineError: see `plan.make`; servers run by another plan.
        """
        request = Request(**given)
        if assume is not None:
            return table(plan.make(request, gpus.assumed(assume)))
        if pin:
            self.folder.write_pins(pinning.renewed(self.folder, request))
        running = self._running_plan()
        if running is not None:
            refuse_change(running, request)
            LOG.info("the servers run; their plan stays")
            return [entry(server) for server in running["servers"]]
        made = plan.make(request, gpus.read())
        self.folder.write(made, extras)
        keys.prepare(self.folder.path)
        return table(made)

    def _running_plan(self) -> dict[str, Any] | None:
        """What was written for the servers that there are; None where there are none."""
        written = self.folder.written
        if written is None:
            return None
        states = states_of(Compose(self.folder))
        return written if any(server["service"] in states for server in written["servers"]) else None

    # -- up ----------------------------------------------------------------------------------------------

    def up(
        self,
        given: dict[str, Any],
        extras: tuple[str, ...],
        timeout_s: float,
        gateway_name: str | None = None,
    ) -> list[str]:
        """Brings the servers up and waits until they answer; what runs where, as lines.

        Servers that share a GPU start one after the other. Called again it changes nothing.

        Args:
            given, extras: see `plan`.
            gateway_name: of this host, for the gateway's certificate; as before unless told.

        Raises:
            MachineError: this machine can't; all that is missing, each with its fix.
            ServerError: a server did not come up.
        """
        request = Request(**given)
        plan.wanted(request, request.max_total_tokens)  # an impossible wish is told before a missing GPU
        self._check_machine()
        keys.refuse_closed_files(self.folder.path)
        running = self._running_plan()
        if running is not None:
            refuse_change(running, request)
            self._open_secrets(extras)
            self.folder.add_extras(running, extras, gateway_name)
        else:
            made = plan.make(request, gpus.read())
            refuse_taken_ports(request, extras)
            self._open_secrets(extras)
            self.folder.write_pins(pinning.completed(self.folder, request))
            self.folder.write(made, extras, gateway_name)
        self._start(timeout_s)
        return [entry(server) for server in self._written()["servers"]]

    def _check_machine(self) -> None:
        lines = docker.examine()
        found = gpus.read()
        if found.problem:
            lines.append(Check("failure", "GPU", found.problem, "install the NVIDIA driver"))
        missing = [f"  {line.what}: {line.detail}; {line.fix}" for line in lines if line.state == "failure"]
        if missing:
            raise MachineError(
                "this machine can't run the servers:\n" + "\n".join(missing) + f"\n  {IN_PROCESS}"
            )

    def _open_secrets(self, extras: tuple[str, ...]) -> None:
        keys.prepare(self.folder.path)
        if "gateway" in extras:
            LOG.info(f"gateway: keys for {keys.write_gateway_keys(self.folder.path)} users")

    def _start(self, timeout_s: float) -> None:
        compose = Compose(self.folder)
        LOG.info("fetching the weights that are not there yet")
        self._must(compose.models(), "models")
        for services in self._written()["phases"]:
            # Those on one GPU one after the other: each measures what is free when it starts.
            self._must(compose.up([*services, "front"]), ", ".join(services))
            self.wait(timeout_s, services)
        self._must(compose.up([]), "the rest")

    def _must(self, ended: Ended, what: str) -> None:
        if ended.status:
            raise ServerError(told(what, ended.said))

    def _written(self) -> dict[str, Any]:
        written = self.folder.written
        if written is None:
            raise UsageError("nothing is planned yet; make up")
        return written

    # -- wait --------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float, services: list[str] | None = None) -> None:
        """Waits until all servers (or those of some services) answer.

        Raises:
            ServerError: one did not come up: which, why, and the end of its log.
        """
        servers = [s for s in self._written()["servers"] if services is None or s["service"] in services]
        waiting = Waiting(Compose(self.folder))
        asyncio.run(waiting.until_all_answer(servers, timeout_s))

    # -- status and down ---------------------------------------------------------------------------------

    def status(self) -> list[Check]:
        """Each server: its container, and whether it answers."""
        return asyncio.run(self._status())

    async def _status(self) -> list[Check]:
        states, lines = states_of(Compose(self.folder)), []
        for server in self._written()["servers"]:
            state = states.get(server["service"], NOWHERE)
            try:
                took = await prove(*asked(server))
            except FastqwenError as error:
                detail = f"{state.state}, {error}"
                lines.append(Check("failure", entry(server), detail, "make up; make logs"))
            else:
                lines.append(Check("ok", entry(server), f"{state.state}, answers in {took:.1f} s"))
        return lines

    def down(self) -> None:
        """Stops the servers; weights and compile caches stay in their volumes."""
        missing = [line for line in docker.examine() if line.state == "failure" and line.what in ENGINE]
        if missing:
            raise MachineError("; ".join(f"{line.what}: {line.detail}; {line.fix}" for line in missing))
        done = Compose(self.folder).down()
        if done.status:
            known = faults.diagnose(done.said)
            raise MachineError(f"{known.reason}; {known.fix}" if known else done.said[-400:])


def table(made: plan.Plan) -> list[str]:
    """A plan's servers, a line each."""
    return [
        f"{server.name}: {server.wanted.engine.name} {server.wanted.engine.version}, {server.wanted.name} "
        f"({server.wanted.quantization}, {server.wanted.launch.dtype}) on GPU "
        f"{', '.join(gpu.label for gpu in server.gpus)} ({server.gpus[0].name}): {server.share_mib:,} MiB, "
        f"at least {server.need_mib:,}"
        for server in made.servers
    ]


def refuse_change(written: dict[str, Any], request: Request) -> None:
    """Raises UsageError where running servers were asked for otherwise."""
    runs, asked = written["request"], request.as_dict()
    differs = [
        f"{name.upper()} is {runs.get(name) or 'the default'}, asked is {asked[name] or 'the default'}"
        for name in asked
        if runs.get(name) != asked[name]
    ]
    if differs:
        said = "; ".join(differs)
        raise UsageError(f"the servers run by another plan: {said}; make down, then make up")
