"""Values as people write them: sizes, lists."""

from __future__ import annotations

import re


def bytes_of(value: str) -> int:
    """A number of bytes such as `500MB`, `20 GiB` or `1048576`.

    Raises:
        ValueError: it is none.
    """
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if found is None or found[2].upper() not in units:
        raise ValueError("give a size such as 500MB or 20GiB")
    return int(float(found[1]) * units[found[2].upper()])


def split(value: object) -> object:
    """`A,B,C` as its parts, of nothing none; what is no text is a list already."""
    if not isinstance(value, str):
        return value
    return tuple(value.split(",")) if value else ()
