"""Opens the backend that the settings ask for, imported when it is asked for: torch costs seconds."""

from __future__ import annotations

import importlib.util
import logging
from functools import partial
from typing import Any

from cache.store import Store
from cache.tier.store import TieredStore
from tgi_stack.answers.identities import Identities
from tgi_stack.backends.base import Backend
from tgi_stack.backends.lazy import LazyBackend
from tgi_stack.errors import MissingPackageError, NoEngineError
from tgi_stack.settings import Settings
from tgi_stack.types import Identity

LOG = logging.getLogger(__name__)

OF_TORCH = ("use_torch_compile", "use_flash_attention")


async def open_backend(
    settings: Settings, kind: str, store: Store | None = None, *, for_rows: bool = False
) -> Backend:
    """The backend for a job of `kind` `text` or `vision`; a line says what was chosen.

    The cache remembers who it was, so that `--offline` knows whose answers to look for. With a cache that has
    answers of it the torch engine loads its weights when the first row needs them.

    Args:
        for_rows: it is not needed at once: the torch engine may go on loading while rows are prepared.

    `auto` asks the endpoints; only where none was named and none answers does it compute in process, and only
    with weights that are on this machine.

    Raises:
        MissingPackageError: the engine's packages are not installed.
        ServerError: no server, or the wrong one.
    """
    if settings.dry_run:
        from tgi_stack.backends.dry_run import open_dry_run

        return open_dry_run(settings, kind, store)
    if settings.offline:
        from tgi_stack.backends.offline import open_offline

        offline = open_offline(settings, kind, store)
        identity = offline.identity
        LOG.info(
            f"offline: answers of {identity.model} ({identity.engine} {identity.version}) from the cache"
        )
        return offline
    backend = await _opened(settings, kind, store, on_demand=for_rows or store is not None)
    is_new = store is None or not Identities(store).know(kind, backend.identity)
    if for_rows and is_new and isinstance(backend, LazyBackend) and not isinstance(store, TieredStore):
        backend.begin()  # no answer of it is kept anywhere, so that the first row will be asked
    if store is not None:
        _remember(Identities(store), settings, kind, backend)
    return backend


def _remember(identities: Identities, settings: Settings, kind: str, backend: Backend) -> None:
    note = partial(identities.remember, settings, kind, backend.identity, backend.profile)
    if isinstance(backend, LazyBackend) and not identities.know(kind, backend.identity):
        backend.when_opened(note)  # who can't be loaded answers nothing
    else:
        note()


async def _opened(settings: Settings, kind: str, store: Store | None, *, on_demand: bool) -> Backend:
    if settings.engine == "scripted":
        from tgi_stack.backends.scripted import open_scripted

        return open_scripted(settings, kind)
    if settings.engine == "torch":
        return _local(settings, kind, on_demand=on_demand)
    from tgi_stack.backends.servers.connect import open_served
    from tgi_stack.backends.servers.discovery import DEFAULT_PATIENCE_S

    if settings.engine != "auto" or settings.names_endpoints:
        return _with_fallback(await open_served(settings, kind, store=store), settings, kind, store)
    try:
        served = await open_served(settings, kind, patience_s=DEFAULT_PATIENCE_S, store=store)
        return _with_fallback(served, settings, kind, store)
    except NoEngineError as no_server:
        try:
            backend = _local(settings, kind, on_demand=on_demand)
        except (NoEngineError, MissingPackageError) as error:
            raise NoEngineError(f"{no_server}; {error}") from error
        LOG.info("no server answers: computing in process")
        return backend


def _with_fallback(served: Backend, settings: Settings, kind: str, store: Store | None) -> Backend:
    from tgi_stack.backends.fallback import FallbackBackend

    # Never a download in the middle of a run; the server's own model, whatever --model called it.
    model = settings.model_for(kind) or served.identity.root or served.identity.model
    update: dict[str, Any] = {"engine": "auto", "model": model}
    if served.identity.revision != "unknown":
        update["revision"] = served.identity.revision

    def open_torch() -> Backend:
        return _local(settings.model_copy(update=update), kind)

    if asked := [f"--{name.replace('_', '-')}" for name in OF_TORCH if getattr(settings, name)]:
        LOG.info(f"{', '.join(asked)}: for what torch computes; a server computes as it was started")

    def remember(stand_in: Identity) -> None:
        if store is not None:
            Identities(store).remember_stand_in(settings, served.identity, stand_in)

    return FallbackBackend(served, settings.fallback, open_torch, remember)


def _local(settings: Settings, kind: str, *, on_demand: bool = False) -> Backend:
    require_torch()
    from tgi_stack.backends.torch.workers import open_torch, plan_torch

    return plan_torch(settings, kind) if on_demand else open_torch(settings, kind)


def require_torch() -> None:
    """Raises MissingPackageError where the engine's packages are not installed; imports nothing."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, "torch")
