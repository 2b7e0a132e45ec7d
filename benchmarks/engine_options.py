"""Options of the benchmarks that measure the torch engine with weights of a shape."""

from __future__ import annotations

import argparse


def engine_options(about: str | None, shape: str, help: str | None = None) -> argparse.ArgumentParser:
    """A parser with the network, the device and how often each way is timed.

    Args:
        about: the docstring of the benchmark.
        shape: the network without `--shape`; see `engine.models.shapes`.
        help: what else a shape may be.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default=shape, help=help)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    return parser
