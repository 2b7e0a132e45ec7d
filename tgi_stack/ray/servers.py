"""Which of a run's servers a worker begins with: a run of one process waits for all, a worker for any."""

from __future__ import annotations

import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tgi_stack.backends.servers.urls import checked_url
from tgi_stack.settings import Settings

LOG = logging.getLogger(__name__)

PATIENCE_S = 10.0  # with a server that may be coming up, where another is there
CONNECT_S = 3.0
PAUSE_S = 0.5


def with_living_servers(settings: Settings, kind: str) -> Settings:
    """The settings with those servers alone that take a connection; with all of them where none does.

    A worker that starts again while one of several servers is down would wait for it, and hold its blocks.
    """
    if settings.engine in ("torch", "scripted") or not settings.names_endpoints:
        return settings
    urls = settings.endpoints_for(kind)
    deadline = time.monotonic() + PATIENCE_S
    while len(living := _living(urls)) < len(urls) > 1 and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
    if not living or len(living) == len(urls):
        return settings
    LOG.warning(f"a worker goes on without {', '.join(sorted(set(urls) - set(living)))}")
    return settings.model_copy(update={"endpoint": living})


def _living(urls: tuple[str, ...]) -> tuple[str, ...]:
    if len(urls) == 1:
        return urls
    with ThreadPoolExecutor(len(urls)) as threads:
        return tuple(
            url for url, lives in zip(urls, threads.map(_takes_connections, urls), strict=True) if lives
        )


def _takes_connections(url: str) -> bool:
    parts = urlsplit(checked_url(url))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), CONNECT_S):
            return True
    except OSError:
        return False
