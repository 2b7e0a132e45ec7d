"""What is remembered under which key: everything that can change an answer, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from cache.store import Store
from tgi_stack.answers.contexts import PromptContext, PromptEncoder
from tgi_stack.answers.images import ImageFile, PreparedImages
from tgi_stack.answers.questions import LabelQuestion, SummaryQuestion, SummaryWriter
from tgi_stack.backends.cached import CachedBackend
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.settings import Settings, load
from tgi_stack.tiny import TINY
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, PreparedImage, ScoreRequest

IDENTITY = Identity("tgi", "a model", "1", "none", "bf16", "digest", "3.3.7", "/root")
JPEG = b"\xff\xd8 \xff\xd9"
GRID = Grid.from_checkpoint(TINY / "vision")
TOKENIZER = Tokenizer(TINY / "vision" / "tokenizer.json")
SAMPLED = {"temperature": 0.5, "seed": 1}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "cache")
    yield opened
    opened.close()


def settings(**flags: Any) -> Settings:
    return load(flags, environ={})


class Engine:
    """Answers everything alike, and counts what it is asked."""

    takes_tokens = True
    max_concurrency = 1

    def __init__(self, identity: Identity, grid: Grid | None) -> None:
        self.identity = identity
        self.profile = Profile(TOKENIZER, closes_thinking=True, context=10_000, grid=grid)
        self.asked = 0

    async def score(self, request: ScoreRequest) -> LabelScores:
        self.asked += 1
        return LabelScores((-1.0, -2.0), "vocabulary", 0.5, True, "route", 3)

    async def caption(self, request: CaptionRequest) -> Caption:
        self.asked += 1
        return Caption("text", "stop", "chat", 1, 1)

    async def aclose(self) -> None:
        pass


class Asked:
    """Asks for one answer of each kind, and counts what has to be computed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def labels(
        self, identity: Identity, chosen: Settings, prompt: str = "Which?", system: str = "", image: str = ""
    ) -> int:
        engine = Engine(identity, GRID)
        parts = (PreparedImage(JPEG, image, 1, 1, 1, 1),) if image else ()
        encoder = PromptEncoder(engine.profile, None)
        question = LabelQuestion(PromptContext(encoder, prompt, None, parts, system), ("A", "B"))
        return self._count(engine, CachedBackend(engine, self._store, chosen).score(question))

    def summary(
        self,
        identity: Identity,
        chosen: Settings,
        grid: Grid | None = GRID,
        body: str = "a",
        image: str = "b",
    ) -> int:
        engine = Engine(identity, grid)
        writer = SummaryWriter(engine.profile, chosen, None)
        question = SummaryQuestion(body, PreparedImage(JPEG, image, 56, 56, 56, 56), writer)
        return self._count(engine, CachedBackend(engine, self._store, chosen).caption(question))

    def image(self, chosen: Settings, grid: Grid = GRID, sha256: str = "sha") -> int:
        images = Decoder(grid, chosen, self._store)
        return self._count(images, images.prepared(ImageFile(sha256, b"", images)))

    def _count(self, computing: Any, answer: Any) -> int:
        asyncio.run(answer)
        self._store.flush()
        return int(computing.asked)


class Decoder(PreparedImages):
    """Images without processes that decode them."""

    def __init__(self, grid: Grid, settings: Settings, store: Store) -> None:
        super().__init__(grid, settings, store)
        self._pool: Any = self
        self.asked = 0

    async def prepare(self, *args: Any, **options: Any) -> PreparedImage:
        self.asked += 1
        return PreparedImage(JPEG, "sha", 1, 1, 1, 1)


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
    for part in ("system", "image"):
        assert [asked.labels(IDENTITY, plain, "a", **{part: "x"}) for _ in range(2)] == [1, 0]
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
