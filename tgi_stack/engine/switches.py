"""The switches of the torch engine, and which of them this machine can't do: known before weights load."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from tgi_stack.engine.kernels import triton_launch
from tgi_stack.engine.placement import Placement
from tgi_stack.errors import MissingPackageError, SettingsError
from tgi_stack.settings import Settings
from tgi_stack.settings.written import memory_of

GIB = 2**30
CONTEXT = GIB // 2  # what a process of CUDA takes beside what torch allocates: kernels, libraries
FP8_FROM = (9, 0)  # scales by row: Hopper and later
PACKAGES = ("bitsandbytes", "accelerate")  # of the extra `quant`
COMPILERS = ("g++", "clang++", "c++")


@dataclass(frozen=True, slots=True)
class Switches:
    """How weights are loaded and computed with.

    Attributes:
        weights: `none`, `8bit`, `4bit` or `fp8`.
        batch_size: prompts, or slots for summaries; None for as many as suit the device.
        memory: bytes of the GPU that may be taken in all; None for what is free.
    """

    weights: str = "none"
    loader: str = "transformers"
    compiled: bool = False
    flash: bool = False
    batch_size: int | None = None
    memory: int | None = None

    @property
    def allocated(self) -> int | None:
        """What of `memory` torch may allocate."""
        return None if self.memory is None else self.memory - CONTEXT


def switches_of(settings: Settings, kind: str, placement: Placement) -> Switches:
    """The switches that the settings ask for.

    Raises:
        SettingsError: a switch, or two together, that can't be done on this device; the message says why.
        MissingPackageError: one that needs a package which is not installed.
    """
    switches = Switches(
        weights=settings.weights,
        loader=settings.loader,
        compiled=settings.use_torch_compile,
        flash=settings.use_flash_attention,
        batch_size=settings.batch_size_for(kind),
        memory=_memory(settings.gpu_memory, placement.device),
    )
    _check_weights(switches, placement)
    _check_loader(switches, placement)
    if switches.compiled:
        _check_compiler(switches, placement)
    if switches.flash and placement.device.type != "cpu":
        _check_flash(placement)
    return switches


def _memory(given: str | None, device: torch.device) -> int | None:
    if given is None:
        return None
    if device.type != "cuda":
        raise SettingsError(f"--gpu-memory {given} is of a CUDA GPU, not of {device.type}; leave it out")
    total = torch.cuda.get_device_properties(device).total_memory
    try:
        found = memory_of(given, total)
    except ValueError as error:
        raise SettingsError(f"--gpu-memory {given}: {error}; this one has {total / GIB:.0f} GiB") from error
    if found <= CONTEXT:
        raise SettingsError(f"--gpu-memory {given}: CUDA takes {CONTEXT / GIB} GiB before any weights")
    return found


def _check_weights(switches: Switches, placement: Placement) -> None:
    if switches.weights in ("8bit", "4bit"):
        for package in PACKAGES:
            if find_spec(package) is None:
                raise MissingPackageError(package, "quant")
        if placement.device.type == "mps":
            raise SettingsError(
                f"--quantization {switches.weights}: bitsandbytes knows no Apple GPU; use --device cpu"
            )
    if switches.weights == "fp8":
        if placement.device.type != "cuda":
            raise SettingsError(
                f"--quantization fp8 needs a GPU of compute capability 9.0 (H100, H200) or later, "
                f"not {placement.device.type}; leave it out, or use 4bit"
            )
        found = torch.cuda.get_device_capability(placement.device)
        if found < FP8_FROM:
            raise SettingsError(
                f"--quantization fp8 needs a GPU of compute capability 9.0 (H100, H200) or later; "
                f"this one has {found[0]}.{found[1]}; leave it out, or use 4bit"
            )
        if placement.dtype is not torch.bfloat16:
            raise SettingsError(
                f"--quantization fp8 goes with --dtype bf16, not {placement.dtype_name}; leave --dtype out"
            )


def _check_loader(switches: Switches, placement: Placement) -> None:
    if switches.loader != "unsloth":
        return
    if placement.device.type != "cuda":
        raise SettingsError(f"--loader unsloth needs a CUDA GPU, not {placement.device.type}; leave it out")
    if switches.weights == "fp8":
        raise SettingsError("--loader unsloth does not go with --quantization fp8; use 4bit, 8bit or none")
    if find_spec("unsloth") is None:
        raise MissingPackageError("unsloth", "unsloth")


def _check_compiler(switches: Switches, placement: Placement) -> None:
    if switches.weights in ("8bit", "4bit"):
        raise SettingsError(
            f"--use-torch-compile does not go with --quantization {switches.weights}: bitsandbytes "
            "multiplies in kernels of its own, which are not compiled; leave one of them out"
        )
    if placement.device.type == "mps":
        raise SettingsError("--use-torch-compile is not done on Apple GPUs; leave it out")
    if placement.device.type == "cuda" and not triton_launch.AVAILABLE:
        raise MissingPackageError("triton", "torch")
    if not any(map(shutil.which, COMPILERS)):
        raise SettingsError("--use-torch-compile needs a C++ compiler on PATH; install g++ or leave it out")


def _check_flash(placement: Placement) -> None:
    if placement.device.type == "mps":
        raise SettingsError("--use-flash-attention: there are no flash kernels for Apple GPUs; leave it out")
    if placement.dtype is torch.float32:
        raise SettingsError("--use-flash-attention: flash kernels compute in bf16 and fp16; use --dtype bf16")
    if torch.cuda.get_device_capability(placement.device) < (8, 0):
        raise SettingsError(
            "--use-flash-attention needs a GPU of compute capability 8.0 or later; leave it out"
        )
