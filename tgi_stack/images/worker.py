"""The process that decodes images, one after the other: requests on stdin, answers on stdout.

    request  header {"name", "grid", "max_side_px", "allow_truncated", "cpu_s"}, then the file's bytes
    answer   header {"image": {...}} and the JPEG's bytes, or {"error": [type, message, flags]} and none

Each part stands behind its length (`pipe`). Started by `pool`, as `python -m tgi_stack.images.worker`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from typing import Any

from tgi_stack.concurrency import give_way
from tgi_stack.errors import ImageError
from tgi_stack.images.grid import Grid
from tgi_stack.images.pipe import READY, framed, read_part
from tgi_stack.images.prepare import prepare


def _allow(cpu_s: int) -> bool:
    """Has the kernel end this process (SIGXCPU) after that much computing: no decoder can evade it.

    Returns:
        Whether the process may compute for as long: `ulimit -t` may allow less.
    """
    limit = _used_s() + 1 + cpu_s
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if most != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_CPU, (min(limit, most), most))
        return limit <= most
    resource.setrlimit(resource.RLIMIT_CPU, (limit, most))
    return True


def _used_s() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int(used.ru_utime + used.ru_stime)


def _answer(asked: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        image = prepare(
            content,
            asked["name"],
            Grid(**asked["grid"]),
            max_side_px=asked["max_side_px"],
            allow_truncated=asked["allow_truncated"],
        )
    except ImageError as error:
        return {"error": [error.type, str(error), error.flags]}, b""
    fields = asdict(image)
    return {"image": fields}, fields.pop("jpeg")


def main() -> None:
    """Serves until its stdin ends, which it does when whoever started it is gone, however that went."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # for the run, which finishes what is in work
        signal.signal(stop, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    give_way()
    requests, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    # Decoders talk on stdout and stderr; nobody listens.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    answers.write(READY)
    answers.flush()
    os.dup2(null, 2)
    try:
        allowed = True
        while allowed:  # near its own end the process makes room for a fresh one
            asked = json.loads(read_part(requests))
            content = read_part(requests)
            allowed = _allow(asked["cpu_s"])
            header, data = _answer(asked, content)
            answers.write(framed(json.dumps(header).encode(), data))
            answers.flush()
    except (EOFError, BrokenPipeError):
        sys.exit()


if __name__ == "__main__":
    main()
