"""A loaded network with what answers questions by it: the scorer and the generator, as the switches say."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tgi_stack.engine import caption, score, score_images
from tgi_stack.engine.generator import Generator
from tgi_stack.engine.kernels import hopper_launch, kernel_check, triton_launch
from tgi_stack.engine.kv_cache import SlotCache
from tgi_stack.engine.label_scores import Reading
from tgi_stack.engine.layers import attention
from tgi_stack.engine.layers.cpu_ops import CpuOps
from tgi_stack.engine.layers.ops import HopperOps, Ops, TritonOps
from tgi_stack.engine.models import network
from tgi_stack.engine.models.decoder import Decoder
from tgi_stack.engine.models.network import Network
from tgi_stack.engine.models.sight import Sight
from tgi_stack.engine.models.vision import Tower
from tgi_stack.engine.placement import current, free_memory
from tgi_stack.engine.scorer import SIZES, Scorer, options_for
from tgi_stack.engine.switches import Switches
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.types import Caption, CaptionRequest, ScoreRequest

QWEN3_VL = "qwen3_vl"
# Summaries written at once: on a GPU as many as its memory takes, up to where more are no faster.
MOST_SLOTS = {"cuda": 256, "cpu": 8}
CACHE_SHARE = 0.6  # of the free memory
# Visual tokens of pictures that may come again: some hundred of 448 x 448.
SEEN_BYTES, SEEN_SHARE = 2**28, 0.05  # in the host's memory; of a GPU's
# Prompts gathered before they are packed.
GATHERED = {"cuda": 1024, "cpu": 32}
WAITS = "bitsandbytes' 8-bit products wait for the device"
UNPACKED = 8  # where transformers' own forward pads them
RECOMPILES = 64


class Runtime:
    """Answers by one network on one device.

    Attributes:
        model: as it was loaded: of our own, or as transformers loaded it.
        about: in a few words how it computes, for the line that says what was loaded.
        gathered: how many requests it likes to be given at once.
    """

    def __init__(
        self,
        model: Any,
        switches: Switches,
        *,
        tokenizer: Tokenizer | None = None,
        grid: Grid | None = None,
        kind: str = "text",
    ) -> None:
        self.model = model
        self.device: torch.device = model.device
        self._switches = switches
        self._tokenizer = tokenizer
        self._grid = grid
        self._generator: Generator | None = None
        self._sight: Sight | None = None
        self.network: Network | None = None
        self.about = ""
        reason = network.supports(model)
        if reason is None:
            self.network = self._network()
            self._sight = self._new_sight()
            options = options_for(self.network, switches.batch_size, switches.compiled, switches.flash)
            self.scorer = Scorer(self.network, options, self._sight)
            self.about += f"packed, attention by {self.scorer.attention}"
        else:
            self.about += f"padded, by transformers' own forward ({reason})"
        self.gathered = gathered(self.device, kind, switches)
        if reason is not None and switches.batch_size is None:
            self.gathered = min(self.gathered, UNPACKED)

    @property
    def writes(self) -> bool:
        """Whether summaries go through `generator`; another model's go through transformers' generate."""
        return self.network is not None and self.model.config.model_type in (QWEN3_VL, "qwen3")

    @property
    def packs_images(self) -> bool:
        """Whether prompts with images are packed, too; another model's are padded."""
        return self._sight is not None

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a summary."""
        return caption.end_ids(self.model)

    @property
    def lanes(self) -> int:
        """Batches of scores under way at once: on a GPU the next is laid out while one is computed."""
        return 2 if self.device.type == "cuda" and self.network is not None else 1

    def score(self, requests: Sequence[ScoreRequest]) -> list[Reading]:
        """One reading a request, in order."""
        return (
            score.readings(self.model, requests) if self.network is None else self.scorer.readings(requests)
        )

    def score_images(self, requests: Sequence[ScoreRequest]) -> list[Reading]:
        """One reading a request with images, in order."""
        if self._sight is None:
            return score_images.score_images(self.model, self._grid, requests)
        return self.scorer.readings(requests)

    def write(self, request: CaptionRequest) -> Future[Caption]:
        """The text that will follow a prompt; only where `writes`."""
        if self.network is None or self._tokenizer is None:
            raise ValueError("a runtime that writes has a network of its own and a tokenizer")
        if self._generator is None:
            self._generator = self._new_generator(self.network, self._tokenizer)
        return self._generator.submit(request)

    def close(self) -> None:
        """Ends the thread that writes."""
        if self._generator is not None:
            self._generator.close()

    def _try_kernels(self) -> None:
        """Kernels that this device can't compile, or computes wrongly, are not used."""
        config = getattr(self.model.config, "text_config", self.model.config)
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        shape = (heads, kv_heads, size)
        fault = kernel_check.trial(self.device, self.model.dtype, shape, config.hidden_size)
        if fault is not None:
            kernel_check.refuse()
            self.about += f"without Triton kernels ({fault}); "
        elif hopper_launch.usable(self.device, self.model.dtype):
            fp8 = self._switches.weights == "fp8"
            fault = kernel_check.trial_on_hopper(self.device, shape, config.hidden_size, fp8=fp8)
            if fault is not None:
                kernel_check.refuse_on_hopper()
                self.about += f"without the kernels for Hopper ({fault}); "

    def _network(self) -> Network:
        compiled = self._switches.compiled
        if self.device.type == "cuda" and triton_launch.AVAILABLE and self.model.dtype in attention.HALF:
            with current(self.device):
                self._try_kernels()
        ops = Ops() if compiled else ops_for(self.device)  # the compiler makes kernels of its own
        found = Network(self.model, ops, fp8=self._switches.weights == "fp8")
        if compiled:
            prepare_compiler()
            found.compile(SIZES)
        return found

    def _new_sight(self) -> Sight | None:
        if self._grid is None:
            return None
        config = self.model.config
        flash = "flash" if self._switches.flash else "auto"
        tower = Tower(self.model, self._grid, flash, ops_for(self.device))
        most = SEEN_BYTES
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            most = int((self._switches.allocated or total) * SEEN_SHARE)
        return Sight(tower, config.image_token_id, config.vision_config.patch_size, most)

    def _new_generator(self, network: Network, tokenizer: Tokenizer) -> Generator:
        waits = WAITS if getattr(self.model, "is_loaded_in_8bit", False) else ""
        decoders = _Decoders(network, self._sight, self._switches, waits)
        return Generator(decoders, tokenizer, self.ends, self.device, self._sight)


@dataclass(frozen=True)
class _Decoders:
    """Decoders of one network, in what memory is free; see `Decoder`."""

    network: Network
    sight: Sight | None
    switches: Switches
    uncaptured: str

    def most(self, rows: int) -> int:
        device = self.network.device
        most = self.switches.batch_size or MOST_SLOTS.get(device.type, MOST_SLOTS["cpu"])
        if device.type != "cuda":
            return most
        torch.cuda.empty_cache()
        free = free_memory(self.switches.allocated, device)
        return min(most, int(free * CACHE_SHARE) // (SlotCache.row_bytes(self.network) * rows))

    def make(self, slots: int, rows: int) -> Decoder:
        return Decoder(
            self.network,
            self.sight,
            slots,
            rows,
            sizes=SIZES if self.switches.compiled else (),
            flash="flash" if self.switches.flash else "auto",
            uncaptured=self.uncaptured,
        )


def ops_for(device: torch.device) -> Ops:
    """What computes norms, rotations and activations there: kernels where they run, else torch."""
    if device.type == "cpu":
        return CpuOps()
    if device.type != "cuda" or not triton_launch.AVAILABLE:
        return Ops()
    return HopperOps() if hopper_launch.usable(device, torch.bfloat16) else TritonOps()


def gathered(device: torch.device, kind: str, switches: Switches) -> int:
    """How many requests a runtime likes to be given at once; one that can't pack takes fewer."""
    most = MOST_SLOTS if kind == "vision" else GATHERED
    return switches.batch_size or most.get(device.type, most["cpu"])


def prepare_compiler() -> None:
    """Compiled code is kept between runs, and may be made for many sizes."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # By instruction set: torch would compile code that it kept for one with the flags of another, and fail.
    instructions = torch.backends.cpu.get_cpu_capability().lower()
    name, own = "TORCHINDUCTOR_CACHE_DIR", str(base / "fastqwen" / "inductor" / instructions)
    if os.environ.get(name, "").startswith(f"{tempfile.gettempdir()}/torchinductor_"):
        del os.environ[name]  # torch's own choice, which it leaves in the environment
    os.environ.setdefault(name, own)
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    limits: Any = torch._dynamo.config
    name = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit"
    setattr(limits, name, RECOMPILES)
