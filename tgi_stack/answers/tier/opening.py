"""Opens the tier that the settings name, with the team's key and our user."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cache import kinds
from cache.store import Store
from cache.tier.address import Address, parse
from cache.tier.tier import SharedTier
from tgi_stack.answers.cache_admin import open_store
from tgi_stack.errors import MissingPackageError, SettingsError
from tgi_stack.redaction import keep_secret
from tgi_stack.settings import Settings
from tgi_stack.stack.files import tier as stack
from tgi_stack.stack.planning.ports import taken
from tgi_stack.text_files import KEY_BYTES, TextFileError, read_bytes, read_text, unread

LOG = logging.getLogger(__name__)

SHARED = ("labels", "summary", "tokens")
USER_FILE = "FASTQWEN_CACHE_TIER_USER_FILE"
OFF = "off"
LEAST_KEY = 16  # bytes


def open_run_store(settings: Settings) -> Store | None:
    """The cache of a run, and the tier behind it; see `open_store`.

    Nothing is sent to a tier with `--offline`, `--dry-run` and `--no-cache`.

    Raises:
        SettingsError: a key file, or one of the user's, that can't be read.
        MissingPackageError: the client is not installed.
    """
    tier = None
    if not (settings.offline or settings.dry_run or settings.no_cache):
        settings = with_stack_tier(settings)
        tier = None if settings.cache_tier is None else open_tier(settings)
    store = open_store(settings, tier)
    if store is None and tier is not None:  # there is no place for a cache
        tier.close()
    return store


def with_stack_tier(settings: Settings) -> Settings:
    """The settings with the tier of `make up TIER=1`, where they name none and one listens."""
    if settings.cache_tier is not None:
        return settings.model_copy(update={"cache_tier": None}) if settings.cache_tier == OFF else settings
    there = stack.found()
    if there is None or not taken(there.port):
        return settings
    if importlib.util.find_spec("redis") is None:
        LOG.info(f"the tier of make up at {there.url} is not used: pip install 'fastqwen[tier]'")
        return settings
    return settings.model_copy(update={"cache_tier": there.url})


def open_tier(settings: Settings) -> SharedTier:
    """The tier; a connection is begun, and nobody waits for it. Raises as `open_run_store`."""
    shared = (*SHARED, "image") if settings.cache_tier_images else SHARED
    letters = frozenset(kinds.named(kind).letter for kind in shared)
    writes = settings.cache_tier_mode == "read-write"
    return SharedTier(address_of(settings), team_key(settings), letters, writes=writes)


def address_of(settings: Settings, environ: Mapping[str, str] = os.environ) -> Address:
    """Where the tier is, and as whom we ask; raises as `open_run_store`."""
    if importlib.util.find_spec("redis") is None:
        raise MissingPackageError("redis", "tier")
    address = replace(parse(settings.cache_tier or ""), ca_file=settings.ca_file)
    if address.password is not None:
        return address
    if (name := environ.get(USER_FILE)) is None:
        there = stack.found()
        if there is None or there.url != settings.cache_tier or address.user is not None:
            return address
        user, password = there.user()
        keep_secret(password)
        return replace(address, user=user, password=password)
    try:
        before, mark, after = read_text(Path(name), KEY_BYTES).strip().partition(":")
    except (OSError, TextFileError) as error:
        raise SettingsError(unread(USER_FILE, Path(name), error)) from None
    user, password = (before, after) if mark else ("", before)
    if not password:
        raise SettingsError(f"{USER_FILE} {name}: no password; write user:password, or the password alone")
    keep_secret(password)
    return replace(address, user=user or address.user, password=password)


def team_key(settings: Settings) -> bytes | None:
    """What the team seals values with; None without a key file. Raises as `open_run_store`."""
    path = settings.cache_tier_key_file
    if path is None:
        return None
    try:
        key = read_bytes(path, KEY_BYTES).strip()
    except (OSError, TextFileError) as error:
        raise SettingsError(unread("--cache-tier-key-file", path, error)) from None
    if len(key) < LEAST_KEY:
        raise SettingsError(f"--cache-tier-key-file {path}: a key has {LEAST_KEY} bytes at least")
    keep_secret(key.decode("utf-8", "replace"))
    return key
