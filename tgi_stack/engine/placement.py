"""Which device, which numbers: what `--device` and `--dtype` come to on this machine."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from tgi_stack.errors import SettingsError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and the dtype of weights and activations there."""

    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return next(name for name, dtype in DTYPES.items() if dtype is self.dtype)


def choose(device: str, dtype: str) -> Placement:
    """The placement asked for; `auto` is the first GPU there is, then Apple's, then the CPU.

    Raises:
        SettingsError: a device that this machine does not have.
    """
    name = _best() if device == "auto" else device
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise SettingsError(f"--device {device}: give auto, cpu, mps, cuda, cuda:N, cuda:N,M or all")
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise SettingsError(f"--device {device}: not available here ({reason}); use --device cpu") from error
    if dtype == "auto":
        return Placement(chosen, torch.float32 if chosen.type == "cpu" else torch.bfloat16)
    return Placement(chosen, DTYPES[dtype])


def devices(device: str) -> list[str]:
    """The devices that `--device` names, one for each worker: `cuda:0,1` are two, `all` are all GPUs.

    `cpu:N` is that many workers on the CPU.

    Raises:
        SettingsError: `all` where there is no GPU, or a GPU that is named twice.
    """
    if device == "all":
        count = torch.cuda.device_count()
        if not count:
            raise SettingsError("--device all: there is no GPU here; use --device cpu")
        return [f"cuda:{index}" for index in range(count)]
    if match := re.fullmatch(r"cuda:(\d+(?:,\d+)+)", device):
        numbers = match[1].split(",")
        if len(set(numbers)) < len(numbers):
            raise SettingsError(f"--device {device} names a GPU twice")
        return [f"cuda:{number}" for number in numbers]
    if match := re.fullmatch(r"cpu:([1-9]\d?)", device):
        return ["cpu"] * int(match[1])
    return [device]


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the one that this thread's kernels start on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def hold_to(memory: int | None, device: torch.device) -> None:
    """Has torch allocate no more on a GPU than `memory` bytes; None for no bound."""
    if memory is not None and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory / total), device)


def free_memory(memory: int | None, device: torch.device) -> int:
    """Bytes that may still be allocated on a GPU, of the `memory` that `hold_to` leaves."""
    free, _ = torch.cuda.mem_get_info(device)
    return free if memory is None else max(0, min(free, memory - torch.cuda.memory_reserved(device)))


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"
