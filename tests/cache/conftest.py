"""What tests of the cache share: a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.store import Store


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def open(**options: Any) -> Store:
        stores.append(Store(tmp_path / "cache", **options))
        return stores[-1]

    yield open
    for store in stores:
        store.close()
