"""The ports that the stack publishes on this host."""

from __future__ import annotations

import socket

from tgi_stack.errors import MachineError
from tgi_stack.stack.planning.request import Request

EXTRA_PORTS = {"gateway": 8443, "observe": 3000}


def refuse_taken_ports(request: Request, extras: tuple[str, ...]) -> None:
    """Raises MachineError for a port that another program listens on."""
    for port in (request.text_port, request.vision_port, *(EXTRA_PORTS[extra] for extra in extras)):
        if taken(port):
            said = f"port {port} of 127.0.0.1 is taken by another program"
            raise MachineError(f"{said}; free it, or give TEXT_PORT or VISION_PORT")


def taken(port: int) -> bool:
    """Whether a program listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
