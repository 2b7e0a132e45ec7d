"""What is asked of the stack: the variables of `make up`, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tgi_stack.declared.option import SERVERS, Option, declared
from tgi_stack.declared.servers import DEFAULT_MODELS
from tgi_stack.errors import UsageError
from tgi_stack.stack.planning.adopted import parsed
from tgi_stack.stack.planning.engines import CHOICES, ENGINES
from tgi_stack.stack.planning.ports import refuse_equal_ports

VISION_DEFAULTS = {
    "vllm": DEFAULT_MODELS["vision"],
    "sglang": DEFAULT_MODELS["vision"],
    "tgi": "Qwen/Qwen2.5-VL-3B-Instruct",
}
MOST_REPLICAS = 8
OF_ADOPTION = ("adopt_key_file", "adopt_ca_file")
SHARDS = (1, 2, 4, 8)


_stack = partial(Option, group=SERVERS)


@dataclass(frozen=True, slots=True)
class Request:
    """Each field is a variable of `make up` under the same name in capitals, and an option of `stack`."""

    text: Annotated[
        str,
        _stack(
            "Who serves text; vLLM and SGLang read any labels exactly, with their mass.",
            choices=tuple(ENGINES),
        ),
    ] = "tgi"
    text_model: Annotated[str, _stack("What the text server holds.", metavar="ID")] = DEFAULT_MODELS["text"]
    text_quantization: Annotated[
        str, _stack("How it keeps weights; TGI can none and 8bit, the others none and fp8.", choices=CHOICES)
    ] = "none"
    vision: Annotated[
        str,
        _stack("Who serves images; TGI can't load Qwen3-VL, but Qwen2.5-VL.", choices=tuple(ENGINES)),
    ] = "vllm"
    vision_model: Annotated[
        str,
        _stack(
            "What the vision server holds.",
            metavar="ID",
            unset="{vllm} on vllm and sglang, {tgi} on tgi".format(**VISION_DEFAULTS),
        ),
    ] = ""
    vision_quantization: Annotated[
        str, _stack("How it keeps weights; vLLM and SGLang can none and fp8.", choices=CHOICES)
    ] = "none"
    vision_image: Annotated[
        str,
        _stack(
            "The container image of the vision server.", metavar="IMAGE", unset="the engine's own release"
        ),
    ] = ""
    adopt: Annotated[
        str,
        _stack(
            "Servers that run already: put behind the front in place of ours, and never stopped.",
            metavar="URL,...",
            unset="none",
        ),
    ] = ""
    adopt_key_file: Annotated[
        str,
        _stack(
            "Holds the key that servers of ADOPT want; their relay gives it, nobody else sees it.",
            metavar="FILE",
            unset="FASTQWEN_ADOPT_KEY, else none",
        ),
    ] = ""
    adopt_ca_file: Annotated[
        str,
        _stack(
            "Certificates to trust where servers of ADOPT speak TLS.",
            metavar="FILE",
            unset="the system's",
        ),
    ] = ""
    repeatable: Annotated[
        str,
        _stack(
            "Whether SGLang's numbers are the same whatever else it computes, for some speed.",
            choices=("off", "on"),
        ),
    ] = "off"
    replicas: Annotated[
        int, _stack("Of each server, on GPUs of their own.", metavar="N", least=1, most=MOST_REPLICAS)
    ] = 1
    num_shard: Annotated[int, _stack("GPUs that a server is spread over.", choices=SHARDS)] = 1
    max_total_tokens: Annotated[
        int, _stack("Of a prompt and its answer together.", unit="tokens", least=1024, most=40960)
    ] = 8192
    text_port: Annotated[
        int,
        _stack("Where the text server is published, of 127.0.0.1.", metavar="PORT", least=1024, most=65535),
    ] = 8080
    vision_port: Annotated[
        int, _stack("Where the vision server is, of 127.0.0.1.", metavar="PORT", least=1024, most=65535)
    ] = 8081

    def __post_init__(self) -> None:
        for name, one in declared(Request).items():
            one.check(name.upper(), getattr(self, name))
        refuse_equal_ports({f"{kind.upper()}_PORT": port for kind, port in self.ports.items()})
        if not parsed(self.adopt) and any(getattr(self, name) for name in OF_ADOPTION):
            raise UsageError(
                "ADOPT_KEY_FILE and ADOPT_CA_FILE are for the servers of ADOPT=URL; give that too"
            )
        if self.repeatable == "on" and "sglang" not in (self.text, self.vision):
            asked = f"TEXT={self.text} and VISION={self.vision}"
            raise UsageError(f"REPEATABLE=on is SGLang's, and {asked}; TEXT=sglang or VISION=sglang")
        for name in (self.text_model, self.vision_model, self.vision_image):
            # They go into a file of variables and a command line.
            if name and not all(c.isalnum() or c in "/._-:@" for c in name):
                raise UsageError(f"{name[:80]!r} is no model id of the form OWNER/NAME and no image")

    @property
    def models(self) -> dict[str, str]:
        """The model of each kind of server."""
        return {"text": self.text_model, "vision": self.vision_model or VISION_DEFAULTS[self.vision]}

    @property
    def own_models(self) -> dict[str, str]:
        """Of the servers that are ours to start."""
        return {kind: name for kind, name in self.models.items() if kind not in self.adopted}

    @property
    def adopted(self) -> frozenset[str]:
        """The kinds of the servers that run already, once they are recognised."""
        return frozenset(parsed(self.adopt).values())

    def beside(self, runs: dict[str, Any]) -> Request:
        """This one where servers run already: those that were adopted stay so unless others are named."""
        there = parsed(runs.get("adopt", ""))
        if not there or (self.adopt and parsed(self.adopt).keys() != there.keys()):
            return self
        first = Request()
        as_before = {
            name: runs[name]
            for name in (*(f"{kind}_model" for kind in there.values()), *OF_ADOPTION)
            if name in runs and getattr(self, name) == getattr(first, name)
        }
        return replace(self, adopt=runs["adopt"], **as_before)

    def with_files_that_are_there(self) -> Request:
        """This one where servers run: what was read of files that are gone by now was kept."""
        gone = {name: "" for name in OF_ADOPTION if not Path(getattr(self, name)).is_file()}
        return replace(self, **gone)  # type: ignore[arg-type]

    @property
    def ports(self) -> dict[str, int]:
        """Where each kind of server is published."""
        return {"text": self.text_port, "vision": self.vision_port}

    def as_dict(self) -> dict[str, Any]:
        """For stack.json; two requests are the same where these are."""
        return asdict(self)
