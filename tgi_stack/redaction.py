"""Blots out secrets in what is printed or recorded: this process's keys, and what URLs hold of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from urllib.parse import quote

BLOT = "***"
LEAST = 4  # characters of a secret: shorter ones stand in ordinary words
SAFE_ANYWHERE = 8  # from so many on a secret is blotted out inside of words too

_NAMES = (
    r"(?:api[-_]?key|apikey|access[-_]?key|key|token|access[-_]?token|auth[-_]?token|id[-_]?token|"
    r"refresh[-_]?token|secret|client[-_]?secret|password|passwd|pwd|pass|auth|authorization|credential|"
    r"credentials|signature|sig|sas|session|subscription[-_]?key|code|x-[a-z-]*(?:signature|credential|token))"
)
# The last @ ends the user's part: passwords hold any other character, slashes too where nobody escaped them.
_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*:/{1,3})[^\s\"'<>]*@", re.IGNORECASE)
_ENDS_URL = re.compile(r"[\s\"'<>]")
_QUERY = re.compile(rf"(?P<name>[?&;#]{_NAMES}=)[^\s&;#\"'<>]+", re.IGNORECASE)
# A path of a server's alone: folders of data sets are named so too (`/session=7/`).
_SERVER = re.compile(r"\bhttps?://[^\s\"'<>]+", re.IGNORECASE)
_SEGMENT = re.compile(rf"(?P<name>/{_NAMES}=)[^\s&;#/\"'<>]+", re.IGNORECASE)
_BEARER = re.compile(r"(?P<name>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)

_OF_URLS = frozenset({"--endpoint", "--proxy", "--cache-tier", "--ray-address", "--adopt", "--against"})

_secrets: dict[str, re.Pattern[str]] = {}


def keep_secret(value: str | None) -> None:
    """From now on this value is blotted out wherever this process prints or records it."""
    if value is None or len(value) < LEAST or value in _secrets:
        return
    forms = {value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe=""), quote(value)}
    inside = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    edge = r"" if len(value) >= SAFE_ANYWHERE else r"(?<![A-Za-z0-9])"
    end = r"" if len(value) >= SAFE_ANYWHERE else r"(?![A-Za-z0-9])"
    _secrets[value] = re.compile(f"{edge}(?:{inside}){end}", re.IGNORECASE)


def without_secrets_in(body: bytes) -> bytes:
    """What a server sent, without the keys that it was sent."""
    if not _secrets:
        return body
    lower = body.lower()
    if not any(secret.lower().encode() in lower for secret in _secrets):
        return body
    return without_secrets(body.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def keep_user(url: str) -> None:
    """Makes a secret of a URL's user where `redact` could not tell it from the text around it."""
    user = url.rpartition("@")[0].partition("://")[2]
    if _ENDS_URL.search(user):
        keep_secret(user)
        keep_secret(user.partition(":")[2])


def redact_url(url: str) -> str:
    """What is meant as a URL, whether it is one or not: all before its last @ may be a password."""
    user, at, rest = url.rpartition("@")
    if at:
        scheme, mark, _ = user.partition("://")
        url = f"{scheme}://{BLOT}@{rest}" if mark else f"{BLOT}@{rest}"
    return redact(url)


def redact_command(words: Sequence[str]) -> list[str]:
    """A command line as it may be recorded."""
    said = []
    for before, word in zip(["", *words], words, strict=False):
        name, mark, value = word.partition("=")
        if before in _OF_URLS:
            said.append(redact_url(word))
        elif mark and name in _OF_URLS:
            said.append(f"{name}={redact_url(value)}")
        else:
            said.append(redact(word))
    return said


def without_secrets(text: str) -> str:
    """A text of others without this process's own keys; all else in it is theirs and stays."""
    for pattern in list(_secrets.values()):
        text = pattern.sub(BLOT, text)
    return text


def redact(text: str) -> str:
    """A message without secrets: this process's keys, users and passwords in URLs, keys in queries."""
    text = without_secrets(text)
    if "@" in text:
        text = _USER.sub(rf"\g<scheme>{BLOT}@", text)
    if "=" in text:
        text = _QUERY.sub(rf"\g<name>{BLOT}", text)
        text = _SERVER.sub(lambda url: _SEGMENT.sub(rf"\g<name>{BLOT}", url[0]), text)
    return _BEARER.sub(rf"\g<name>{BLOT}", text)
