"""The tier as `fastqwen cache` tells of it, and what is removed by a model's revision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cache import kinds
from cache.errors import TierError
from cache.keys import mark_of
from cache.store import Store
from cache.tier.admin import TierAdmin
from cache.tier.store import TieredStore
from tgi_stack.answers import cache_admin
from tgi_stack.answers.tier.opening import address_of, open_tier, team_key
from tgi_stack.errors import ServerError
from tgi_stack.settings import Settings

BY_REVISION = ("labels", "summary")  # kinds of which the tier has values whose keys tell the revision


@contextmanager
def looked_after(settings: Settings) -> Iterator[TierAdmin]:
    """The tier of the settings.

    Raises:
        ServerError: it can't be asked.
        SettingsError, MissingPackageError: see `open_run_store`.
    """
    admin = TierAdmin(address_of(settings), team_key(settings))
    try:
        yield admin
    except TierError as error:
        said = f"the tier {admin.address} {error}; look at its server, or leave out --cache-tier"
        raise ServerError(said) from error
    finally:
        admin.close()


def address(settings: Settings) -> str:
    """Where it is, without its user; raises as `open_run_store`."""
    return str(address_of(settings))


def described(settings: Settings) -> dict[str, Any]:
    """What `cache info` says of the tier."""
    try:
        with looked_after(settings) as admin:
            return admin.about()
    except ServerError as error:
        return {"tier": str(address_of(settings)), "error": str(error)}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """`described`, for people."""
    if "error" in found:
        yield found["error"]
        return
    yield (
        f"{found['tier']} (version {found['version']}): {found['entries']:,} keys, {found['bytes']:,} bytes, "
        f"{found['evicted']:,} evicted; of all machines {found['hits']:,} hits, {found['misses']:,} misses"
    )


def verified(settings: Settings) -> dict[str, int]:
    """Of the tier's values how many are whole, damaged, and of another version."""
    with looked_after(settings) as admin:
        return dict(admin.verify())


def verdict(found: Mapping[str, int]) -> str:
    """`verified`, for people."""
    others = f", {found['another version']:,} of another version" if found.get("another version") else ""
    return f"in the tier: {found['whole']:,} hold, {found['damaged']:,} damaged or another key's{others}"


def purged(settings: Settings, store: Store, revision: str) -> dict[str, int]:
    """Removes the answers of a revision here, and in the tier if there is one.

    Returns:
        How many went `here` and in the `tier`, and how many are `left` here, since a running job uses them.
    """
    here, left = cache_admin.purged(store, mark_of(revision))
    found = {"here": here, "left": left}
    if settings.cache_tier is not None:
        with looked_after(settings) as admin:
            letters = [kinds.named(kind).letter for kind in BY_REVISION]
            found["tier"] = admin.purge(revision, letters)
    return found


def store_to_verify(settings: Settings) -> Store:
    """The cache, and the tier behind it, which is read alone; raises as `cache_admin.store_of`."""
    if settings.cache_tier is None:
        return cache_admin.store_of(settings)
    tier = open_tier(settings.model_copy(update={"cache_tier_mode": "read"}))
    return cache_admin.store_of(settings, tier)


async def answers_of(store: Store, kind: str, keys: list[str]) -> dict[str, bytes]:
    """The tier's answers under some keys; asking again is held against them, sooner than against our own."""
    found: dict[str, bytes] = {}
    if isinstance(store, TieredStore):
        letter = kinds.named(kind).letter
        brought = await store.tier.find([letter + key for key in keys])
        found = {name[1:]: payload for name, payload in brought.items()}
    return found
