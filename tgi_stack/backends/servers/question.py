"""A question to a server, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tgi_stack.backends.servers.endpoints import Endpoint
from tgi_stack.backends.servers.protocols.reply import Call
from tgi_stack.backends.servers.transport import Reply

Answer = TypeVar("Answer")

NAME_BITS = 53  # of a name drawn for an attempt: JSON numbers are exact that far


@dataclass(frozen=True, slots=True)
class Question(Generic[Answer]):
    """How to ask one question in an endpoint's dialect, and what to make of the reply.

    `call` and `parse` are given the endpoint and a name drawn for the attempt: 14 hexadecimal digits.
    `pictures` stand in it; `in_company` where prompts share a request, and are asked one by one if it fails.
    """

    call: Callable[[Endpoint, str], Call]
    parse: Callable[[Endpoint, str, Reply], Answer]
    pictures: bool = False
    in_company: bool = False


class Ask(Protocol):
    """Asks until there is an answer; gives it and how many attempts it took, or raises a RowError."""

    async def __call__(self, question: Question[Answer]) -> tuple[Answer, int]: ...


def seed_of(name: str) -> int:
    """The seed that stands for a name where a dialect takes numbers."""
    return int(name, 16)
