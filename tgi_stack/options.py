"""The options that several commands share: how they are spelled and what `--help` says of them.

Their types and bounds are those of `settings.Settings`, which checks them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Input = Annotated[str, typer.Argument(metavar="INPUT", show_default=False)]
Out = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="OUT", help="Where records go; stdout without it.")
]
Engine = Annotated[str | None, typer.Option(metavar="auto|tgi|vllm|torch", help="Who computes.")]
Endpoints = Annotated[
    list[str] | None,
    typer.Option("--endpoint", metavar="URL", help="A server to use; several hold the same model."),
]
ApiKeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The servers' key; or FASTQWEN_API_KEY.")
]
CaFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Certificates to trust.")]
StartupTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="How long servers may take to come up.")
]
Model = Annotated[str | None, typer.Option(metavar="ID|PATH|tiny", help="`tiny` ships with fastqwen.")]
Revision = Annotated[str | None, typer.Option(help="The model's revision on the hub.")]
TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", metavar="ID|PATH", help="In place of the model's own.")
]
Device = Annotated[
    str | None,
    typer.Option(metavar="auto|cpu|mps|cuda[:N,M]|all", help="Where torch computes; a process for each GPU."),
]
Dtype = Annotated[
    str | None, typer.Option(metavar="auto|fp32|bf16|fp16", help="auto: bf16 on a GPU, fp32 on a CPU.")
]
PromptFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A prompt in place of the built-in one.")
]
Columns = Annotated[
    str | None,
    typer.Option("--map", metavar="id=asin,title=name", help="Our names of fields for the file's own."),
]
CacheDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where answers are remembered; else the user's cache.")
]
NoCache = Annotated[bool | None, typer.Option("--no-cache", help="Remember nothing, and nothing remembered.")]
CacheSize = Annotated[
    str | None, typer.Option(metavar="20GB", help="What the cache may take on disk; without it, any.")
]
Offline = Annotated[
    bool | None, typer.Option("--offline", help="From the cache alone: no network, nothing computed.")
]
DryRun = Annotated[
    bool | None, typer.Option("--dry-run", help="What would be asked, and what is remembered; sends nothing.")
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Only the first N rows.")]
Overwrite = Annotated[
    bool | None, typer.Option("--overwrite", help="Write an OUT that is there already anew.")
]
Unordered = Annotated[
    bool | None, typer.Option("--unordered", help="Records as they finish, not in input order.")
]
SkipBadRows = Annotated[bool | None, typer.Option("--skip-bad-rows", help="Record malformed rows as failed.")]
Concurrency = Annotated[int | None, typer.Option(metavar="N", help="Rows worked on at once.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings; else ./fastqwen.toml.")
]
Json = Annotated[bool, typer.Option("--json", help="A machine-readable closing summary on stdout; needs -o.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only the closing line and errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks of errors; what the client does.")]
MaxSide = Annotated[int | None, typer.Option(metavar="PIXELS", help="The longer side an image is sent with.")]
Fallback = Annotated[
    str | None,
    typer.Option(metavar="torch|bounds|fail", help="Where a server can't give an exact answer."),
]
LabelMass = Annotated[
    bool | None,
    typer.Option("--label-mass", help="With TGI: a second read that tells the labels' mass."),
]
LlmBatchSize = Annotated[
    str | None,
    typer.Option(
        "--llm-batch-size", "--llm_batch_size", metavar="N|auto", help="Prompts in a batch; auto: as fit."
    ),
]
SummaryBatchSize = Annotated[
    str | None,
    typer.Option(
        "--semantic-summary-batch-size",
        "--semantic_summary_batch_size",
        metavar="N|auto",
        help="Summaries written at once; auto: as fit.",
    ),
]
Quantization = Annotated[
    str | None, typer.Option(metavar="none|8bit|4bit|fp8", help="How the torch engine keeps weights.")
]
Loader = Annotated[str | None, typer.Option(metavar="transformers|unsloth", help="Who loads weights.")]
UseQuantization = Annotated[
    bool | None, typer.Option("--use-quantization", "--use_quantization", help="--quantization 4bit.")
]
UseTorchCompile = Annotated[
    bool | None, typer.Option("--use-torch-compile", "--use_torch_compile", help="Compile layers.")
]
UseFlashAttention = Annotated[
    bool | None,
    typer.Option("--use-flash-attention", "--use_flash_attention", help="Flash kernels and no others."),
]

DockerDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Where compose.yml is; else ./docker.")]
TextModel = Annotated[str | None, typer.Option(metavar="ID", help="What the text server holds.")]
VisionModel = Annotated[str | None, typer.Option(metavar="ID", help="What the vision server holds.")]
TextQuantization = Annotated[str | None, typer.Option(metavar="none|8bit")]
VisionEngine = Annotated[str | None, typer.Option("--vision", metavar="vllm|tgi")]
VisionQuantization = Annotated[str | None, typer.Option(metavar="none|fp8")]
VisionImage = Annotated[str | None, typer.Option(metavar="IMAGE", help="In place of the engine's own image.")]
Replicas = Annotated[int | None, typer.Option(metavar="N", help="Of each server, on GPUs of their own.")]
NumShard = Annotated[int | None, typer.Option(metavar="N", help="GPUs that a server is spread over.")]
MaxTotalTokens = Annotated[int | None, typer.Option(metavar="N", help="Of a prompt and its answer.")]
TextPort = Annotated[int | None, typer.Option(metavar="PORT")]
VisionPort = Annotated[int | None, typer.Option(metavar="PORT")]
Gateway = Annotated[bool, typer.Option("--gateway", help="TLS and keys, for other machines.")]
Observe = Annotated[bool, typer.Option("--observe", help="Prometheus and Grafana.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0.0, help="For each server to come up.")]
