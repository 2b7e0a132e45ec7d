"""Who answered before, without a network: what is not in the cache fails its row."""

from __future__ import annotations

import socket
import sys
from typing import Any

from cache.store import Store
from tgi_stack.answers.identities import Identities
from tgi_stack.backends.base import takes_tokens
from tgi_stack.errors import AnswerError, SettingsError, UsageError
from tgi_stack.prompting.profile import Profile
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

MAX_CONCURRENCY = 64
_LOCAL = (getattr(socket, "AF_UNIX", None), None)  # sockets between processes of this host
_RESOLVING = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")


class OfflineBackend:
    """Stands for who answered before."""

    def __init__(self, identity: Identity, profile: Profile, stand_in: Identity | None = None) -> None:
        self.identity = identity
        self.profile = profile
        self._stand_in = stand_in
        self.max_concurrency = MAX_CONCURRENCY
        self.takes_tokens = takes_tokens(identity.engine)

    async def stand_in(self) -> Identity | None:
        return self._stand_in

    async def score(self, request: ScoreRequest) -> LabelScores:
        raise self._miss("labels", request.prompt)

    async def caption(self, request: CaptionRequest) -> Caption:
        seen = "" if request.image is None else f" about the image {request.image.sha256[:12]}"
        raise self._miss(f"summary{seen}", request.prompt)

    def _miss(self, what: str, prompt: str) -> AnswerError:
        identity = self.identity
        return AnswerError(
            "offline.miss",
            f"not in the cache: the {what} of {identity.model} ({identity.engine}, revision "
            f"{identity.revision}) for a prompt that ends {prompt[-40:]!r}; run once without --offline",
        )

    async def aclose(self) -> None:
        allow_network()


def open_offline(settings: Settings, kind: str, store: Store | None) -> OfflineBackend:
    """The backend that stands for the last one whom the settings allow.

    Raises:
        UsageError: the cache knows none, or is switched off.
    """
    if store is None:
        raise SettingsError("--offline answers from the cache; without --no-cache")
    known = Identities(store).last(settings, kind)
    if known is None:
        narrowed = {"revision": settings.revision, "dtype": settings.dtype, "tokenizer": settings.tokenizer}
        others = "".join(
            f", {name} {value}" for name, value in narrowed.items() if value not in (None, "auto")
        )
        raise UsageError(
            f"--offline: the cache in {store.directory} knows nobody who answered such a job (engine "
            f"{settings.engine}, model {settings.model_for(kind) or 'default'}{others}); run once without "
            "--offline, or fetch answers with: fastqwen cache import"
        )
    forbid_network()
    return OfflineBackend(known.identity, known.profile, known.stand_in)


class _Ban:
    """Who is offline in this process. The audit hook that heeds it can't be taken back, so there is one."""

    def __init__(self) -> None:
        self.holders = 0
        self.hooked = False


_BAN = _Ban()


def forbid_network() -> None:
    """No socket of this process connects, whoever opens it, until `allow_network`; those of this host do."""
    _BAN.holders += 1
    if not _BAN.hooked:
        _BAN.hooked = True
        sys.addaudithook(_refuse)


def allow_network() -> None:
    """To be called once for each `forbid_network`."""
    _BAN.holders -= 1


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not _BAN.holders or not event.startswith("socket."):
        return
    if event == "socket.__new__":
        forbidden = arguments[1] not in _LOCAL
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
        forbidden = getattr(arguments[0], "family", None) not in _LOCAL
    else:
        forbidden = event in _RESOLVING
    if forbidden:
        raise UsageError("--offline: something tried to reach the network")
