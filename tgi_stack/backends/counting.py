"""Counts what a run would have to ask for, and asks nobody: for `--dry-run`."""

from __future__ import annotations

from cache.store import Store
from tgi_stack.answers.identities import Identities
from tgi_stack.backends.base import Profile
from tgi_stack.backends.offline import APPETITE, allow_network, forbid_network
from tgi_stack.errors import AnswerError, UsageError
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

TYPE = "dry.miss"


class CountingBackend:
    """Stands for who answered before; what is not remembered is counted.

    Attributes:
        requests, prompt_tokens, new_tokens, images: of what would be asked; new tokens at most.
    """

    def __init__(self, identity: Identity, profile: Profile, stand_in: Identity | None = None) -> None:
        self.identity = identity
        self.profile = profile
        self._stand_in = stand_in
        self.appetite = APPETITE
        self.takes_tokens = identity.engine != "tgi"
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


def open_counting(settings: Settings, kind: str, store: Store | None) -> CountingBackend:
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
    return CountingBackend(known.identity, known.profile, known.stand_in)
