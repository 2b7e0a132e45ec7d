"""Opens the backend that the settings ask for. The one place with late imports: torch costs seconds."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from tgi_stack.backends.base import Backend
from tgi_stack.errors import MissingPackageError
from tgi_stack.settings import Settings


def open_backend(settings: Settings, kind: str, say: Callable[[str], None]) -> Backend:
    """The backend for a job of `kind` `text` or `vision`; `say` is told in a line what was chosen.

    Raises:
        MissingPackageError: the engine's packages are not installed.
    """
    if settings.engine == "scripted":
        from tgi_stack.backends.scripted import open_scripted

        return open_scripted(settings)
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, "torch")
    from tgi_stack.backends.local import open_local

    return open_local(settings, kind, say)
