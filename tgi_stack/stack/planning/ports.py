"""The ports that the stack publishes on this host."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from tgi_stack.errors import MachineError, UsageError


def refuse_equal_ports(ports: Mapping[str, int]) -> None:
    """Raises UsageError for two variables with one port."""
    names = list(ports)
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            if ports[name] == ports[other]:
                raise UsageError(f"{name} and {other} are both {ports[name]}; give one of them another port")


def refuse_taken_ports(ports: Mapping[str, int]) -> None:
    """Raises MachineError for a port that another program listens on.

    Args:
        ports: by the variable that changes it.
    """
    for name, port in ports.items():
        if taken(port):
            said = f"port {port} of 127.0.0.1 is taken by another program"
            raise MachineError(f"{said}; free it, or give {name}=...")


def taken(port: int) -> bool:
    """Whether a program listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
