"""`fastqwen stack`: plan, up, wait, status, down. Says lines, raises errors, prints nothing itself."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from tgi_stack.doctor.check import Check
from tgi_stack.errors import FastqwenError, MachineError, ServerError, UsageError
from tgi_stack.stack.files import adopted, keys, tier
from tgi_stack.stack.files.docker_folder import DockerFolder
from tgi_stack.stack.planning import engines, gpus, plan
from tgi_stack.stack.planning.adopted import Adopted, named
from tgi_stack.stack.planning.beside import BRINGS, PORTS, Beside
from tgi_stack.stack.planning.ports import refuse_equal_ports, refuse_taken_ports
from tgi_stack.stack.planning.request import Request
from tgi_stack.stack.programs import Ended, MissingProgramError
from tgi_stack.stack.running import adopting, containers, docker, faults, parts, pinning
from tgi_stack.stack.running.containers import State
from tgi_stack.stack.running.docker import Compose
from tgi_stack.stack.running.parts import Part
from tgi_stack.stack.running.waiting import Waiting, ended, told

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
            made = plan.make(request, gpus.assumed(assume), adopting.recognised(request))
            tell_states(made)
            return table(made)
        if pin:
            self.folder.write_pins(pinning.renewed(self.folder, request))
        running = self._running_plan()
        if running is not None:
            refuse_change(running, request.beside(running["request"]))
            LOG.info("the servers run; their plan stays")
            return [parts.entry(server) for server in running["servers"]]
        made = plan.make(request, gpus.read(), adopting.recognised(request))
        self.folder.write(made, extras)
        keys.prepare(self.folder.path)
        tell_states(made)
        return table(made)

    def _running_plan(self) -> dict[str, Any] | None:
        """What was written for the servers that there are; None where there are none."""
        written = self.folder.written
        if written is None:
            return None
        try:
            states = containers.states(self.folder)
        except MissingProgramError:
            return None
        return written if any(server["service"] in states for server in written["servers"]) else None

    # -- up ----------------------------------------------------------------------------------------------

    def up(
        self,
        given: dict[str, Any],
        extras: tuple[str, ...],
        timeout_s: float,
        beside: dict[str, Any] | None = None,
    ) -> list[str]:
        """Brings the servers up and waits until they answer; what runs where, as lines.

        Servers that share a GPU start one after the other. Called again it changes nothing.

        Args:
            given, extras: see `plan`.
            beside: fields of `Beside`; as before unless told.

        Raises:
            MachineError: this machine can't; all that is missing, each with its fix.
            ServerError: a server did not come up.
        """
        request, asked = Request(**given), Beside(**(beside or {}))
        request, there = self._adopting(request)
        own = plan.wanted(request, request.max_total_tokens)  # an impossible wish before a missing GPU
        ports = self._ports(request, extras, asked)
        refuse_equal_ports(ports)
        self._check_machine(gpu=bool(own))
        containers.states(self.folder)  # those of another clone are told before the ports that they hold
        keys.refuse_closed_files(self.folder.path)
        running = self._running_plan()
        if running is not None:
            refuse_change(running, request)
            refuse_taken_ports({name: ports[name] for name in self._new_ports(running, extras, asked)})
            self._open_secrets(extras, request, anew=False)
            self.folder.add_extras(running, extras, asked)
        else:
            made = plan.make(request, gpus.read(), there)
            refuse_taken_ports(ports)
            self._open_secrets(extras, request, anew=True)
            self.folder.write_pins(pinning.completed(self.folder, request))
            self._tell_what_is_left_off(extras)
            self.folder.write(made, extras, asked)
            tell_states(made)
        self._start(timeout_s, fetch=running is None)
        return [parts.entry(server) for server in self._written()["servers"]]

    def _adopting(self, request: Request) -> tuple[Request, tuple[Adopted, ...]]:
        """The request with the kinds that are adopted, and the servers where they are to be found."""
        with suppress(MachineError):  # what is amiss here is told with all that is
            if (running := self._running_plan()) is not None:
                request = request.beside(running["request"])
                refuse_change(running, request)
                return request, ()
        found = adopting.recognised(request)
        return replace(request, adopt=named(found)), found

    def _ports(self, request: Request, extras: tuple[str, ...], beside: Beside) -> dict[str, int]:
        """What is published, by the variable that changes it."""
        values = beside.after(self.folder.written or {})
        found = {f"{kind.upper()}_PORT": port for kind, port in request.ports.items()}
        return found | {PORTS[extra].upper(): values[PORTS[extra]] for extra in extras}

    def _new_ports(self, running: dict[str, Any], extras: tuple[str, ...], beside: Beside) -> list[str]:
        """Variables of ports that what runs does not hold already."""
        before, after = Beside().after(running), beside.after(running)
        names = [(extra, PORTS[extra]) for extra in extras]
        return [
            name.upper()
            for extra, name in names
            if extra not in running["extras"] or before[name] != after[name]
        ]

    def _tell_what_is_left_off(self, extras: tuple[str, ...]) -> None:
        left = [extra for extra in (self.folder.written or {}).get("extras", ()) if extra not in extras]
        if left:
            again = " and ".join(BRINGS[extra] for extra in left)
            LOG.warning(f"{' and '.join(left)}: on before make down, off now; {again} brings it back")

    def _check_machine(self, *, gpu: bool) -> None:
        lines = [line for line in docker.examine() if gpu or line.what in ENGINE]
        found = gpus.read()
        if gpu and found.problem:
            lines.append(Check("failure", "GPU", found.problem, "install the NVIDIA driver"))
        missing = [f"  {line.what}: {line.detail}; {line.fix}" for line in lines if line.state == "failure"]
        if missing:
            raise MachineError(
                "this machine can't run the servers:\n" + "\n".join(missing) + f"\n  {IN_PROCESS}"
            )

    def _open_secrets(self, extras: tuple[str, ...], request: Request, *, anew: bool) -> None:
        access = adopting.access_to(request if anew else request.with_files_that_are_there())
        adopted.keep(self.folder.path, access.api_key, access.ca_file, anew=anew)
        keys.prepare(self.folder.path)
        if "gateway" in extras:
            LOG.info(f"gateway: keys for {len(set(keys.users(self.folder.path).values()))} users")
        if "tier" in {*extras, *(self.folder.written or {}).get("extras", ())}:
            there = (self.folder.secrets / "keys").exists()
            tier.prepare(self.folder.path, keys.users(self.folder.path) if there else {})
            LOG.info(tier.ON_THE_WIRE)

    def _start(self, timeout_s: float, *, fetch: bool) -> None:
        compose = Compose(self.folder)
        waiting = Waiting(compose)
        if fetch and self._written()["phases"]:  # servers that run have theirs
            LOG.info("fetching the weights that are not there yet")
            self._must(compose.models(), "models")
        for services in self._written()["phases"]:
            # Those on one GPU one after the other: each measures what is free when it starts.
            self._must(compose.up([*services, "front"]), ", ".join(services))
            asked = parts.only(self._parts(), [*services, "front"])
            asyncio.run(waiting.until_all_answer(asked, timeout_s))
        self._must(compose.up([]), "the rest")
        asyncio.run(waiting.until_all_answer(self._parts(), timeout_s))

    def _must(self, ended: Ended, what: str) -> None:
        if ended.status:
            raise ServerError(told(what, ended.said))

    def _written(self) -> dict[str, Any]:
        written = self.folder.written
        if written is None:
            raise UsageError("nothing is planned yet; make up")
        return written

    # -- wait --------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> None:
        """Waits until all that was asked for answers: servers, the front, gateway and observe.

        Raises:
            ServerError: one did not come up: which, why, and the end of its log.
        """
        asyncio.run(Waiting(Compose(self.folder)).until_all_answer(self._parts(), timeout_s))

    def _parts(self) -> list[Part]:
        written = self._written()
        return [*parts.servers(written), *parts.others(written, self.folder.path)]

    # -- status and down ---------------------------------------------------------------------------------

    def status(self) -> list[Check]:
        """Each part: its container, and whether it answers; the front only where it does not run."""
        asked = self._parts()
        lines = []
        try:
            there = containers.states(self.folder)
        except MachineError as error:
            reason, _, fix = str(error).partition("; ")
            there = None
            lines.append(Check("failure", "Docker", reason, fix, MachineError.exit_status))
        return [*lines, *asyncio.run(_looked_at(asked, there))]

    def down(self) -> None:
        """Stops the servers; weights and compile caches stay in their volumes."""
        missing = [line for line in docker.examine() if line.state == "failure" and line.what in ENGINE]
        if missing:
            raise MachineError("; ".join(f"{line.what}: {line.detail}; {line.fix}" for line in missing))
        containers.states(self.folder)  # not those of another clone
        done = Compose(self.folder).down()
        if done.status:
            raise MachineError(faults.in_a_line(done.said))


async def _looked_at(asked: list[Part], there: dict[str, State] | None) -> list[Check]:
    lines = []
    for part in asked:
        if there is None and part.prove is None:
            continue
        state = (there or {}).get(part.service, State(part.service, "no container"))
        said = "its container is not known" if there is None else state.state
        try:
            shown = await part.shown(state)
        except FastqwenError as error:
            why = f"{error}; {ended(state)}" if state.restarts or state.state == "exited" else str(error)
            lines.append(Check("failure", part.title, f"{said}, {why}", part.fix or _help(there, state)))
            continue
        if part.service == "front":
            continue
        if state.shaky:
            lines.append(Check("failure", part.title, f"{said}, {shown}; {ended(state)}", "make logs"))
        else:
            lines.append(Check("ok", part.title, f"{said}, {shown}"))
    return lines


def _help(there: dict[str, State] | None, state: State) -> str:
    """What to do about a part that does not answer."""
    if there is None:
        return "when Docker answers: make status"
    if state.state in ("no container", "exited", "dead", "created"):
        return "make up; make logs"
    return f"docker unpause {state.id[:12]}" if state.state == "paused" else "make wait; make logs"


def tell_states(made: plan.Plan) -> None:
    """What who chooses engines has to know of those that were chosen."""
    if any(server.wanted.engine == engines.TGI for server in made.servers):
        LOG.info(engines.STATE_OF_TGI)


def table(made: plan.Plan) -> list[str]:
    """A plan's servers, a line each."""
    found = [
        f"{one.kind}: {one.engine} {one.version}, {one.model}, not ours, at {', '.join(one.urls)}"
        for one in made.adopted
    ]
    return found + [
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
        if runs.get(name, asked[name]) != asked[name]
    ]
    if differs:
        said = "; ".join(differs)
        raise UsageError(f"the servers run by another plan: {said}; make down, then make up")
