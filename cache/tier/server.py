"""One connection to a server of the Redis protocol: the only file that imports its client.

Nothing that the server says is told further: its errors become words of our own.
"""

from __future__ import annotations

import importlib
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

from cache.errors import RefusedTierError, TierError
from cache.tier.address import Address

CONNECT_S = 1.0
PAGE = 512  # keys looked through at a time

Found = TypeVar("Found")
_REFUSED = frozenset({"WRONGPASS", "NOAUTH", "NOPERM", "DENIED"})
_SAID = {
    "OOM": "is full, and may not evict",
    "MISCONF": "can't write its snapshot, and so takes nothing",
    "READONLY": "is a replica that takes nothing",
    "LOADING": "still loads its data",
    "WRONGTYPE": "holds something else under our keys",
    "MOVED": "is a cluster, which is not supported",
}


class Keep(NamedTuple):
    """A value to be kept: the first one under a key stays, unless it is to be replaced."""

    key: bytes
    value: bytes
    replace: bool = False


class Server:
    """One connection, opened at the first need, of one thread; all methods raise TierError."""

    def __init__(self, address: Address, timeout_s: float = CONNECT_S) -> None:
        redis = importlib.import_module("redis")
        self._errors = importlib.import_module("redis.exceptions")
        no_more = importlib.import_module("redis.retry").Retry(
            importlib.import_module("redis.backoff").NoBackoff(), 0
        )
        tls: dict[str, Any] = {"ssl": True, "ssl_check_hostname": True} if address.tls else {}
        if address.tls and address.ca_file is not None:
            tls["ssl_ca_certs"] = str(address.ca_file)
        self._client = redis.Redis(
            host=address.host,
            port=address.port,
            db=address.database,
            username=address.user,
            password=address.password,
            protocol=2,  # what every server of this kind speaks
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=no_more,
            driver_info=None,
            **tls,
        )

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What stands under keys, in their order."""
        found = self._asked(lambda: self._client.mget(keys))
        return _as_many(found, len(keys))

    def keep(self, entries: Sequence[Keep], released: Sequence[bytes]) -> None:
        """Keeps values, then removes leases."""
        pipeline = self._client.pipeline(transaction=False)
        for entry in entries:
            pipeline.set(entry.key, entry.value, nx=not entry.replace)
        if released:
            pipeline.unlink(*released)
        for reply in self._asked(lambda: pipeline.execute(raise_on_error=False)):
            if isinstance(reply, Exception):
                raise self._translated(reply)

    def claim(
        self, leases: Sequence[bytes], keys: Sequence[bytes], owner: bytes, ms: int
    ) -> tuple[list[bool | None], list[bytes | None]]:
        """Takes leases that nobody has, then reads the values: whoever had one before has kept it by then.

        Returns:
            Of each lease whether it was taken, or None where the server would not; and the values.
        """
        pipeline = self._client.pipeline(transaction=False)
        for lease in leases:
            pipeline.set(lease, owner, nx=True, px=ms)
        pipeline.mget(keys)
        *taken, found = self._asked(lambda: pipeline.execute(raise_on_error=False))
        if isinstance(found, Exception):
            raise self._translated(found)
        mine = [None if isinstance(reply, Exception) else bool(reply) for reply in taken]
        return mine, _as_many(found, len(keys))

    def renew(self, leases: Sequence[bytes], owner: bytes, ms: int) -> None:
        """Has leases last on."""
        pipeline = self._client.pipeline(transaction=False)
        for lease in leases:
            pipeline.set(lease, owner, xx=True, px=ms)
        self._asked(lambda: pipeline.execute(raise_on_error=False))

    def keys(self, pattern: str) -> Iterator[list[bytes]]:
        """The keys that a pattern fits, by pages; one may come twice."""
        at = 0
        while True:
            at, page = self._asked(partial(self._client.scan, at, match=pattern, count=PAGE))
            yield page
            if at == 0:
                return

    def remove(self, keys: Sequence[bytes]) -> int:
        """Removes keys; how many there were."""
        return int(self._asked(lambda: self._client.unlink(*keys))) if keys else 0

    def info(self) -> dict[str, Any]:
        """What it tells of itself."""
        found = self._asked(self._client.info)
        return dict(found) if isinstance(found, dict) else {}

    def setting(self, name: str) -> str | None:
        """One of its settings; None where we may not ask."""
        with suppress(RefusedTierError):
            found = self._asked(lambda: self._client.config_get(name))
            return str(found.get(name)) if isinstance(found, dict) and name in found else None
        return None

    def time(self) -> float:
        """Its clock, seconds since 1970."""
        seconds, micros = self._asked(self._client.time)
        return float(seconds) + float(micros) / 1e6

    def size(self) -> int:
        """Keys in its database."""
        return int(self._asked(self._client.dbsize))

    def interrupt(self) -> None:
        """Ends the connection, from any thread; whoever waits for an answer gets an error."""
        with suppress(Exception):
            self._client.connection_pool.disconnect()

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:  # noqa: BLE001  # whatever a broken reply makes of the client
            self.interrupt()
            raise self._translated(error) from None

    def _translated(self, error: Exception) -> TierError:
        word = re.match(r"[A-Z]+\b", str(error))
        code = word[0] if word is not None else ""
        errors = self._errors
        if code in _REFUSED or isinstance(error, errors.AuthenticationError | errors.NoPermissionError):
            return RefusedTierError("refuses our user or password, or what we ask")
        if code in _SAID:
            return TierError(_SAID[code])
        if (unsafe := _of_tls(error)) is not None:
            return unsafe
        if isinstance(error, errors.OutOfMemoryError):
            return TierError(_SAID["OOM"])
        if isinstance(error, errors.BusyLoadingError):
            return TierError(_SAID["LOADING"])
        if isinstance(error, errors.TimeoutError):
            return TierError("does not answer in time")
        if isinstance(error, errors.ConnectionError | OSError):
            return TierError("can't be reached, or breaks off")
        return TierError("gives answers that are none")


def _of_tls(error: BaseException) -> TierError | None:
    """What is wrong with TLS, where it is that; it won't pass by asking again."""
    chain, cause = [], error  # type: list[BaseException], BaseException | None
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    found = next((one for one in chain if isinstance(one, ssl.SSLError)), None)
    if isinstance(found, ssl.SSLCertVerificationError):
        why = "shows a certificate that can't be verified"
        return RefusedTierError(f"{why} ({found.verify_message}); --ca-file names whom to trust")
    return None if found is None else RefusedTierError("speaks no TLS that we do; redis:// is without")


def _as_many(found: Any, count: int) -> list[bytes | None]:
    if not isinstance(found, list) or len(found) != count:
        raise TierError("gives answers that are none")
    return [value if isinstance(value, bytes) else None for value in found]
