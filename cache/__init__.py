"""Remembers bytes by what they mean; knows nothing of models, HTTP or torch."""

from cache.keys import digest

__all__ = ["digest"]
