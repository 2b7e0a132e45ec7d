"""Which device, which numbers: what `--device` and `--dtype` come to on this machine."""

from __future__ import annotations

import re
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
        raise SettingsError(f"--device {device}: give auto, cpu, mps, cuda or cuda:N")
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"--device {device}: not available here ({reason}); use --device cpu") from error
    if dtype == "auto":
        return Placement(chosen, torch.float32 if chosen.type == "cpu" else torch.bfloat16)
    return Placement(chosen, DTYPES[dtype])


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"
