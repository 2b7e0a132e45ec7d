"""Which model is asked, and how its servers are reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from tgi_stack.declared.option import SERVERS, Option, free

DEFAULT_ENDPOINTS = {"text": "http://127.0.0.1:8080", "vision": "http://127.0.0.1:8081"}
DEFAULT_MODELS = {"text": "Qwen/Qwen3-0.6B", "vision": "Qwen/Qwen3-VL-2B-Instruct"}

JOBS = ("summarize", "rerank", "probs")
SCORING = ("rerank", "probs")
CHOOSING = (*JOBS, "bench", "cache verify", "doctor")  # who is asked; `compare` names that by --against
COMPUTING = (*JOBS, "bench", "cache verify", "compare")
ASKING = (*COMPUTING, "doctor")


class ServerFields:
    """The part of `Settings` that concerns them."""

    engine: Annotated[
        Literal["auto", "tgi", "vllm", "sglang", "torch", "scripted"],
        free(
            "Who computes. auto: asks the endpoints what they are; where none was named and none answers, "
            "torch computes here if the weights are on this machine.",
            SERVERS,
            CHOOSING,
            metavar="auto|tgi|vllm|sglang|torch",
        ),
    ] = "auto"
    endpoint: Annotated[
        tuple[str, ...],
        free(
            "A server to use; may be given several times, for servers of the same model.",
            SERVERS,
            CHOOSING,
            metavar="URL",
            unset="where `make up` puts them",
        ),
    ] = ()
    text_endpoints: Annotated[
        tuple[str, ...],
        free(
            "Servers for text, where no --endpoint is given.",
            SERVERS,
            metavar="URL,...",
            unset=DEFAULT_ENDPOINTS["text"],
        ),
    ] = ()
    vision_endpoints: Annotated[
        tuple[str, ...],
        free(
            "Servers for images, where no --endpoint is given.",
            SERVERS,
            metavar="URL,...",
            unset=DEFAULT_ENDPOINTS["vision"],
        ),
    ] = ()
    model: Annotated[
        str | None,
        Option(
            "The model; `tiny` ships with fastqwen.",
            SERVERS,
            ASKING,
            metavar="ID|PATH|tiny",
            unset="the server's own; for torch {text}, with images {vision}".format(**DEFAULT_MODELS),
        ),
    ] = None
    text_model: Annotated[
        str | None,
        Option(
            "The model for text, where no --model is given.",
            SERVERS,
            metavar="ID|PATH|tiny",
            unset="as --model",
        ),
    ] = None
    vision_model: Annotated[
        str | None,
        Option(
            "The model for images, where no --model is given.",
            SERVERS,
            metavar="ID|PATH|tiny",
            unset="as --model",
        ),
    ] = None
    revision: Annotated[
        str | None,
        Option(
            "The model's revision on the hub.",
            SERVERS,
            COMPUTING,
            metavar="NAME",
            unset="the server's, else main",
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        Option("Whose tokenizer cuts texts.", SERVERS, ASKING, metavar="ID|PATH", unset="the model's own"),
    ] = None
    fallback: Annotated[
        Literal["torch", "bounds", "fail"] | None,
        Option(
            "What happens to a row that a server can't answer exactly.",
            SERVERS,
            SCORING,
            unset="torch if its weights are on this machine, else bounds",
        ),
    ] = None
    label_mass: Annotated[
        bool, Option("With TGI: a second read that tells the labels' mass.", SERVERS, SCORING)
    ] = False
    api_key_file: Annotated[
        Path | None,
        free(
            "Holds the key that servers want.",
            SERVERS,
            ASKING,
            metavar="FILE",
            unset="the key in FASTQWEN_API_KEY, if any",
        ),
    ] = None
    api_key_header: Annotated[
        str,
        free(
            "The header that bears the key; as a bearer token in Authorization, as it is in another.",
            SERVERS,
            ASKING,
            metavar="NAME",
        ),
    ] = "Authorization"
    ca_file: Annotated[
        Path | None,
        free("Certificates to trust, as PEM.", SERVERS, ASKING, metavar="FILE", unset="the system's"),
    ] = None
    client_cert: Annotated[
        Path | None,
        free(
            "Our own certificate, as PEM, for servers that ask for one.",
            SERVERS,
            ASKING,
            metavar="FILE",
            unset="none",
        ),
    ] = None
    client_key: Annotated[
        Path | None,
        free(
            "Its key, as PEM, without a passphrase.",
            SERVERS,
            ASKING,
            metavar="FILE",
            unset="in --client-cert",
        ),
    ] = None
    proxy: Annotated[
        str | None,
        free(
            "The proxy to servers that are not on loopback: its URL, or env for HTTPS_PROXY, HTTP_PROXY and "
            "NO_PROXY.",
            SERVERS,
            ASKING,
            metavar="env|URL",
            unset="none, whatever the environment says",
        ),
    ] = None
    startup_timeout: Annotated[
        float,
        Interval(ge=0.0, le=86400.0),
        free("How long servers may take to come up.", SERVERS, (*JOBS, "bench", "compare"), unit="seconds"),
    ] = 600.0

    def model_for(self, kind: str) -> str | None:
        """The model named for a job of `kind` `text` or `vision`, or None for the default."""
        return self.model or (self.vision_model if kind == "vision" else self.text_model)

    @property
    def names_endpoints(self) -> bool:
        """Whether the user named any endpoint."""
        return bool(self.endpoint or self.text_endpoints or self.vision_endpoints)

    def endpoints_for(self, kind: str) -> tuple[str, ...]:
        """The servers for a job of `kind`; without any, where `make up` puts them."""
        named = self.endpoint or (self.vision_endpoints if kind == "vision" else self.text_endpoints)
        return named or (DEFAULT_ENDPOINTS[kind],)
