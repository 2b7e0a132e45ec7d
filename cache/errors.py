"""What the cache can't do, and why. A miss is no error."""

from __future__ import annotations


class CacheError(Exception):
    """A cache that can't be opened, or may not be used; the message ends with what to do."""


class DamagedError(Exception):
    """Bytes that are not what was stored."""


class RefusedBundleError(CacheError):
    """A bundle that must not be written where it was to be."""


class BundleError(CacheError):
    """A bundle that can't be read, or whose entries are not what they say."""


class TierError(Exception):
    """A tier that did not do what it was asked; the message holds none of its own words, nor a secret."""


class RefusedTierError(TierError):
    """A tier that does not let us in, or not do that."""
