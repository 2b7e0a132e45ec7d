"""Pixel limits of a server's own, learnt before the first row: pictures are then sent as it would make them.

A server counts the tokens of a picture that it made smaller or larger. So many blocks of the grid are an area
that it leaves as it is. What was learnt is kept while the server's process lives, where it tells
when it began: it can't have been started with other limits since.
"""

from __future__ import annotations

import json
import logging
import random
from dataclasses import replace

from cache.keys import Keys
from cache.store import Store
from tgi_stack.backends.servers.dialects import DIALECTS
from tgi_stack.backends.servers.endpoints import Endpoint
from tgi_stack.backends.servers.probes import picture_request
from tgi_stack.backends.servers.protocols.numbers import ReplyError
from tgi_stack.backends.servers.protocols.reply import MismatchError, gauge
from tgi_stack.backends.servers.question import NAME_BITS
from tgi_stack.backends.servers.transport import Transport, TransportError
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.profile import Profile

LOG = logging.getLogger(__name__)

PROBE_S = 30.0
METRICS_S = 5.0
BEGAN = "process_start_time_seconds"


async def learn_pixels(
    transport: Transport, endpoint: Endpoint, profile: Profile, max_side_px: int, store: Store | None = None
) -> Profile:
    """The profile with the server's own limits of pixels, where it has some and its count shows them.

    Args:
        max_side_px: the longer side of the largest picture of the run.
        store: where they are kept.
    """
    if profile.grid is None or not DIALECTS[endpoint.served.dialect].tells_resizing:
        return profile
    key = None if store is None else await _key(transport, endpoint, profile.grid, max_side_px)
    if store is not None and key is not None:
        kept = _kept(store.get("pixels", key), profile.grid)
        if kept is not None:
            return replace(profile, grid=kept)
    grid, shown = await _asked(transport, endpoint, profile, profile.grid, max_side_px)
    if store is not None and key is not None and shown:
        store.put("pixels", key, json.dumps([grid.min_pixels, grid.max_pixels]).encode())
    return replace(profile, grid=grid)


async def _key(transport: Transport, endpoint: Endpoint, grid: Grid, max_side_px: int) -> str | None:
    """What stands for this run of the server; None where it does not tell when it began."""
    try:
        reply = await transport.get(f"{endpoint.url}/metrics", METRICS_S)
    except (TransportError, ReplyError):
        return None
    began = gauge(reply.body, BEGAN) if reply.status == 200 else None
    if began is None:
        return None
    served = endpoint.served
    return Keys("pixels", {}).key(
        url=endpoint.url, began=began, root=served.root, model=served.model, version=served.version,
        factor=grid.factor, least=grid.min_pixels, most=grid.max_pixels, side=max_side_px,
    )  # fmt: skip


def _kept(payload: bytes | None, grid: Grid) -> Grid | None:
    try:
        least, most = json.loads(payload or b"null")
    except (ValueError, TypeError):
        return None
    whole = type(least) is int and type(most) is int and 0 < least <= most
    return replace(grid, min_pixels=least, max_pixels=most) if whole else None


async def _asked(
    transport: Transport, endpoint: Endpoint, profile: Profile, grid: Grid, max_side_px: int
) -> tuple[Grid, bool]:
    """The grid as far as two pictures show it, and whether both showed something."""
    for side in (max_side_px, grid.factor):  # the largest that is sent, and the smallest
        learnt = await _learnt(transport, endpoint, profile, grid, side)
        if learnt is None:
            return grid, False
        grid = learnt
        profile = replace(profile, grid=grid)
    return grid, True


async def _learnt(
    transport: Transport, endpoint: Endpoint, profile: Profile, grid: Grid, side: int
) -> Grid | None:
    """The grid that a square picture shows the server to have; None where it shows nothing."""
    found = await _visual(transport, endpoint, profile, side)
    if found is None:
        return None
    sent, counted = found
    if counted == sent:
        return grid
    area = counted * grid.factor**2
    learnt = replace(grid, max_pixels=area) if counted < sent else replace(grid, min_pixels=area)
    if counted < 1 or learnt.min_pixels > learnt.max_pixels:
        return None
    again = await _visual(transport, endpoint, replace(profile, grid=learnt), side)
    if again is None or again[0] != again[1]:
        return None  # it is not the pixels
    which = f"at most {area:,}" if counted < sent else f"at least {area:,}"
    LOG.warning(f"{endpoint.url} makes pictures of {which} pixels; they are sent so")
    return learnt


async def _visual(
    transport: Transport, endpoint: Endpoint, profile: Profile, side: int
) -> tuple[int, int] | None:
    """The visual tokens of a square picture, as they are reckoned here and as the server counts them."""
    request, image = picture_request(profile, side, side, side, 1)
    sent = profile.grid.tokens(image.sent_width, image.sent_height) if profile.grid is not None else 0
    name = f"{random.SystemRandom().getrandbits(NAME_BITS):014x}"
    dialect = DIALECTS[endpoint.served.dialect]
    call = dialect.caption_call(request, endpoint.served, profile, name)
    try:
        reply = await transport.post(endpoint.url, call, PROBE_S)
        if reply.status != 200:
            return None  # the rows will say why
        dialect.parse_caption(reply, request, endpoint.served, name)
    except MismatchError as error:
        if error.counted is None or error.sent is None:
            return None
        return sent, sent + error.counted - error.sent
    except (TransportError, ReplyError) as error:
        LOG.debug("%s: no limits of pixels are learnt (%s)", endpoint.url, error)
        return None
    return sent, sent
