"""Values as people write them: sizes, lists."""

from __future__ import annotations

import re

from tgi_stack.declared.run import MOST


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
    size = float(found[1]) * units[found[2].upper()]  # of hundreds of digits an infinity
    if size > MOST:
        raise ValueError("no machine holds that much; give a size such as 500MB or 20GiB")
    return int(size)


def memory_of(value: str, total: int) -> int:
    """Bytes of a memory of `total` bytes: a share such as `0.5` of it, or a size such as `8GiB`.

    Raises:
        ValueError: it is neither, or less than nothing or more than all.
    """
    shares = re.fullmatch(r"\s*(?:0?\.\d+|0|1(?:\.0*)?)\s*", value)
    found = min(total, round(float(value) * total)) if shares else bytes_of(value)
    if not 0 < found <= total:
        raise ValueError("give a share such as 0.5, or a size such as 8GiB that the device has")
    return found


def split(value: object) -> object:
    """`A,B,C` as its parts, of nothing none; what is no text is a list already."""
    if not isinstance(value, str):
        return value
    return tuple(value.split(",")) if value else ()
