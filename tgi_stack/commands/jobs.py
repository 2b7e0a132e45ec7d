"""`fastqwen summarize`, `rerank` and `probs`: what they take."""

from __future__ import annotations

from dataclasses import dataclass

from tgi_stack.commands.declare import command
from tgi_stack.commands.options import Arguments, Input, Items, Map, Out, Settings


@dataclass(frozen=True, kw_only=True)
class Job(Arguments):
    """What every job takes."""

    input: Input
    out: Out = None
    map: Map = None
    settings: Settings


@command("summarize", "jobs.summarize")
@dataclass(frozen=True, kw_only=True)
class Summarize(Job):
    """Semantic summaries of a folder of images, or of rows.

    A row: {"id": "42", "image": "images/42.jpg", "title": "...", "text": "..."}
    """


@command("rerank", "jobs.rerank")
@dataclass(frozen=True, kw_only=True)
class Rerank(Job):
    """Ranks each row's candidates.

    A row: {"id": "u1", "history": [ITEM, ...], "candidates": [ITEM, ...]} or "query" in place of "history".
    """

    items: Items = None


@command("probs", "jobs.probs")
@dataclass(frozen=True, kw_only=True)
class Probs(Job):
    """Label probabilities of prompts of your own.

    A row: {"id": "p1", "prompt": "...", "labels": ["A", "B"]} or {"prompt": "...", "num_candidates": 20}
    """
