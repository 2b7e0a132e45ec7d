"""A proxy before a server of the Redis protocol that spoils what passes, as networks, disks and liars do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

Fault = Callable[[bytes], bytes | None]  # what becomes of a piece of a reply; None breaks the connection


class Proxy:
    """Passes all on; from `spoil` on each piece of a reply goes through a fault.

    Attributes:
        asked: pieces that clients have sent.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._fault: Fault | None = None
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def spoil(self, fault: Fault | None) -> None:
        """What happens to replies from now on."""
        self._fault = fault

    def close(self) -> None:
        """Takes nobody in any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._reply, args=(server, client), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                self.asked += 1
                server.sendall(piece)
        _close(client, server)

    def _reply(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := server.recv(65536):
                passed = piece if self._fault is None else self._fault(piece)
                if passed is None:
                    client.sendall(piece[: len(piece) // 2])
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                    break
                client.sendall(passed)
        _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)  # which the other thread hears
        one.close()


def slow(piece: bytes) -> bytes:
    """Five seconds late."""
    time.sleep(5.0)
    return piece


def reset(piece: bytes) -> None:
    """Reset in the middle."""


def loading(piece: bytes) -> bytes:
    """Still loading, whatever was asked."""
    return b"-LOADING Redis is loading the dataset in memory\r\n"


def flipped(piece: bytes) -> bytes:
    """A bit here and there is another one."""
    spoiled = bytearray(piece)
    for place in range(7, len(spoiled), 97):
        spoiled[place] ^= 1 << place % 8
    return bytes(spoiled)


def rubbish(piece: bytes) -> bytes:
    """No reply at all."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def shortened(piece: bytes) -> bytes:
    """A reply without its last bytes, which then never come."""
    return piece[:-3]
