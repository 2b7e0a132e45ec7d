"""Questions that the cache keeps beside their answers, so that some can be asked again; see `reask`.

One in eight is kept, by its key, and of each run the first few: a small cache has some too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from cache.store import Store
from tgi_stack.types import CaptionRequest, Identity, PreparedImage, ScoreRequest

KEPT = 1 / 8
FIRST = 8


class Questions:
    """Keeps some of the questions of a run."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._first = FIRST

    def keep(self, key: str, question: Callable[[], bytes]) -> None:
        """Keeps a question under its answer's key, or not."""
        if self._store is None:
            return
        self._first -= 1
        if self._first >= 0 or int(key[:2], 16) < 256 * KEPT:
            self._store.put("question", key, question())


def name_of(identity: Identity) -> str:
    """What has to be the same for answers to be comparable."""
    return json.dumps(
        [identity.engine, identity.model, identity.revision, identity.dtype, identity.tokenizer]
    )


def of_labels(
    identity: Identity, prompt: str, token_ids: Sequence[int], labels: Sequence[str], label_ids: Sequence[int]
) -> bytes:
    """A question for labels after a prompt without images."""
    asked = {"prompt": prompt, "token_ids": token_ids, "labels": labels, "label_ids": label_ids}
    return json.dumps({"identity": name_of(identity)} | asked).encode()


def of_summary(identity: Identity, request: CaptionRequest, image: str | None) -> bytes:
    """A question for a text; `image` is the key of the prepared image."""
    asked = {
        "prompt": request.prompt,
        "body": request.body,
        "token_ids": request.token_ids,
        "image": image,
        "max_new_tokens": request.max_new_tokens,
    }
    return json.dumps({"identity": name_of(identity)} | asked).encode()


def label_request(question: dict[str, Any]) -> ScoreRequest:
    """What is asked of a backend."""
    ids, labels, label_ids = map(tuple, (question["token_ids"], question["labels"], question["label_ids"]))
    return ScoreRequest(question["prompt"], ids, labels, label_ids)


def summary_request(question: dict[str, Any], image: PreparedImage | None) -> CaptionRequest:
    """What is asked of a backend; greedy."""
    ids = tuple(question["token_ids"])
    return CaptionRequest(question["prompt"], question["body"], ids, image, question["max_new_tokens"])
