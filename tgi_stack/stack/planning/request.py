"""What is asked of the stack: the variables of `make up`, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tgi_stack.errors import UsageError
from tgi_stack.hub import DEFAULT_MODELS
from tgi_stack.stack.planning.engines import CHOICES, ENGINES

VISION_DEFAULTS = {"vllm": DEFAULT_MODELS["vision"], "tgi": "Qwen/Qwen2.5-VL-3B-Instruct"}
MOST_REPLICAS = 8
SHARDS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Request:
    """Each field is a variable of `make up` under the same name in capitals.

    Attributes:
        vision: the engine of the vision server.
        vision_image: a container image in place of the engine's own release.
        replicas: of each server, one GPU each (or `num_shard` of them).
        num_shard: GPUs that a server is spread over.
        max_total_tokens: of a prompt and its answer together.
        text_port, vision_port: of 127.0.0.1, where the front publishes the servers.
    """

    text_model: str = DEFAULT_MODELS["text"]
    text_quantization: str = "none"
    vision: str = "vllm"
    vision_model: str = ""
    vision_quantization: str = "none"
    vision_image: str = ""
    replicas: int = 1
    num_shard: int = 1
    max_total_tokens: int = 8192
    text_port: int = 8080
    vision_port: int = 8081

    def __post_init__(self) -> None:
        _one_of("VISION", self.vision, tuple(ENGINES))
        _one_of("TEXT_QUANTIZATION", self.text_quantization, CHOICES)
        _one_of("VISION_QUANTIZATION", self.vision_quantization, CHOICES)
        _between("REPLICAS", self.replicas, 1, MOST_REPLICAS)
        _one_of("NUM_SHARD", self.num_shard, SHARDS)
        _between("MAX_TOTAL_TOKENS", self.max_total_tokens, 1024, 40960)
        _between("TEXT_PORT", self.text_port, 1024, 65535)
        _between("VISION_PORT", self.vision_port, 1024, 65535)
        for name in (self.text_model, self.vision_model, self.vision_image):
            # They go into a file of variables and a command line.
            if name and not all(c.isalnum() or c in "/._-:@" for c in name):
                raise UsageError(f"{name[:80]!r} is no model id of the form OWNER/NAME and no image")

    @property
    def models(self) -> dict[str, str]:
        """The model of each kind of server."""
        return {"text": self.text_model, "vision": self.vision_model or VISION_DEFAULTS[self.vision]}

    @property
    def ports(self) -> dict[str, int]:
        """Where each kind of server is published."""
        return {"text": self.text_port, "vision": self.vision_port}

    def as_dict(self) -> dict[str, Any]:
        """For stack.json; two requests are the same where these are."""
        return asdict(self)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name}={value}: one of {', '.join(map(str, allowed))}")


def _between(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"{name}={value}: from {least} to {most}")
