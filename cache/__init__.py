"""Remembers bytes by what they mean; knows nothing of models, HTTP or torch."""

import logging

from cache.keys import Keys, digest
from cache.kinds import Kind, register
from cache.memo import Memo
from cache.store import Store

__all__ = ["Keys", "Kind", "Memo", "Store", "digest", "register"]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until somebody listens
