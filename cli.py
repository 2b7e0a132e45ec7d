"""The `fastqwen` command line; `tgi_stack.commands` has its commands."""

from __future__ import annotations

import signal

# Ctrl-C while modules are imported ends the process as any other program, not with a traceback.
_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _usual:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from tgi_stack.commands.app import app, ended  # noqa: E402

if _usual:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["app", "main"]


def main() -> None:
    """The console script."""
    with ended():
        app()


if __name__ == "__main__":
    main()
