"""Remembers bytes by what they mean; knows nothing of models, HTTP or torch."""

from cache.keys import Keys, digest
from cache.memo import Memo
from cache.store import Store

__all__ = ["Keys", "Memo", "Store", "digest"]
