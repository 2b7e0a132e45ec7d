"""Writes the tree of `docs/design/house.md`: each module of the packages, and what it says of itself.

.venv/bin/python tools/draw_tree.py
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "docs" / "design" / "house.md"
TOPS = ("cli.py", "cache", "tgi_stack")
WIDTH, NAME = 110, 30
BLOCK = re.compile(r"```\n(cli\.py .*?)```", re.DOTALL)


def words(path: Path) -> str:
    """What a module says of itself: its first sentence, as far as there is room."""
    said = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].replace("\n", " ")
    first = re.split(r"[.;](?: |$)", said)[0]
    return textwrap.shorten(first, WIDTH - NAME - 1, placeholder=" ...")


def lines(path: Path, depth: int = 0) -> Iterator[str]:
    """The lines of a folder or a module, and of all below it."""
    named = "  " * depth + path.name + ("/" if path.is_dir() else "")
    about = words(path / "__init__.py" if path.is_dir() else path)
    yield f"{named:{NAME}} {about}".rstrip()
    if path.is_dir() and path.name != "tiny":  # the checkpoints that ship
        folders = sorted(one for one in path.iterdir() if (one / "__init__.py").exists())
        modules = sorted(one for one in path.glob("*.py") if one.name != "__init__.py")
        for one in (*modules, *folders):
            yield from lines(one, depth + 1)


def main() -> None:
    """Replaces the tree."""
    tree = "\n".join(line for top in TOPS for line in lines(ROOT / top))
    HOUSE.write_text(BLOCK.sub(lambda _: f"```\n{tree}\n```", HOUSE.read_text(), count=1))


if __name__ == "__main__":
    main()
