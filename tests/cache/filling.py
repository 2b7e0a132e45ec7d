"""A cache to test with: keys, files, and processes that read it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import tgi_stack.answers  # noqa: F401  # registers the kinds of value, in processes of the tests too
from cache.keys import digest
from cache.store import Store

KEYS = [digest(b"%d" % number) for number in range(1000)]


def database(tmp_path: Path, name: str = "small") -> Path:
    return tmp_path / "cache" / "v1" / name / "cache.db"


def filled(make: Callable[..., Store], count: int = 10) -> None:
    store = make()
    for key in KEYS[:count]:
        store.put("labels", key, key.encode())
    store.close()


READ = (
    "import logging, sys; from pathlib import Path; import tgi_stack.answers; "
    "from cache.store import Store; logging.basicConfig(); s = Store(Path(sys.argv[1])); "
    "print((s.get('labels', sys.argv[2]) or b'-').decode(), s.writable); "
    "s.put('labels', sys.argv[2], b'x'); s.close()"
)


READING = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}


def fill(path: Path) -> None:
    """Takes all the room that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
