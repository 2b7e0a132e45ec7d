"""The torch engine as a backend: questions gather into batches, one thread computes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import transformers

from tgi_stack import prompts, scoring
from tgi_stack.backends.base import Profile
from tgi_stack.backends.batcher import Batcher
from tgi_stack.engine import caption, score, score_images
from tgi_stack.engine.checkpoint import Checkpoint, Say, locate, locate_tokenizer
from tgi_stack.engine.load import VISION_TYPES, load
from tgi_stack.engine.placement import choose
from tgi_stack.errors import UsageError
from tgi_stack.images.grid import Grid
from tgi_stack.settings import Settings
from tgi_stack.tokens import Tokenizer
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest


class LocalBackend:
    """A network in this process."""

    takes_tokens = True

    def __init__(self, model: Any, identity: Identity, profile: Profile, batch_size: int) -> None:
        self.identity = identity
        self.profile = profile
        self.appetite = 2 * batch_size  # one batch computed, one gathering
        # One thread: torch uses the cores (or the GPU) by itself, and batches stay whole.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="torch")
        self._score = Batcher[ScoreRequest, LabelScores](
            partial(score.score, model), self._thread, size=batch_size
        )
        self._score_images = Batcher[ScoreRequest, LabelScores](
            partial(score_images.score_images, model, profile.grid), self._thread, size=batch_size
        )
        self._caption = Batcher[CaptionRequest, Caption](
            partial(caption.caption, model, profile.tokenizer, profile.grid),
            self._thread,
            size=batch_size,
            key=caption.batch_key,
        )

    async def score(self, request: ScoreRequest) -> LabelScores:
        scores = await (self._score_images if request.images else self._score).ask(request)
        ties = scoring.tie_flags(scores.logprobs, self.identity.dtype)
        return replace(scores, flags=scores.flags + ties) if ties else scores

    async def caption(self, request: CaptionRequest) -> Caption:
        if request.image is not None and self.profile.grid is None:
            raise UsageError(f"{self.identity.model} reads no images")
        return await self._caption.ask(request)

    async def aclose(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def open_local(settings: Settings, kind: str, say: Say) -> LocalBackend:
    """Loads the model that the settings name for `kind` (`text` or `vision`).

    Raises:
        UsageError, MachineError: see `checkpoint.locate` and `load.load`.
    """
    placement = choose(settings.device, settings.dtype)
    checkpoint = locate(
        settings.model_for(kind), kind, settings.revision, say, may_download=settings.engine == "torch"
    )
    profile = _profile(checkpoint, settings, say)
    model = load(checkpoint, kind, placement, say)
    identity = Identity(
        engine="torch",
        model=checkpoint.name,
        revision=checkpoint.revision,
        quantization="none",
        dtype=placement.dtype_name,
        tokenizer=profile.tokenizer.digest,
        version=f"torch {torch.__version__}, transformers {transformers.__version__}",
    )
    return LocalBackend(model, identity, profile, settings.batch_size_for(kind))


def _profile(checkpoint: Checkpoint, settings: Settings, say: Say) -> Profile:
    config = checkpoint.config
    path = checkpoint.tokenizer_file
    if settings.tokenizer is not None:
        path = locate_tokenizer(settings.tokenizer, "text", say)
    tokenizer = Tokenizer(path)
    vocabulary = int(config.get("text_config", config)["vocab_size"])
    if tokenizer.size > vocabulary:
        raise UsageError(f"{path} has {tokenizer.size:,} tokens, {checkpoint.name} only {vocabulary:,}")
    return Profile(
        tokenizer=tokenizer,
        closes_thinking=prompts.closes_thinking(checkpoint.chat_template),
        context=int(config.get("text_config", config).get("max_position_embeddings", 4096)),
        grid=Grid.from_checkpoint(checkpoint.folder) if config.get("model_type") in VISION_TYPES else None,
    )
