"""What is remembered under which key: everything that can change an answer, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from cache.store import Store
from tgi_stack.answers.tables import ImageAnswers, LabelAnswers, Summary, SummaryAnswers
from tgi_stack.images.grid import Grid
from tgi_stack.settings import Settings, load
from tgi_stack.tiny import TINY
from tgi_stack.types import Caption, Identity, LabelScores, PreparedImage

IDENTITY = Identity("tgi", "a model", "1", "none", "bf16", "digest", "3.3.7", "/root")
GRID = Grid.from_checkpoint(TINY / "vision")
SAMPLED = {"temperature": 0.5, "seed": 1}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "cache", print)
    yield opened
    opened.close()


def settings(**flags: Any) -> Settings:
    return load(flags, environ={})


class Asked:
    """Asks for one answer of each kind, and counts what has to be computed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.computed = 0

    async def _labels(self) -> LabelScores:
        self.computed += 1
        return LabelScores((-1.0, -2.0), "vocabulary", 0.5, True, "route", 3)

    async def _summary(self) -> Summary:
        self.computed += 1
        return Summary(Caption("text", "stop", "chat", 1, 1), None)

    async def _image(self) -> PreparedImage:
        self.computed += 1
        return PreparedImage(b"jpeg", "sha", 1, 1, 1, 1)

    def labels(self, identity: Identity, chosen: Settings, prompt: str = "Which?", **parts: Any) -> int:
        answers = LabelAnswers(self._store, identity, chosen)
        return self._count(answers.get({"prompt": prompt} | parts, ("A", "B"), self._labels))

    def summary(
        self,
        identity: Identity,
        chosen: Settings,
        grid: Grid | None = GRID,
        body: str = "a",
        image: str = "b",
    ) -> int:
        answers = SummaryAnswers(self._store, identity, chosen, grid)
        return self._count(answers.get(body, image, self._summary))

    def image(self, chosen: Settings, grid: Grid = GRID, sha256: str = "sha") -> int:
        return self._count(ImageAnswers(self._store, grid, chosen).get(sha256, self._image))

    def _count(self, answer: Any) -> int:
        before = self.computed
        asyncio.run(answer)
        self._store.flush()
        return self.computed - before


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_who_answers_is_in_each_key(store: Store, name: str) -> None:  # C09, C10
    asked, other = Asked(store), replace(IDENTITY, **{name: "another"})
    for ask in (asked.labels, asked.summary):
        assert [ask(IDENTITY, settings()), ask(other, settings()), ask(IDENTITY, settings())] == [1, 1, 0]


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("labels", {}, {"label_mass": True}),
        ("summary", {}, {"max_new_tokens": 64}),
        ("summary", {}, SAMPLED),
        ("summary", SAMPLED, SAMPLED | {"temperature": 0.6}),
        ("summary", SAMPLED, SAMPLED | {"seed": 2}),
        ("summary", {}, {"max_side": 224}),
        ("summary", {}, {"allow_truncated": True}),
        ("image", {}, {"max_side": 224}),
        ("image", {}, {"allow_truncated": True}),
    ],
    ids=str,
)
def test_what_changes_an_answer_is_in_its_key(
    store: Store, kind: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    asked = Asked(store)

    def ask(flags: dict[str, Any]) -> int:
        return asked.image(settings(**flags)) if kind == "image" else of(asked, kind)(settings(**flags))

    assert [ask(before), ask(after), ask(before), ask(after)] == [1, 1, 0, 0]


def of(asked: Asked, kind: str) -> Callable[[Settings], int]:
    ask = asked.labels if kind == "labels" else asked.summary
    return lambda chosen: ask(IDENTITY, chosen)


@pytest.mark.parametrize("name", ["factor", "min_pixels", "max_pixels"])
def test_the_models_grid_is_in_an_images_key(store: Store, name: str) -> None:
    asked, other = Asked(store), replace(GRID, **{name: getattr(GRID, name) + 1})
    assert [asked.image(settings(), grid) for grid in (GRID, other, GRID)] == [1, 1, 0]
    assert [asked.summary(IDENTITY, settings(), grid) for grid in (GRID, other, GRID)] == [1, 1, 0]


@pytest.mark.parametrize("module", ["prompting.prompts", "images"])
def test_our_own_version_is_in_the_key(store: Store, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    asked = Asked(store)
    kinds = (
        [of(asked, "labels"), of(asked, "summary")]
        if module.endswith("prompts")
        else [of(asked, "summary"), asked.image]
    )
    assert [ask(settings()) for ask in kinds] == [1, 1]
    monkeypatch.setattr(f"tgi_stack.{module}.VERSION", 10_000)
    assert [ask(settings()) for ask in kinds] == [1, 1]


def test_what_is_asked_is_in_the_key(store: Store) -> None:
    asked, plain = Asked(store), settings()
    assert [asked.labels(IDENTITY, plain, prompt) for prompt in ("a", "b", "a")] == [1, 1, 0]
    for part in ("system", "images", "image_version"):
        assert asked.labels(IDENTITY, plain, "a", **{part: "x"}) == 1
    assert [asked.summary(IDENTITY, plain, body=body) for body in ("x", "y", "x")] == [1, 1, 0]
    assert [asked.summary(IDENTITY, plain, image=image) for image in ("x", "y", "x")] == [1, 1, 0]
    assert [asked.image(plain, sha256=sha) for sha in ("x", "y", "x")] == [1, 1, 0]


@pytest.mark.parametrize(
    "flags",
    [
        {"endpoint": ("http://127.0.0.1:1",)},
        {"concurrency": 3},
        {"limit": 3},
        {"llm_batch_size": 3, "semantic_summary_batch_size": 3},
        {"overwrite": True, "unordered": True, "skip_bad_rows": True},
        {"seed": 5},  # greedy draws nothing
        {"startup_timeout": 1.0},
        {"offline": True},
    ],
    ids=str,
)
def test_what_changes_no_answer_is_in_no_key(store: Store, flags: dict[str, Any]) -> None:
    asked = Asked(store)
    for ask in (of(asked, "labels"), of(asked, "summary"), asked.image):
        assert [ask(settings()), ask(settings(**flags))] == [1, 0]
