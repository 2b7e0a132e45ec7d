"""What differs from server to server, behind one seam: how each is asked, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from tgi_stack.backends.servers.protocols import sglang, tgi, vllm
from tgi_stack.backends.servers.protocols.reply import Call, Served
from tgi_stack.backends.servers.question import Ask, seed_of
from tgi_stack.backends.servers.reads.sglang import SglangReads
from tgi_stack.backends.servers.reads.tgi import TgiReads
from tgi_stack.backends.servers.reads.vllm import VllmReads
from tgi_stack.backends.servers.transport import Reply
from tgi_stack.prompting.labels import Prover
from tgi_stack.prompting.profile import Profile
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest


class LabelReads(Protocol):
    """Reads labels by the best route that a server is able to go."""

    async def score(self, request: ScoreRequest) -> LabelScores: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How labels are to be read: prompts in one request at most, and with TGI a second read for the mass."""

    group_size: int = 1
    with_mass: bool = False


class Dialect(Protocol):
    """How a kind of server is spoken to.

    Attributes:
        work: what its /metrics call the requests that run, and those that wait.
        alive: the page that tells whether it answers, at little cost to it.
        groups: whether prompts share a request.
        tells_resizing: whether its count of tokens shows that it made a picture larger or smaller.
    """

    work: tuple[str, str]
    alive: str
    groups: bool
    tells_resizing: bool

    def reads(
        self, ask: Ask, served: Served, profile: Profile, identity: Identity, how: Reading
    ) -> LabelReads:
        """Who reads labels there."""

    def caption_call(self, request: CaptionRequest, served: Served, profile: Profile, name: str) -> Call:
        """A question for a summary; `name` is drawn for the attempt."""

    def parse_caption(self, reply: Reply, request: CaptionRequest, served: Served, name: str) -> Caption:
        """The summary; raises a ReplyError for what is none."""

    def count_call(self, text: str, served: Served, name: str) -> Call:
        """A text of which the server counts the tokens."""

    def parse_count(self, reply: Reply, text: str, tokens: int, served: Served, name: str) -> None:
        """Raises a ReplyError unless the server counts as many tokens."""


class _Tgi:
    work = ("tgi_batch_current_size", "tgi_queue_size")
    alive = "/health"
    groups = False
    tells_resizing = False

    def reads(
        self, ask: Ask, served: Served, profile: Profile, identity: Identity, how: Reading
    ) -> LabelReads:
        return TgiReads(ask, Prover(profile.tokenizer), with_mass=how.with_mass)

    def caption_call(self, request: CaptionRequest, served: Served, profile: Profile, name: str) -> Call:
        return tgi.caption_call(request)

    def parse_caption(self, reply: Reply, request: CaptionRequest, served: Served, name: str) -> Caption:
        return tgi.parse_caption(reply.body, reply.headers, request)

    def count_call(self, text: str, served: Served, name: str) -> Call:
        return tgi.count_call(text, seed_of(name))

    def parse_count(self, reply: Reply, text: str, tokens: int, served: Served, name: str) -> None:
        tgi.parse_count(reply.body, reply.headers, text, tokens, seed_of(name))


class _Vllm:
    work = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    alive = "/health"
    groups = True
    tells_resizing = True

    def reads(
        self, ask: Ask, served: Served, profile: Profile, identity: Identity, how: Reading
    ) -> LabelReads:
        closes, dtype = profile.closes_thinking, identity.dtype
        return VllmReads(ask, group_size=how.group_size, closes_thinking=closes, dtype=dtype)

    def caption_call(self, request: CaptionRequest, served: Served, profile: Profile, name: str) -> Call:
        return vllm.caption_call(request, served.model, name, closes_thinking=profile.closes_thinking)

    def parse_caption(self, reply: Reply, request: CaptionRequest, served: Served, name: str) -> Caption:
        return vllm.parse_caption(reply.body, request, served.model, name)

    def count_call(self, text: str, served: Served, name: str) -> Call:
        return vllm.count_call(text, served.model, name)

    def parse_count(self, reply: Reply, text: str, tokens: int, served: Served, name: str) -> None:
        vllm.parse_count(reply.body, served.model, name, tokens)


class _Sglang:
    work = ("sglang:num_running_reqs", "sglang:num_queue_reqs")
    alive = "/ready"  # /health generates a token, and takes a second for it
    groups = True
    tells_resizing = True

    def reads(
        self, ask: Ask, served: Served, profile: Profile, identity: Identity, how: Reading
    ) -> LabelReads:
        scores, dtype = not served.shares_passes, identity.dtype
        return SglangReads(ask, group_size=how.group_size, scores=scores, dtype=dtype)

    def caption_call(self, request: CaptionRequest, served: Served, profile: Profile, name: str) -> Call:
        return sglang.caption_call(request, served.model, name, closes_thinking=profile.closes_thinking)

    def parse_caption(self, reply: Reply, request: CaptionRequest, served: Served, name: str) -> Caption:
        return sglang.parse_caption(reply.body, request, served, name)

    def count_call(self, text: str, served: Served, name: str) -> Call:
        return sglang.count_call(text, name)

    def parse_count(self, reply: Reply, text: str, tokens: int, served: Served, name: str) -> None:
        sglang.parse_count(reply.body, served, name, tokens)


DIALECTS: Mapping[str, Dialect] = MappingProxyType({"tgi": _Tgi(), "vllm": _Vllm(), "sglang": _Sglang()})
