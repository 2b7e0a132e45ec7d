"""The `fastqwen` command line; `tgi_stack.commands` has its commands."""

from __future__ import annotations

from tgi_stack.commands import bench, cache, jobs, outputs, servers
from tgi_stack.commands.app import app

__all__ = [
    "app",
    "bench",
    "cache",
    "jobs",
    "main",
    "outputs",
    "servers",
]  # importing a module adds its commands


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
