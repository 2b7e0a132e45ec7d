"""The `fastqwen` command line; `tgi_stack.commands` has its commands."""

from __future__ import annotations

import signal

# Until a command begins, which hears signals itself, Ctrl-C ends the process as any other program, not with a
# traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from tgi_stack.commands.app import app, ended

__all__ = ["app", "main"]


def main() -> None:
    """The console script."""
    with ended():
        app()


if __name__ == "__main__":
    main()
