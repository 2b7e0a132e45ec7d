"""Rotary settings of a config.json, in either spelling, and the frequencies that they stand for.

transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 `rope_parameters`. What depends on how
long a prompt is (`dynamic`, `longrope`) is not computed here: a prompt's numbers would change with its batch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never

import torch

from tgi_stack.errors import CheckpointError

_LINEAR = frozenset({"factor"})
_YARN = frozenset(
    {
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate",
    }
)  # fmt: skip
_LLAMA3 = frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"})
_WHOLE = frozenset({"original_max_position_embeddings"})
# The kinds that are computed, each with the settings that it knows.
KINDS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": _LINEAR,
    "yarn": _YARN,
    "llama3": _LLAMA3,
}
LARGEST_FLOAT = sys.float_info.max  # integers of a file may be beyond
SECTIONS = (24, 20, 20)  # of Qwen3-VL, where a configuration is silent


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions.

    Attributes:
        parameters: of the kind, by their names in a config.json.
        sections: how many frequencies follow time, row and column; none for a text model.
        longest: positions that the model was made for.
    """

    kind: str
    theta: float
    head_dim: int
    longest: int
    parameters: Mapping[str, Any]
    sections: tuple[int, int, int] | None = None

    def frequencies(self) -> tuple[torch.Tensor, float]:
        """Radians a position, fp32, shape [head_dim / 2], and what cosines and sines are multiplied by."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        plain = 1.0 / (self.theta**exponents)
        if self.kind == "linear":
            return plain / self.parameters["factor"], 1.0
        if self.kind == "llama3":
            return self._llama3(plain), 1.0
        if self.kind == "yarn":
            return self._yarn(plain)
        return plain, 1.0

    @property
    def _original(self) -> int:
        return int(self.parameters.get("original_max_position_embeddings") or self.longest)

    def _llama3(self, plain: torch.Tensor) -> torch.Tensor:
        """Long waves are stretched, short ones stay, and those between are blended (Llama 3.1)."""
        low, high = self.parameters["low_freq_factor"], self.parameters["high_freq_factor"]
        stretched = plain / self.parameters["factor"]
        turns = self._original / (2 * math.pi / plain)
        share = (turns - low) / (high - low)
        blended = (1 - share) * stretched + share * plain
        return torch.where(turns < low, stretched, torch.where(turns > high, plain, blended))

    def _yarn(self, plain: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Frequencies that turn often stay, those that turn seldom are stretched (Peng et al. 2023)."""
        settings = self.parameters
        factor = settings["factor"]
        bounds = [
            self._turning(settings.get("beta_fast") or 32),
            self._turning(settings.get("beta_slow") or 1),
        ]
        if settings.get("truncate", True):
            bounds = [math.floor(bounds[0]), math.ceil(bounds[1])]
        low, high = max(bounds[0], 0), min(bounds[1], self.head_dim - 1)
        high = high + 0.001 if low == high else high
        ramp = ((torch.arange(self.head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
        kept = 1 - ramp
        return plain / factor * (1 - kept) + plain * kept, self._yarn_scaling()

    def _turning(self, turns: float) -> float:
        """The dimension that turns so often over the original positions."""
        return self.head_dim * math.log(self._original / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

    def _yarn_scaling(self) -> float:
        settings = self.parameters
        given, factor = settings.get("attention_factor"), settings["factor"]
        if given is not None:
            return float(given)
        mscale, of_all = settings.get("mscale"), settings.get("mscale_all_dim")
        if mscale and of_all:
            return _mscale(factor, mscale) / _mscale(factor, of_all)
        return _mscale(factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


Places = Mapping[str, Mapping[str, Any]]


def rope_of(places: Places, *, head_dim: int, longest: int, vision: bool) -> Rope:
    """The rotary positions that a configuration describes.

    Args:
        places: see `settings_of`.
        vision: whether positions have three axes.

    Raises:
        CheckpointError: settings that contradict each other or are not known; a kind that is not computed.
    """
    at = next(iter(places))
    theta, settings = settings_of(places)
    if theta is None:
        _refuse(f"{at}rope_theta", theta, "the base of the rotary positions is given nowhere")
    kind = str(settings.pop("rope_type"))
    sections = _sections(settings, at, head_dim) if vision else None
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, value in settings.items():
        if name not in KINDS[kind]:
            _refuse(f"{at}rope settings: {name}", value, f"kind {kind!r} has no such setting")
        if name == "truncate":
            if not isinstance(value, bool):
                _refuse(f"{at}rope settings: {name}", value, "true or false is needed")
        elif not (_whole(value) if name in _WHOLE else _positive(value)):
            kind_of_number = "whole number" if name in _WHOLE else "number"
            _refuse(f"{at}rope settings: {name}", value, f"a {kind_of_number} over 0 is needed")
    needed = KINDS[kind] if kind == "llama3" else KINDS[kind] & {"factor"}
    for name in sorted(needed - set(settings)):
        _refuse(f"{at}rope settings: {name}", None, f"kind {kind!r} needs it")
    if kind == "llama3" and settings["high_freq_factor"] <= settings["low_freq_factor"]:
        _refuse(f"{at}rope settings: high_freq_factor", settings["high_freq_factor"], "it is not the higher")
    return Rope(kind, theta, head_dim, longest, settings, sections)


def settings_of(places: Places) -> tuple[float | None, dict[str, Any]]:
    """The base, and `rope_type` with all other settings, whichever way they are spelled.

    Args:
        places: the objects in which they may stand, by what comes before their fields' names in messages.

    Raises:
        CheckpointError: two spellings that differ; a kind that is not in `KINDS`.
    """
    bases: dict[str, Any] = {}
    partial: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for at, config in places.items():
        bases[f"{at}rope_theta"] = config.get("rope_theta")
        partial[f"{at}partial_rotary_factor"] = config.get("partial_rotary_factor")
        for name in (f"{at}rope_parameters", f"{at}rope_scaling"):
            settings = _settings(config.get(name.removeprefix(at)), name)
            bases[f"{name}.rope_theta"] = settings.pop("rope_theta", None)
            partial[f"{name}.partial_rotary_factor"] = settings.pop("partial_rotary_factor", None)
            if settings:
                found[name] = {"rope_type": _kind(settings, name), **settings}
    for name, value in partial.items():
        if value not in (None, 1, 1.0):
            _refuse(name, value, "only whole heads are turned here")
    theta = _agreed(bases)
    if theta is not None and (not _positive(theta) or theta <= 1):
        _refuse("rope_theta", theta, "a number over 1 is needed")
    settings = _agreed(found) or {"rope_type": "default"}
    return None if theta is None else float(theta), dict(settings)


def _settings(given: object, name: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        _refuse(name, given, "one set of settings for all layers is needed")
    return {key: value for key, value in given.items() if value is not None}  # null is nothing said


def _kind(settings: dict[str, Any], name: str) -> str:
    """The kind of rotary positions, taken out of its settings."""
    given = {key: settings.pop(key) for key in ("rope_type", "type") if settings.get(key) is not None}
    # Qwen's first vision models called theirs `mrope`: the default with three axes.
    kinds = {"default" if kind == "mrope" else kind for kind in given.values() if isinstance(kind, str)}
    if len(kinds) > 1 or any(not isinstance(kind, str) for kind in given.values()):
        _refuse(name, given, "its `rope_type` and `type` are no one kind")
    kind = kinds.pop() if kinds else "default"
    if kind not in KINDS:
        _refuse(f"{name}.rope_type", kind, f"not implemented; kinds are {', '.join(KINDS)}")
    return kind


def _agreed(values: Mapping[str, Any]) -> Any:
    """The one value that is given, however often."""
    given = {name: value for name, value in values.items() if value is not None}
    for name, value in given.items():
        first = next(iter(given))
        if name != first and value != given[first]:
            _refuse(name, value, f"{first} is {given[first]!r}")
    return next(iter(given.values()), None)


def _sections(settings: dict[str, Any], at: str, head_dim: int) -> tuple[int, int, int]:
    if (interleaved := settings.pop("mrope_interleaved", True)) is not True:
        _refuse(f"{at}rope settings: mrope_interleaved", interleaved, "only true is computed here")
    given = settings.pop("mrope_section", None)
    sections = list(SECTIONS) if given is None else given
    if not isinstance(sections, list) or len(sections) != 3 or not all(map(_whole, sections)):
        _refuse(f"{at}rope settings: mrope_section", given, "three whole numbers are needed")
    time, row, column = sections
    half = head_dim // 2
    if time + row + column != half or 3 * row - 2 >= half or 3 * column - 1 >= half:
        _refuse(f"{at}rope settings: mrope_section", given, f"it does not fit heads of {head_dim}")
    return time, row, column


def _whole(value: object) -> bool:
    return type(value) is int and 0 < value <= LARGEST_FLOAT


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST_FLOAT


def _refuse(name: str, value: object, why: str) -> Never:
    raise CheckpointError(f"config.json: {name} is {value!r}: {why}")
