"""Outputs as the jobs write them, made without a model, and what stands in a page."""

from __future__ import annotations

import base64
import gzip
import json
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.conftest import write_rows
from tgi_stack.scoring import distributions

Record = dict[str, Any]
ABOUT = {"engine": "vllm", "model": "Qwen/Qwen3-0.6B", "revision": "r1", "attempts": 1, "flags": []}


def summary(id: str, text: str, **more: Any) -> Record:
    image = {"sha256": "00" * 32, "width": 640, "height": 480, "sent_width": 448, "sent_height": 336}
    usage = {"prompt_tokens": 200, "completion_tokens": 12}
    return {
        "id": id, "status": "ok", "summary": text, "finish_reason": "stop", "image": image, "usage": usage,
        "route": "chat", "from_cache": False, **ABOUT, **more,
    }  # fmt: skip


def failed(
    id: str | None, type: str = "server.slow", message: str = "no whole answer in 60 s", **more: Any
) -> Record:
    return {
        "id": id,
        "status": "failed",
        "error": {"type": type, "message": message, "row": 1},
        "attempts": 3,
        **more,
    }


def ranking(id: str, logits: dict[str, list[float]], *positive: str, **more: Any) -> Record:
    """A record of `rerank` from the logits of each read, by candidate; the order of the prompt turns."""
    names = [*logits]
    reads, values = [], []
    for turn in range(len(next(iter(logits.values())))):
        order = names[turn:] + names[:turn]
        logs = distributions.among([logits[name][turn] for name in order])
        labels = [chr(65 + place) for place in range(len(order))]
        reads.append(
            {
                "order": order,
                "labels": labels,
                "logprobs": list(logs),
                "normalised": "vocabulary",
                "label_mass": 0.9,
            }
        )
        shares = dict(zip(order, distributions.softmax(logs), strict=True))
        values.append([shares[name] for name in names])
    mean, spread = distributions.mean(values), distributions.spread(values)
    ranked = [
        {"id": names[at], "rank": rank, "score": mean[at], "probability": mean[at], "spread": spread[at]}
        for rank, at in enumerate(distributions.order(mean), 1)
    ]
    return {
        "id": id, "status": "ok", "ranking": ranked, "label_mass": 0.9, "exact": True, "reads": reads,
        "positive": list(positive), "route": "vllm.logprob_token_ids", "from_cache": False,
        "usage": {"prompt_tokens": 90}, **ABOUT, **more,
    }  # fmt: skip


def rankings(rows: int, noise: float = 0.5, seed: int = 0) -> list[Record]:
    """Rankings of six candidates in two orders, of which one is the truth."""
    rng = random.Random(seed)
    found = []
    for row in range(rows):
        fit = random.Random(row)
        names = [f"item {row % 7}-{place}" for place in range(6)]
        truth = fit.choice(names)
        base = {name: fit.gauss(0, 1) + 2 * (name == truth) for name in names}
        logits = {name: [value + rng.gauss(0, noise) for _ in range(2)] for name, value in base.items()}
        found.append(ranking(f"u{row}", logits, truth))
    return found


def written(path: Path, *records: Record) -> Path:
    return write_rows(path, *records)


class Page(HTMLParser):
    """What an HTML parser finds in a page: tags with their attributes, texts, the contents of blocks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.texts: list[str] = []
        self.blocks: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self.hrefs: list[str] = []
        self.meta: dict[str, str] = {}
        self._open = ""
        self.feed(html)
        self.close()

    @property
    def code(self) -> str:
        """The page's script."""
        return self.blocks["script"][-1]

    @property
    def data(self) -> Any:
        """What the page's script reads, unpacked: the head, columns of rows and of items, thumbnails."""
        head, items, *blocks, thumbs, _ = self.blocks["script"]
        found = _unpacked(head)
        more = [_columns(_unpacked(block)) for block in blocks]
        rows = _columns(found["rows"]) | {
            name: [value for one in more for value in one[name]] for one in more[:1] for name in one
        }
        return found | {"rows": rows, "items": _columns(_unpacked(items)), "thumbs": thumbs.split()}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        if "href" in known:
            self.hrefs.append(known["href"] or "")
        if tag == "meta":
            self.meta[known.get("http-equiv") or known.get("name") or ""] = known.get("content") or ""
        self._open = tag
        if tag in self.blocks:
            self.blocks[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.blocks:
            self.blocks[self._open][-1] += data
        else:
            self.texts.append(data)


def _unpacked(block: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(block)))


def _columns(table: Any) -> Any:
    return {
        name: [values["of"][place] for place in values["at"]] if isinstance(values, dict) else values
        for name, values in table.items()
    }
