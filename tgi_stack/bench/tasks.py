"""What is asked in a benchmark: random prompts or pictures for speed, labelled rows for accuracy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tgi_stack.bench import workload
from tgi_stack.errors import UsageError
from tgi_stack.images.prepare import prepare
from tgi_stack.jobs.rerank.items import join_items
from tgi_stack.jobs.rerank.job import Rerank
from tgi_stack.jobs.summarize import Summarize
from tgi_stack.prompting.labels import Prover
from tgi_stack.prompting.profile import Profile
from tgi_stack.rows.opening import open_source
from tgi_stack.rows.schema import rerank_row
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

CATALOGUE = Path(__file__).resolve().parents[2] / "examples" / "catalogue"
LABELS = 20
SIDE_PX = 448


@dataclass(frozen=True)
class Task:
    """Requests of one kind; `labelled` are those whose right answers are known.

    Any first part of `requests` has the lengths of all.

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
    takes_tokens: bool = True
    max_concurrency: int = 1
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
    """How much is measured: a GPU takes more than a CPU in the same time.

    Attributes:
        labelled: of rows whose right answers are known, the most that are asked; None for all.
    """

    prompts: int
    longest: int
    images: int
    new_tokens: int
    checked: int
    labelled: int | None = None


@dataclass(frozen=True, slots=True)
class TaskBuilder:
    """What a task is made of once somebody's prompts are known to be written for.

    Attributes:
        kind: `text` or `vision`.
        labelled: a rerank file whose rows name what is `positive`; `items` stand for its ids.
        catalogue: a folder of pictures whose category and colour are known.
        random_weights: whether the weights that all is compared with know nothing.
    """

    kind: str
    sizes: Sizes
    labelled: Path | None = None
    items: tuple[str, ...] = ()
    catalogue: Path | None = None
    random_weights: bool = False

    async def task(self, profile: Profile, identity: Identity, *, takes_tokens: bool = True) -> Task:
        """The task for one who reads prompts so."""
        if self.kind == "vision":
            return await self._vision(profile, identity)
        requests = tuple(workload.spread(_random_turns(profile, self.sizes)))
        if self.labelled is None:
            return Task("text", requests, self.sizes.checked)
        collector = Collector(identity, profile, takes_tokens)
        items = join_items([open_source(name, kind="item") for name in self.items])
        job = Rerank(collector, Settings.model_validate({}), items)
        right = []
        rows = islice(open_source(str(self.labelled), kind="rerank"), self.sizes.labelled)
        for row in map(rerank_row, rows):
            if row.positive:
                answer = await job.answer(row)
                order = answer["reads"][0]["order"]
                right.append(tuple(order.index(id) for id in row.positive if id in order))
        await job.aclose()
        return Task("text", requests, self.sizes.checked, tuple(collector.asked), tuple(right))

    async def _vision(self, profile: Profile, identity: Identity) -> Task:
        if profile.grid is None:
            raise UsageError(f"{identity.model} reads no images")
        sizes, collector = self.sizes, Collector(identity, profile)
        job = Summarize(collector, Settings.model_validate({"max_new_tokens": sizes.new_tokens}), Path())
        for image in workload.images(sizes.images, SIDE_PX):
            await job.ask(None, None, image)
        await job.aclose()
        pictures, checked = tuple(collector.asked), min(sizes.checked, sizes.images)
        if self.catalogue is None:
            return Task("vision", pictures, checked)
        collector = Collector(identity, profile)
        job = Summarize(collector, Settings.model_validate({"max_new_tokens": 40}), self.catalogue)
        right = []
        for line in (self.catalogue / "looks.jsonl").read_text().splitlines()[: sizes.labelled]:
            look = json.loads(line)
            content = (self.catalogue / "images" / look["id"]).read_bytes()
            await job.ask(None, None, prepare(content, look["id"], profile.grid))
            right.append((look["colour"], look["category"]))
        await job.aclose()
        return Task("vision", pictures, checked, tuple(collector.asked), tuple(right))


def _random_turns(profile: Profile, sizes: Sizes) -> list[ScoreRequest]:
    """Text that servers can be sent too: random tokens as text, and that text's own tokens."""
    tokenizer = profile.tokenizer
    prover = Prover(tokenizer)
    ending = (profile.tail(), tokenizer.encode(profile.tail()))
    framed = len(profile.turn("")[1])
    plain = min(tokenizer.added_tokens.values(), default=tokenizer.size)
    labels = prover.default(LABELS)
    label_ids = prover.ids(labels, ending)
    drawn = workload.prompts(
        sizes.prompts, sizes.longest // 8, sizes.longest, vocabulary=plain, labels=LABELS
    )
    turns = []
    for one in drawn:
        # What random tokens spell has more tokens than they were; as many are kept as were drawn.
        spelled = tokenizer.encode(tokenizer.decode(list(one.token_ids)))
        prompt, ids = profile.turn(tokenizer.decode(list(spelled[: max(1, len(one.token_ids) - framed)])))
        turns.append(ScoreRequest(prompt, ids, labels, label_ids))
    return turns
