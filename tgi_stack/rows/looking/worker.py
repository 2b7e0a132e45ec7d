"""The process that looks at rows, block by block: blocks on stdin, what was seen of them on stdout (`wire`).

Started by `crowd`, as `python -m tgi_stack.rows.looking.worker`.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys

from cache.system import system
from tgi_stack.concurrency import collect_seldom, give_way
from tgi_stack.rows.looking.wire import looked_at, looker_of


def main() -> None:
    """Serves until its stdin ends, which it does when whoever started it is gone, however that went."""
    for stop in system.STOPS:  # for the run
        signal.signal(stop, signal.SIG_IGN)
    give_way()
    collect_seldom()
    blocks, answers = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    try:
        looker = looker_of(marshal.load(blocks))  # noqa: S302  # the run's own words
        while True:
            marshal.dump(looked_at(marshal.load(blocks), looker), answers)  # noqa: S302
            answers.flush()
    except EOFError:
        pass
    except BrokenPipeError:  # the run is gone
        os._exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
