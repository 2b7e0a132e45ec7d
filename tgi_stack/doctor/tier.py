"""The tier of the cache: whether it can be used, what it evicts, and what its values can't prove."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cache.errors import TierError
from cache.tier.server import Keep, Server
from cache.tier.values import NAMESPACE
from tgi_stack.answers.tier.opening import address_of, team_key, with_stack_tier
from tgi_stack.doctor.check import Check
from tgi_stack.errors import FastqwenError
from tgi_stack.settings import Settings

SKEW_S = 5.0
WAIT_S = 3.0
TRIAL = f"{NAMESPACE}:doctor".encode()
POLICY = "have it evict by use: maxmemory 4gb, maxmemory-policy allkeys-lru"


def examine(settings: Settings) -> Iterator[Check]:
    """A line for each thing; none where no tier is named."""
    settings = with_stack_tier(settings)
    if settings.cache_tier is None:
        return
    try:
        address, key = address_of(settings), team_key(settings)
    except FastqwenError as error:
        yield Check("failure", "cache tier", str(error), status=error.exit_status)
        return
    what = f"cache tier {address}"
    server = Server(address, WAIT_S)
    try:
        yield from _asked(what, server, writes=settings.cache_tier_mode == "read-write")
    except TierError as error:
        yield Check(
            "failure", what, f"it {error}", "runs go on without it; look at its server, user, password"
        )
    finally:
        server.interrupt()
    yield _key(what, key)


def _asked(what: str, server: Server, *, writes: bool) -> Iterator[Check]:
    server.time()  # and the connection
    began = time.monotonic()
    clock = server.time()
    yield Check("ok", what, f"answers in {(time.monotonic() - began) * 1e3:.1f} ms")
    yield _clock(what, clock - time.time())
    yield _memory(what, server)
    if writes:
        server.keep([Keep(TRIAL, b"", replace=True)], [TRIAL])
        yield Check("ok", f"{what} writes", "a key was written and removed")


def _clock(what: str, skew_s: float) -> Check:
    what, detail = f"{what} clock", f"{abs(skew_s):.1f} s {'ahead' if skew_s > 0 else 'behind'}"
    if abs(skew_s) <= SKEW_S:
        return Check("ok", what, detail)
    return Check("warning", what, detail, "set the clock of its host, or of this one (timedatectl)")


def _memory(what: str, server: Server) -> Check:
    told = server.info()
    policy, most = str(told.get("maxmemory_policy") or "unknown"), int(told.get("maxmemory", 0))
    what, detail = f"{what} memory", f"at most {most:,} bytes, {policy}" if most else f"no limit, {policy}"
    if policy == "unknown":
        return Check("warning", what, "it does not tell its policy", POLICY)
    if not most:
        return Check("warning", what, f"{detail}: it grows until its host is full", POLICY)
    if not policy.startswith("allkeys-"):
        return Check("warning", what, f"{detail}: once full it takes no answer any more", POLICY)
    return Check("ok", what, detail)


def _key(what: str, key: bytes | None) -> Check:
    if key is not None:
        return Check("ok", f"{what} values", "sealed by the team's key")
    detail = (
        "digests without a key show damage, and no forger: whoever may write there and knows a question can "
        "put an answer of their own"
    )
    return Check("warning", f"{what} values", detail, "--cache-tier-key-file FILE, the same for the team")
