"""`docs/design/house.md` is true: its tree is the repository's, its way is the one that a row goes."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cache.store import Store
from tests.conftest import CATALOGUE, ROOT, write_rows
from tgi_stack.backends.scripted import open_scripted
from tgi_stack.jobs import pipeline
from tgi_stack.jobs.spec import JobSpec, Name
from tgi_stack.jobs.tally import Tally
from tgi_stack.rows.ledger import Discard
from tgi_stack.rows.opening import open_source
from tgi_stack.settings import load

HOUSE = (ROOT / "docs" / "design" / "house.md").read_text()
MOST = 15
STEPS = re.compile(r"^\| `([a-z_/]+\.py)` \| `([\w.]+)` \| ([a-z, ]+) \|", re.MULTILINE)
FLOORS = (
    "cache",
    "declared",
    "",
    "rows images prompting scoring",
    "answers",
    "backends",
    "jobs",
)  # "": loose modules

Step = tuple[str, str]


def step(frame: FrameType) -> Step | None:
    """The module and the name of a function of ours."""
    file = frame.f_code.co_filename
    if not file.startswith((f"{ROOT}/tgi_stack/", f"{ROOT}/cache/")):
        return None
    path = str(Path(file).relative_to(ROOT)).removeprefix("tgi_stack/")
    return path, frame.f_code.co_qualname.replace(".<locals>", "")


def floor(path: str) -> int:
    folder = path.split("/")[0] if "/" in path else ""
    return next(number for number, names in enumerate(FLOORS) if folder in names.split() or folder == names)


class Tracer(Discard):
    """Follows a row over all its tasks, until its record is written here.

    Attributes:
        steps: the coroutines that were entered, each once.
        upward: calls from a function to one of a floor above it.
    """

    def __init__(self) -> None:
        self.steps: dict[Step, None] = {}
        self.upward: set[tuple[Step, Step]] = set()

    def look(self, frame: FrameType, event: str, _: Any) -> None:
        """To be told of all calls."""
        entered = step(frame) if event == "call" else None
        if entered is None:
            return
        if frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            self.steps[entered] = None
        caller = frame.f_back
        while caller is not None and step(caller) is None:
            caller = caller.f_back
        above = None if caller is None else step(caller)
        if above is not None and floor(entered[0]) > floor(above[0]):
            self.upward.add((above, entered))

    def __contains__(self, number: object) -> bool:
        return number == 1

    def write(self, number: int, record: dict[str, Any]) -> None:
        sys.setprofile(None)
        assert record["status"] == "ok"


async def traced(job: Name, tmp_path: Path) -> Tracer:
    """The way of a row that nobody has answered: of the second one, since for the first processes start."""
    prompts = [{"id": str(n), "prompt": f"Which {n}?\n", "labels": ["A", "B"]} for n in range(2)]
    images = [{"id": n, "image": str(CATALOGUE / "images" / n)} for n in ("mug-02.jpg", "shirt-01.jpg")]
    given = {
        "summarize": write_rows(tmp_path / "images.jsonl", *images),
        "rerank": CATALOGUE / "sessions.jsonl",
        "probs": write_rows(tmp_path / "prompts.jsonl", *prompts),
    }
    source = open_source(str(given[job]))
    items = (open_source(str(CATALOGUE / "items.jsonl")),) if job == "rerank" else ()
    settings = load({"engine": "scripted", "limit": 2, "concurrency": 1}, environ={})
    spec = JobSpec(job, settings, source.base, items)
    store, tracer = Store(tmp_path / "cache"), Tracer()
    made = spec.job(open_scripted(settings, spec.kind), store)
    first, _ = list(source)[:2]
    await pipeline.answered(made, first)
    sys.setprofile(tracer.look)
    try:
        tally = Tally(rows=2, input_rows=2)
        await pipeline.run(made, source, tracer, settings, tally)
    finally:
        sys.setprofile(None)
        store.close()
    assert (tally.ok, tally.kept, tally.cached) == (2, 1, 0)
    return tracer


@pytest.mark.parametrize("job", ["summarize", "rerank", "probs"])
async def test_a_row_goes_the_drawn_way(job: Name, tmp_path: Path) -> None:
    tracer = await traced(job, tmp_path)
    steps = list(tracer.steps)
    drawn = [(path, name) for path, name, jobs in STEPS.findall(HOUSE) if jobs == "all" or job in jobs]
    assert steps == drawn
    assert len(steps) <= MOST
    assert tracer.upward == set()


def test_the_tree_is_the_real_one() -> None:
    tree = HOUSE.partition("```\n")[2].partition("```")[0]
    named, folders = set[str](), [""]
    for line in tree.splitlines():
        entry = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth + 1 :] = [folders[depth] + entry if entry.endswith("/") else ""]
        if entry.endswith("/"):
            named.add(folders[depth] + entry)
        else:
            named |= {folders[depth] + part for part in entry.split(",")}
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = {line for line in kept.splitlines() if line.startswith(("cache/", "tgi_stack/", "cli.py"))}
    modules = {line for line in ours if line.endswith(".py") and not line.endswith("__init__.py")}
    modules = {line for line in modules if not line.startswith("tgi_stack/tiny/")}
    assert modules - named == set()
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_floors_have_few_exceptions_with_reasons() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    ignored = [line for one in contracts for line in one.get("ignore_imports", ())]
    assert len(ignored) <= 3
    lines = [line.strip() for line in text.splitlines()]
    for one in ignored:
        assert lines[lines.index(f'"{one}",') - 1].startswith("# "), f"{one} has no reason"
