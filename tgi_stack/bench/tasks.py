"""What is asked in a benchmark: random prompts or pictures for speed, labelled rows for accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tgi_stack.backends.base import Profile
from tgi_stack.bench import workload
from tgi_stack.images.prepare import prepare
from tgi_stack.jobs.rerank import Rerank, join_items
from tgi_stack.jobs.summarize import Summarize
from tgi_stack.rows.reader import open_source
from tgi_stack.rows.schema import rerank_row
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

CATALOGUE = Path(__file__).resolve().parents[2] / "examples" / "catalogue"
LABELS = 20


@dataclass(frozen=True)
class Task:
    """Requests of one kind; `labelled` are those whose right answers are known.

    Attributes:
        right: for each labelled request the places of the right labels, or the words a right summary holds.
        checked: how many of `requests`, from the first, are compared with fp32.
    """

    kind: str
    requests: tuple[Any, ...]
    checked: int
    labelled: tuple[Any, ...] = ()
    right: tuple[tuple[Any, ...], ...] = ()


@dataclass
class Collector:
    """A backend that answers nothing: it keeps what it is asked."""

    identity: Identity
    profile: Profile
    appetite: int = 1
    takes_tokens: bool = True
    asked: list[Any] = field(default_factory=list)

    async def score(self, request: ScoreRequest) -> LabelScores:
        self.asked.append(request)
        values = tuple(-1.0 - index for index in range(len(request.label_ids)))
        return LabelScores(values, "vocabulary", 1.0, True, "none", len(request.token_ids))

    async def caption(self, request: CaptionRequest) -> Caption:
        self.asked.append(request)
        return Caption("", "stop", "none", len(request.token_ids), 0)

    async def aclose(self) -> None:
        """It holds nothing."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: a GPU takes more than a CPU in the same time."""

    prompts: int
    longest: int
    images: int
    new_tokens: int
    checked: int


async def text_task(
    profile: Profile,
    identity: Identity,
    vocabulary: int,
    sizes: Sizes,
    labelled: Path | None,
    items: Sequence[str],
) -> Task:
    """Random prompts; and the rows of a rerank file that name what is `positive`."""
    requests = workload.prompts(
        sizes.prompts, sizes.longest // 8, sizes.longest, vocabulary=vocabulary, labels=LABELS
    )
    if labelled is None:
        return Task("text", tuple(requests), sizes.checked)
    collector = Collector(identity, profile)
    job = Rerank(collector, Settings.model_validate({}), join_items([open_source(name) for name in items]))
    rows = [rerank_row(raw) for raw in open_source(str(labelled))]
    right = []
    for row in rows:
        if row.positive:
            answer = await job.answer(row)
            order = answer["reads"][0]["order"]
            right.append(tuple(order.index(id) for id in row.positive if id in order))
    await job.aclose()
    return Task("text", tuple(requests), sizes.checked, tuple(collector.asked), tuple(right))


async def vision_task(
    profile: Profile, identity: Identity, config: Mapping[str, Any], sizes: Sizes, catalogue: Path | None
) -> Task:
    """Random pictures; and those of the catalogue, whose category and colour are known."""
    if profile.grid is None:
        raise ValueError("a vision model's profile has a grid")
    pictures = workload.pictures(sizes.images, 448, profile.grid, config, sizes.new_tokens)
    checked = min(sizes.checked, sizes.images)
    if catalogue is None:
        return Task("vision", tuple(pictures), checked)
    collector = Collector(identity, profile)
    job = Summarize(collector, Settings.model_validate({"max_new_tokens": 40}), catalogue)
    right = []
    for line in (catalogue / "looks.jsonl").read_text().splitlines():
        look = json.loads(line)
        content = (catalogue / "images" / look["id"]).read_bytes()
        await job.ask(None, None, prepare(content, look["id"], profile.grid))
        right.append((look["colour"], look["category"]))
    await job.aclose()
    return Task("vision", tuple(pictures), checked, tuple(collector.asked), tuple(right))
