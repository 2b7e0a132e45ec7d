"""Tells the tokens of a vLLM's answer in its headers, under the names that TGI gives them.

Runs in vLLM's container (`vllm serve --middleware token_headers.TokenHeaders`). The gateway sees heads alone:
by these it counts who has how many tokens read and written. Answers that come in pieces bear none.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# The last one: a quotation mark in a text is escaped, so that no text can look like it.
_USAGE = b'"usage":{'
_READ = re.compile(rb'"prompt_tokens":(\d{1,12})\b')
_WRITTEN = re.compile(rb'"completion_tokens":(\d{1,12})\b')
_LENGTH = 400  # bytes of the counts


def headers_of(body: bytes) -> list[tuple[bytes, bytes]]:
    """The counts of an answer; none where it tells none."""
    start = body.rfind(_USAGE)
    if start < 0:
        return []
    told = body[start : start + _LENGTH]
    found = ((b"x-prompt-tokens", _READ.search(told)), (b"x-generated-tokens", _WRITTEN.search(told)))
    return [(name, count[1]) for name, count in found if count is not None]


class TokenHeaders:
    """An application with it around."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or scope.get("method") != "POST":
            await self.app(scope, receive, send)
            return
        head: list[Message] = []

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                head.append(message)
                return
            if head:
                start = head.pop()
                if not message.get("more_body"):
                    start = {**start, "headers": [*start["headers"], *headers_of(message.get("body", b""))]}
                await send(start)
            await send(message)

        await self.app(scope, receive, told)
