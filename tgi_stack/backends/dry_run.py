"""Counts what a run would have to ask for, and asks nobody: for `--dry-run`."""

from __future__ import annotations

from cache.store import Store
from tgi_stack.answers.identities import Identities, Known
from tgi_stack.backends.base import takes_tokens
from tgi_stack.backends.offline import MAX_CONCURRENCY, allow_network, forbid_network
from tgi_stack.errors import AnswerError, UsageError
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

TYPE = "dry.miss"


class DryRunBackend:
    """Stands for who answered before; what is not in the cache is counted.

    Attributes:
        requests, prompt_tokens, new_tokens, images: of what would be asked; new tokens at most.
    """

    def __init__(self, known: Known) -> None:
        self.identity = known.identity
        self.profile = known.profile
        self._stand_in = known.stand_in
        self.max_concurrency = MAX_CONCURRENCY
        self.takes_tokens = takes_tokens(known.identity.engine)
        self.requests = self.prompt_tokens = self.new_tokens = self.images = 0

    async def stand_in(self) -> Identity | None:
        return self._stand_in

    async def score(self, request: ScoreRequest) -> LabelScores:
        self._count(len(request.token_ids), 1, len(request.images))
        raise AnswerError(TYPE, "to be computed")

    async def caption(self, request: CaptionRequest) -> Caption:
        self._count(len(request.token_ids), request.max_new_tokens, int(request.image is not None))
        raise AnswerError(TYPE, "to be computed")

    def _count(self, prompt_tokens: int, new_tokens: int, images: int) -> None:
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.new_tokens += new_tokens
        self.images += images

    async def aclose(self) -> None:
        allow_network()


def open_dry_run(settings: Settings, kind: str, store: Store | None) -> DryRunBackend:
    """The backend that stands for the last one whom the settings allow.

    Raises:
        UsageError: nobody is known whose answers could be looked for.
    """
    known = None if store is None else Identities(store).last(settings, kind)
    if known is None:
        raise UsageError(
            "--dry-run: the cache knows nobody who answered such a job, so every row would be computed; "
            "after one run (--limit 10 is enough) it can say more"
        )
    forbid_network()
    return DryRunBackend(known)
