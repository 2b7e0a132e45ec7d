"""`s3://BUCKET/KEY` and `gs://BUCKET/KEY`: which values are such URLs, and the store that each is of.

Credentials come from the environment, as AWS's and Google's own tools take them there; none stands in a URL,
and none is printed. Nothing here opens a connection for a value that is no URL.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_stack.errors import DiskError, InputError, MissingPackageError, UsageError
from tgi_stack.redaction import keep_secret, redact, redact_url

_URL = re.compile(r"(s3|gs):/{1,2}(?!/)(.*)", re.DOTALL)  # a path has lost one of the slashes
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]")
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
# Where a store of that kind is, if not where the cloud's own is.
ELSEWHERE = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL"}
RETRIES: Any = {"max_retries": 5}


@dataclass(frozen=True, slots=True)
class Place:
    """An object, or what several begin with.

    Attributes:
        scheme: `s3` or `gs`.
        key: without a slash before it.
    """

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def with_key(self, key: str) -> Place:
        """Another object in the same bucket."""
        return Place(self.scheme, self.bucket, key)


def place_of(value: str | Path) -> Place | None:
    """What a value names in a store; None where it is a path or anything else.

    Raises:
        UsageError: a URL that has no bucket, or holds credentials or options.
    """
    found = _URL.fullmatch(str(value))
    if found is None:
        return None
    scheme, rest = found[1], found[2]
    shown = redact_url(f"{scheme}://{rest}")
    bucket, _, key = rest.partition("/")
    if "@" in bucket or "?" in rest or "#" in rest:
        raise UsageError(
            f"{re.split('[?#]', shown)[0]}: only a bucket and a key; credentials go into the environment"
        )
    if ".." in key.split("/") or "//" in key:
        raise UsageError(f"{shown}: keys with empty parts or `..` are not read; name the object otherwise")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"{shown}: no bucket has that name; give a URL such as {scheme}://bucket/rows.jsonl")
    return Place(scheme, bucket, key)


def store_of(place: Place) -> Any:
    """The store that a bucket is in.

    Raises:
        MissingPackageError: what opens stores is not installed.
    """
    if importlib.util.find_spec("obstore") is None:
        raise MissingPackageError("obstore", "object")
    from obstore.store import from_url

    for name in SECRETS:
        keep_secret(os.environ.get(name))
    # One on this host or in a company's network speaks HTTP, and only where the user has named it.
    plain = os.environ.get(ELSEWHERE[place.scheme], "").startswith("http://")
    options: Any = {"allow_http": True} if plain else {}
    with told(place):
        return from_url(f"{place.scheme}://{place.bucket}", client_options=options, retry_config=RETRIES)


@contextmanager
def told(place: Place) -> Iterator[None]:
    """What a store has to say as errors of ours, a line without secrets.

    Raises:
        InputError: there is no such object.
        DiskError: it can't be read or written.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{place}: no such object") from error
    except (BaseError, PermissionError, ValueError) as error:
        reason = redact(str(error).strip().splitlines()[0])
        raise DiskError(f"{place}: {reason}; look at the bucket, the region and the credentials") from error
