"""The options that several commands share: how they are spelled and what `--help` says of them.

Their types and bounds are those of `settings.Settings`, which checks them. Options that always come together
are a group: a dataclass that a command takes as one parameter (`grouped` lets typer see its fields).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Input = Annotated[str, typer.Argument(metavar="INPUT", show_default=False)]
Out = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="OUT", help="Where records go; stdout without it.")
]
Model = Annotated[str | None, typer.Option(metavar="ID|PATH|tiny", help="`tiny` ships with fastqwen.")]
TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", metavar="ID|PATH", help="In place of the model's own.")
]
PromptFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A prompt in place of the built-in one.")
]
MaxSide = Annotated[int | None, typer.Option(metavar="PIXELS", help="The longer side an image is sent with.")]
LlmBatchSize = Annotated[
    str | None,
    typer.Option(
        "--llm-batch-size", "--llm_batch_size", metavar="N|auto", help="Prompts in a batch; auto: as fit."
    ),
]
CacheDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where answers are remembered; else the user's cache.")
]
Gateway = Annotated[bool, typer.Option("--gateway", help="TLS and keys, for other machines.")]
Observe = Annotated[bool, typer.Option("--observe", help="Prometheus and Grafana.")]
DockerDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Where compose.yml is; else ./docker.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="For each server to come up.")]


class Group:
    """Options that come together; each field is declared as a command's parameter would be."""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command whose parameters may be groups the signature that typer reads: an option a field."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, Group)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _options_of(groups[name])
        else:
            parameters.append(_option(name, parameter.default, hints[name]))

    @wraps(command)
    def called(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        _option(
            field.name,
            inspect.Parameter.empty if field.default is MISSING else field.default,
            hints[field.name],
        )
        for field in fields(group)
    ]


def _option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


@dataclass(frozen=True)
class Common(Group):
    """What every command takes."""

    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings; else ./fastqwen.toml.")
    ] = None
    json: Annotated[
        bool, typer.Option("--json", help="The results as JSON on stdout; a job needs -o for that.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the closing lines and errors.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Tracebacks; what the client does.")] = False
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Lines on stderr as JSON: time, level, logger, message.")
    ] = False
    progress: Annotated[
        str | None, typer.Option(metavar="plain|rich|none", help="How a job shows how far it is.")
    ] = None


@dataclass(frozen=True)
class Servers(Group):
    """Which servers answer."""

    engine: Annotated[str | None, typer.Option(metavar="auto|tgi|vllm|torch", help="Who computes.")] = None
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", metavar="URL", help="A server to use; several hold the same model."),
    ] = None
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The servers' key; or FASTQWEN_API_KEY.")
    ] = None
    ca_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificates to trust.")] = None


@dataclass(frozen=True)
class AwaitedServers(Servers):
    """Servers that may still come up."""

    startup_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long servers may take to come up.")
    ] = None


@dataclass(frozen=True)
class Computing(Group):
    """Which model, and where torch computes."""

    model: Model = None
    revision: Annotated[str | None, typer.Option(help="The model's revision on the hub.")] = None
    tokenizer: TokenizerOption = None
    device: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|mps|cuda[:N,M]|all", help="Where torch computes; a process for each GPU."
        ),
    ] = None
    dtype: Annotated[
        str | None, typer.Option(metavar="auto|fp32|bf16|fp16", help="auto: bf16 on a GPU, fp32 on a CPU.")
    ] = None


@dataclass(frozen=True)
class Switches(Group):
    """How the torch engine keeps its weights and runs them."""

    quantization: Annotated[
        str | None, typer.Option(metavar="none|8bit|4bit|fp8", help="How the torch engine keeps weights.")
    ] = None
    loader: Annotated[str | None, typer.Option(metavar="transformers|unsloth", help="Who loads weights.")] = (
        None
    )
    use_quantization: Annotated[
        bool | None, typer.Option("--use-quantization", "--use_quantization", help="--quantization 4bit.")
    ] = None
    use_torch_compile: Annotated[
        bool | None, typer.Option("--use-torch-compile", "--use_torch_compile", help="Compile layers.")
    ] = None
    use_flash_attention: Annotated[
        bool | None,
        typer.Option("--use-flash-attention", "--use_flash_attention", help="Flash kernels and no others."),
    ] = None


@dataclass(frozen=True)
class Reads(Group):
    """What to do where a server does not give all that was asked of it."""

    fallback: Annotated[
        str | None,
        typer.Option(metavar="torch|bounds|fail", help="Where a server can't give an exact answer."),
    ] = None
    label_mass: Annotated[
        bool | None,
        typer.Option("--label-mass", help="With TGI: a second read that tells the labels' mass."),
    ] = None


@dataclass(frozen=True)
class Remembering(Group):
    """What is remembered, and whether anything else may be asked."""

    cache_dir: CacheDir = None
    no_cache: Annotated[
        bool | None, typer.Option("--no-cache", help="Compute every answer anew, and store none.")
    ] = None
    cache_size: Annotated[
        str | None, typer.Option(metavar="20GB", help="What the cache may take on disk; without it, any.")
    ] = None
    offline: Annotated[
        bool | None, typer.Option("--offline", help="From the cache alone: no network, nothing computed.")
    ] = None
    dry_run: Annotated[
        bool | None,
        typer.Option("--dry-run", help="What would be asked, and what is remembered; sends nothing."),
    ] = None


@dataclass(frozen=True)
class Rows(Group):
    """Which rows are worked on, and how their records are written."""

    columns: Annotated[
        str | None,
        typer.Option("--map", metavar="id=asin,title=name", help="Our names of fields for the file's own."),
    ] = None
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N rows.")] = None
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="Rows worked on at once.")] = None
    unordered: Annotated[
        bool | None, typer.Option("--unordered", help="Records as they finish, not in input order.")
    ] = None
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Write an OUT that is there already anew.")
    ] = None
    skip_bad_rows: Annotated[
        bool | None, typer.Option("--skip-bad-rows", help="Record malformed rows as failed.")
    ] = None


@dataclass(frozen=True)
class StackVariables(Group):
    """What the servers of this host hold, and where they listen."""

    text_model: Annotated[str | None, typer.Option(metavar="ID", help="What the text server holds.")] = None
    text_quantization: Annotated[str | None, typer.Option(metavar="none|8bit")] = None
    vision: Annotated[str | None, typer.Option("--vision", metavar="vllm|tgi")] = None
    vision_model: Annotated[str | None, typer.Option(metavar="ID", help="What the vision server holds.")] = (
        None
    )
    vision_quantization: Annotated[str | None, typer.Option(metavar="none|fp8")] = None
    vision_image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="In place of the engine's own image.")
    ] = None
    replicas: Annotated[
        int | None, typer.Option(metavar="N", help="Of each server, on GPUs of their own.")
    ] = None
    num_shard: Annotated[int | None, typer.Option(metavar="N", help="GPUs that a server is spread over.")] = (
        None
    )
    max_total_tokens: Annotated[int | None, typer.Option(metavar="N", help="Of a prompt and its answer.")] = (
        None
    )
    text_port: Annotated[int | None, typer.Option(metavar="PORT")] = None
    vision_port: Annotated[int | None, typer.Option(metavar="PORT")] = None
