"""The process that decodes images, one after the other: requests on stdin, answers on stdout.

    request  header {"name", "grid", "max_side_px", "allow_truncated", "cpu_s"}, then the file's bytes
    answer   header {"image": {...}} and the JPEG's bytes, or {"error": [type, message, flags]} and none

Each part stands behind its length (`pipe`). Started by `pool`, as `python -m tgi_stack.images.worker`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from cache.system import system
from tgi_stack.concurrency import give_way
from tgi_stack.errors import ImageError
from tgi_stack.images.grid import Grid
from tgi_stack.images.pipe import READY, framed, read_part
from tgi_stack.images.prepare import prepare


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
    for stop in system.STOPS:  # for the run, which finishes what is in work
        signal.signal(stop, signal.SIG_IGN)
    system.leave_no_core()
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
            allowed = system.allow_computing(asked["cpu_s"])
            header, data = _answer(asked, content)
            answers.write(framed(json.dumps(header).encode(), data))
            answers.flush()
    except (EOFError, BrokenPipeError):
        sys.exit()


if __name__ == "__main__":
    main()
