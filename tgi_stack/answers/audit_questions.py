"""Questions that the cache keeps beside their answers, so that some can be asked again; see `audit`.

One in eight is kept, by its key, and of each run the first few: a small cache has some too.
"""

from __future__ import annotations

import json
from typing import Any

from cache.store import Store
from tgi_stack.types import CaptionRequest, Identity, PreparedImage, ScoreRequest

KEPT = 1 / 8
BROUGHT = 1 / 128  # of answers that came from a tier: what was asked has to be worked out for it
FIRST = 8


class AuditQuestions:
    """Keeps some of the questions of a run."""

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._first = FIRST

    def wants(self, key: str, share: float = KEPT) -> bool:
        """Whether the question under this answer's key is one to keep."""
        if self._store is None:
            return False
        self._first -= 1
        return self._first >= 0 or int(key[:4], 16) < 2**16 * share

    def keep(
        self, key: str, identity: Identity, request: ScoreRequest | CaptionRequest, image: str | None = None
    ) -> None:
        """Keeps what was asked of somebody under its answer's key.

        Args:
            image: the key of the prepared image.
        """
        if self._store is not None:
            asked = _of_labels(request) if isinstance(request, ScoreRequest) else _of_summary(request, image)
            self._store.put("question", key, json.dumps({"identity": name_of(identity)} | asked).encode())


def name_of(identity: Identity) -> str:
    """What has to be the same for answers to be comparable."""
    return json.dumps(
        [identity.engine, identity.model, identity.revision, identity.dtype, identity.tokenizer]
    )


def _of_labels(request: ScoreRequest) -> dict[str, Any]:
    """A question for labels after a prompt without images."""
    return {
        "prompt": request.prompt,
        "token_ids": request.token_ids,
        "labels": request.labels,
        "label_ids": request.label_ids,
    }


def _of_summary(request: CaptionRequest, image: str | None) -> dict[str, Any]:
    return {
        "prompt": request.prompt,
        "body": request.body,
        "token_ids": request.token_ids,
        "image": image,
        "max_new_tokens": request.max_new_tokens,
        **({} if request.form is None else {"form": request.form}),
    }


def label_request(question: dict[str, Any]) -> ScoreRequest:
    """What is asked of a backend."""
    ids, labels, label_ids = map(tuple, (question["token_ids"], question["labels"], question["label_ids"]))
    return ScoreRequest(question["prompt"], ids, labels, label_ids)


def summary_request(question: dict[str, Any], image: PreparedImage | None) -> CaptionRequest:
    """What is asked of a backend; greedy."""
    ids = tuple(question["token_ids"])
    most, form = question["max_new_tokens"], question.get("form")
    return CaptionRequest(question["prompt"], question["body"], ids, image, most, form=form)
