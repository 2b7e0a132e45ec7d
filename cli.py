"""The `fastqwen` command line; `tgi_stack.commands` has its commands."""

from __future__ import annotations

from tgi_stack.commands.app import app

__all__ = ["app", "main"]


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
