"""The seam between the jobs and whoever computes."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tgi_stack.prompting.profile import Profile
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest


class Backend(Protocol):
    """Answers questions, one at a time from the caller's side; any number may be asked at once.

    A question that can't be answered raises a RowError; anything else that is raised stops the run.
    """

    @property
    def identity(self) -> Identity:
        """What the answers depend on besides the requests."""

    @property
    def profile(self) -> Profile:
        """What prompts have to be written for."""

    @property
    def max_concurrency(self) -> int:
        """How many questions should be asked at once to keep it busy."""

    @property
    def takes_tokens(self) -> bool:
        """Whether a prompt may go on in token ids, as it has to for labels of several tokens."""

    async def score(self, request: ScoreRequest) -> LabelScores:
        """The logarithms of the labels after the prompt."""

    async def caption(self, request: CaptionRequest) -> Caption:
        """The text that follows the prompt."""

    async def aclose(self) -> None:
        """Gives back what it holds."""


@runtime_checkable
class Replaced(Protocol):
    """A backend for which another answers what it can't answer exactly."""

    async def stand_in(self) -> Identity | None:
        """Who that is, as far as that can be known; what they answer has it as its `stand_in`."""


def takes_tokens(engine: str) -> bool:
    """Whether an engine's prompts may go on in token ids: TGI takes texts alone."""
    return engine != "tgi"
