"""How the house stands: sizes, callbacks, sentences and start-up, each beside its limit.

    python tools/measure_house.py [--root FOLDER] [--list]

It prints a table (measure, value, limit) and exits with 1 where a limit is broken. With `--list` it prints
the callback parameters instead, each with its place. The code is `cli.py` and the packages `cache` and
`tgi_stack`. The rules:

- Loose modules: the `.py` files at the top of a package, `__init__` aside. The fullest folder counts the same
  way.
- A module's length is its lines. A module of kernels may be longer where `KERNELS` says why.
- A function's length runs from `def` to its last line; methods and nested functions are functions.
- A callback parameter is annotated with Callable, with Awaitable or Coroutine, or with a name that stands for
  one (`Clock = Callable[[], float]`). What is called inside an annotation is none: `typer.Option(...)` holds
  words of help. The figure is per 100 functions.
- A sentence of `docs/design` ends at a full stop, a question mark or an exclamation mark. Code, tables,
  pictures and headings are left out, and an item of a list is a paragraph. A word is what stands between
  spaces and holds a letter or a digit.
- `fastqwen --help` is timed beside `python -c "import typer, rich"`, in turn. The ratio of the medians
  counts, since machines differ: 0.4 s where the imports take 0.16 s.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cache", "tgi_stack")
# Modules of kernels that may be longer than others, each with the reason.
KERNELS = {
    "tgi_stack/engine/kernels/hopper_kernels.py": "its programs share their rings and stores",
}
KERNEL_FOLDER = "tgi_stack/engine/kernels"
CALLBACK = re.compile(r"\b(Callable|Awaitable|Coroutine)\b")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r" *([-*+]|\d+\.) ")
STARTS = 7
HELP = "import sys, cli; sys.argv[1:] = ['--help']; cli.main()"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure beside what it may be at most."""

    name: str
    value: float
    limit: float
    where: str = ""

    @property
    def holds(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Function:
    """A function's length in lines, and those of its parameters that are callbacks."""

    place: str
    lines: int
    callbacks: tuple[str, ...]


# -- code ----------------------------------------------------------------------------------------------------


def modules(root: Path) -> list[Path]:
    """The code's files, relative to the root."""
    found = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return sorted(path.relative_to(root) for path in [root / "cli.py", *found] if path.is_file())


def functions(root: Path, paths: Iterable[Path]) -> list[Function]:
    """Every function of the code."""
    trees = {path: ast.parse((root / path).read_text()) for path in paths}
    names = {name for tree in trees.values() for name in aliases(tree)}
    callback = re.compile("|".join([CALLBACK.pattern, *(rf"\b{name}\b" for name in sorted(names))]))
    return [
        Function(f"{path}:{node.lineno} {node.name}", length(node), callbacks(node, callback))
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def aliases(tree: ast.Module) -> Iterator[str]:
    """Names of a module that stand for a callback's type."""
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Subscript | ast.BinOp):
            continue
        if CALLBACK.search(ast.unparse(node.value)):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def callbacks(node: ast.FunctionDef | ast.AsyncFunctionDef, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """The parameters that are callbacks, as they are written."""
    given = [
        *node.args.posonlyargs,
        *node.args.args,
        *node.args.kwonlyargs,
        node.args.vararg,
        node.args.kwarg,
    ]
    annotated = [(one, one.annotation) for one in given if one is not None and one.annotation is not None]
    return tuple(
        ast.unparse(one)
        for one, annotation in annotated
        if any(pattern.search(name) for name in types_in(annotation))
    )


def types_in(annotation: ast.AST) -> Iterator[str]:
    """Names in an annotation, also of types in quotes; nothing inside a call."""
    if isinstance(annotation, ast.Call):
        return
    if isinstance(annotation, ast.Name | ast.Attribute):
        yield ast.unparse(annotation)
    elif isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        yield annotation.value
    for inner in ast.iter_child_nodes(annotation):
        yield from types_in(inner)


def of_code(root: Path) -> Iterator[Measure]:
    paths = modules(root)
    tops = {package: loose(paths, Path(package)) for package in PACKAGES}
    yield _most("loose modules at a package's top", tops, 12)
    folders = {str(folder): loose(paths, folder) for folder in {path.parent for path in paths} - {Path()}}
    yield _most("modules of the fullest folder", folders, 14)
    lines = {path.as_posix(): len((root / path).read_text().splitlines()) for path in paths}
    yield _most("lines of the longest module", {k: n for k, n in lines.items() if k not in KERNELS}, 400)
    yield Measure("lines of cli.py", lines.get("cli.py", 0), 60)
    found = functions(root, paths)
    yield Measure("lines of a function, 90th percentile", percentile([one.lines for one in found], 0.9), 22)
    kernels = {one.place: one.lines for one in found if one.place.startswith(KERNEL_FOLDER)}
    others = {one.place: one.lines for one in found if one.place not in kernels}
    yield _most("lines of the longest function", others, 60)
    yield _most("lines of the longest function of kernels", kernels, 90)
    count = sum(len(one.callbacks) for one in found)
    yield Measure(
        "callback parameters per 100 functions", 100 * count / max(1, len(found)), 3, f"{count} of them"
    )


def loose(paths: Iterable[Path], folder: Path) -> int:
    """Modules that stand in a folder itself."""
    return sum(path.parent == folder and path.stem != "__init__" for path in paths)


def _most(name: str, found: dict[str, int], limit: int) -> Measure:
    where = max(found, key=found.__getitem__, default="")
    return Measure(name, found.get(where, 0), limit, where)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of the values stay below or equal."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0


# -- sentences -----------------------------------------------------------------------------------------------


def sentences(text: str) -> list[int]:
    """Words of each sentence of a page of Markdown."""
    counts = []
    for paragraph in paragraphs(FENCE.sub("\n\n", text)):
        plain = re.sub(r"`[^`]*`", "", paragraph)
        for sentence in re.split(r"(?<=[.!?])[)\"*_]*\s+", plain):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            counts += [len(words)] if words else []
    return counts


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs and items of lists; headings, tables and pictures are left out."""
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        apart = not line.strip() or line.lstrip().startswith(("#", "|", "![")) or ITEM.match(line)
        if apart and lines:
            yield " ".join(lines)
            lines = []
        if not apart:
            lines.append(line.strip())
        elif ITEM.match(line):
            lines = [ITEM.sub("", line, count=1)]


def of_words(root: Path) -> Iterator[Measure]:
    counts = [n for page in sorted((root / "docs/design").rglob("*.md")) for n in sentences(page.read_text())]
    yield Measure("words a sentence in docs/design, median", statistics.median(counts or [0]), 18)
    yield Measure("words a sentence in docs/design, 90th percentile", percentile(counts, 0.9), 36)


# -- start-up ------------------------------------------------------------------------------------------------


def of_start(root: Path) -> Iterator[Measure]:
    help_s, bare_s = [], []
    for _ in range(STARTS):
        help_s.append(seconds([sys.executable, "-c", HELP], root))
        bare_s.append(seconds([sys.executable, "-c", "import typer, rich"], root))
    took, bare = statistics.median(help_s), statistics.median(bare_s)
    yield Measure(
        "fastqwen --help, over the imports of typer and rich",
        took / bare,
        2.5,
        f"{took:.2f} s / {bare:.2f} s",
    )


def seconds(command: list[str], root: Path) -> float:
    environ = os.environ | {"PYTHONPATH": str(root)}
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=root, env=environ)  # noqa: S603
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the checkout to measure; this one by default"
    )
    parser.add_argument("--list", action="store_true", help="print the callback parameters")
    given = parser.parse_args()
    root = given.root.resolve()
    if given.list:
        for function in functions(root, modules(root)):
            for callback in function.callbacks:
                print(f"{function.place}({callback})")
        return 0
    found = [*of_code(root), *of_words(root), *of_start(root)]
    width = max(len(one.name) for one in found)
    print(f"{'measure':{width}}   value   limit")
    for one in found:
        broken = "" if one.holds else "  over"
        print(f"{one.name:{width}}  {one.value:6.4g}  {one.limit:6g}{broken:6}  {one.where}".rstrip())
    for module, reason in KERNELS.items():
        print(f"{module}: {reason}")
    return 0 if all(one.holds for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
