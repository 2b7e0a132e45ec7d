"""The torch engine as a backend: questions gather into batches, the network works on one after another."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import torch

from tgi_stack.backends.micro_batch import MicroBatcher, in_threads
from tgi_stack.backends.work import Work
from tgi_stack.engine import caption
from tgi_stack.engine.formats import gguf, lora
from tgi_stack.engine.loader import (
    VISION_TYPES,
    context_of,
    is_own,
    load,
    model_type_for,
    quantization,
    understand,
)
from tgi_stack.engine.placement import Placement, choose, devices, hold_to
from tgi_stack.engine.runtime import Runtime, gathered
from tgi_stack.engine.switches import Switches, switches_of
from tgi_stack.errors import UsageError
from tgi_stack.hub import Checkpoint, locate, locate_tokenizer
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.framing import forced_flags, framing
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.vocabulary import refuse_another_vocabulary, tokenizer_of
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

LOG = logging.getLogger(__name__)

PADDED = 8  # prompts in a batch of transformers' own forward
BATCHES = 2  # one computed, one gathering


class LocalBackend:
    """A network in this process.

    Args:
        runtime: the loaded network, closed with the backend.
    """

    takes_tokens = True

    def __init__(self, runtime: Runtime, identity: Identity, profile: Profile) -> None:
        self.identity = identity
        self.profile = profile
        self._runtime = runtime
        size = runtime.gathered
        self.max_concurrency = BATCHES * size
        # torch uses the cores (or the GPU) by itself; a second thread lays out what comes next.
        self._threads = ThreadPoolExecutor(runtime.lanes, thread_name_prefix="torch")
        self.work = Work()
        self._score: MicroBatcher[ScoreRequest, LabelScores] = MicroBatcher(
            in_threads(self._threads, runtime.score), size=size, lanes=runtime.lanes, work=self.work
        )
        self._score_images: MicroBatcher[ScoreRequest, LabelScores] = MicroBatcher(
            in_threads(self._threads, runtime.score_images),
            size=size if runtime.packs_images else min(size, PADDED),
            lanes=runtime.lanes,
            work=self.work,
        )
        write = partial(caption.texts, runtime.model, profile.tokenizer, profile.grid)
        self._caption: MicroBatcher[CaptionRequest, Caption] = MicroBatcher(
            in_threads(self._threads, write),
            size=min(size, PADDED),
            work=self.work,
        )

    async def score(self, request: ScoreRequest) -> LabelScores:
        scores = await (self._score_images if request.images else self._score).ask(request)
        ties = distributions.tie_flags(scores.logprobs, self.identity.dtype)
        forced = forced_flags(request.prompt, always_thinks=self.profile.always_thinks)
        return replace(scores, flags=scores.flags + ties + forced) if ties or forced else scores

    async def caption(self, request: CaptionRequest) -> Caption:
        if request.image is not None and self.profile.grid is None:
            raise UsageError(f"{self.identity.model} reads no images")
        if self._runtime.writes:
            with self.work.computing(time.monotonic()):
                return await asyncio.wrap_future(self._runtime.write(request))
        if request.form is not None:
            raise UsageError(
                f"--schema: {self.identity.model} is computed by transformers, which can't be held to one; "
                "use a Qwen3-VL in its own weights, or a server"
            )
        return await self._caption.ask(request, caption.batch_key(request))

    async def aclose(self) -> None:
        self._runtime.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class TorchPlan:
    """What a run of the torch engine comes to, found out before any weights load; one placement a device."""

    checkpoint: Checkpoint
    placements: tuple[Placement, ...]
    switches: Switches
    identity: Identity
    profile: Profile
    kind: str

    @property
    def max_concurrency(self) -> int:
        """How many questions all devices together will like to be asked at once."""
        sizes = (gathered(one.device, self.kind, self.switches) for one in self.placements)
        return BATCHES * sum(sizes)


def plan(settings: Settings, kind: str) -> TorchPlan:
    """The plan for the model that the settings name for `kind` (`text` or `vision`).

    Raises:
        UsageError, MachineError: see `checkpoint.locate`, `switches.switches_of` and `load.model_type_for`.
    """
    placements = tuple(choose(device, settings.dtype) for device in devices(settings.device))
    switches, *_ = [switches_of(settings, kind, placement) for placement in placements]
    checkpoint = locate(
        settings.model_for(kind), kind, settings.revision, may_download=settings.engine == "torch"
    )
    model_type_for(checkpoint, kind)
    understand(checkpoint, switches)
    profile = _profile(checkpoint, settings)
    identity = Identity(
        engine="torch",
        model=checkpoint.name,
        revision=checkpoint.revision,
        quantization=quantization(checkpoint, switches),
        dtype=placements[0].dtype_name,
        tokenizer=profile.tokenizer.digest,
        version=", ".join(
            [
                f"torch {torch.__version__}",
                *([] if is_own(checkpoint, switches) else [f"transformers {version('transformers')}"]),
                *([] if checkpoint.adapter is None else [lora.said_version()]),
                *([] if checkpoint.gguf is None else [gguf.said_version()]),
                *([] if switches.loader == "transformers" else [switches.loader]),
            ]
        ),
    )
    return TorchPlan(checkpoint, placements, switches, identity, profile, kind)


def open_local(found: TorchPlan) -> LocalBackend:
    """Loads the model of a plan, in this process, on its first device.

    Raises:
        MachineError: see `load.load`.
    """
    hold_to(found.switches.allocated, found.placements[0].device)
    model = load(found.checkpoint, found.kind, found.placements[0], found.switches)
    tokenizer, grid = found.profile.tokenizer, found.profile.grid
    runtime = Runtime(model, found.switches, tokenizer=tokenizer, grid=grid, kind=found.kind)
    LOG.info(f"torch: {runtime.about}")
    return LocalBackend(runtime, found.identity, found.profile)


def _profile(checkpoint: Checkpoint, settings: Settings) -> Profile:
    config = checkpoint.config
    given = None if settings.tokenizer is None else locate_tokenizer(settings.tokenizer, "text")
    tokenizer = tokenizer_of(checkpoint, given)
    refuse_another_vocabulary(tokenizer, str(given or checkpoint.tokenizer_file or checkpoint.name), config)
    frame = framing(checkpoint.chat_template)
    return Profile(
        tokenizer=tokenizer,
        closes_thinking=frame.closes_thinking,
        always_thinks=frame.always_thinks,
        context=context_of(config),
        grid=Grid.from_checkpoint(checkpoint.folder) if config.get("model_type") in VISION_TYPES else None,
    )
