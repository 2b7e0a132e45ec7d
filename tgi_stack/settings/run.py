"""The settings of a run: each with its type, bounds and default, and what is said of it, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from tgi_stack.settings.declaration import CACHE, FILES, PROMPT, RUN, TORCH, Option, declared, free
from tgi_stack.settings.servers import COMPUTING, JOBS, SCORING, ServerSettings
from tgi_stack.settings.written import bytes_of, split

ItemField = Literal["title", "summary", "text"]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
MOST = 2**63 - 1  # of counts that have no bound of their own
CHECKPOINTS = ("--model", "--text-model", "--vision-model", "--tokenizer")  # a folder, a file or an id

Count = Annotated[int, Field(ge=1, le=MOST)]


class Settings(ServerSettings):
    """Every field is an option, a variable `FASTQWEN_NAME` and a key of `fastqwen.toml`."""

    _file: Path | None = PrivateAttr(None)  # that settings were read from

    # -- torch -------------------------------------------------------------------------------------------

    device: Annotated[
        str,
        free(
            "Where torch computes, in a process for each GPU. auto: the first GPU, else the CPU.",
            TORCH,
            COMPUTING,
            metavar="auto|cpu|mps|cuda[:N,M]|all",
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Option("The type of weights and sums. auto: bf16 on a GPU, fp32 on a CPU.", TORCH, COMPUTING),
    ] = "auto"
    quantization: Annotated[
        Literal["none", "8bit", "4bit", "fp8"] | None,
        Option("How weights are kept.", TORCH, JOBS, unset="none"),
    ] = None
    loader: Annotated[Literal["transformers", "unsloth"], Option("Who loads weights.", TORCH, JOBS)] = (
        "transformers"
    )
    use_quantization: Annotated[
        bool, Option("The same as --quantization 4bit.", TORCH, JOBS, also=("--use_quantization",))
    ] = False
    use_torch_compile: Annotated[
        bool, free("Compile layers.", TORCH, JOBS, also=("--use_torch_compile",))
    ] = False
    use_flash_attention: Annotated[
        bool, free("Flash kernels and no others.", TORCH, JOBS, also=("--use_flash_attention",))
    ] = False
    semantic_summary_batch_size: Annotated[
        BatchSize | Literal["auto"],
        free(
            "Summaries written at once. auto: as many as fit.",
            TORCH,
            ("summarize",),
            metavar="N|auto",
            also=("--semantic_summary_batch_size",),
        ),
    ] = "auto"
    llm_batch_size: Annotated[
        BatchSize | Literal["auto"],
        free(
            "Prompts in a batch; with vLLM, in a request. auto: as many as fit.",
            TORCH,
            SCORING,
            metavar="N|auto",
            also=("--llm_batch_size",),
        ),
    ] = "auto"

    # -- prompt ------------------------------------------------------------------------------------------

    prompt_file: Annotated[
        Path | None,
        Option(
            "The prompt, with placeholders such as {{title}}.",
            PROMPT,
            ("summarize", "rerank"),
            metavar="FILE",
            unset="the built-in prompt",
        ),
    ] = None
    instruction: Annotated[
        str | None,
        Option(
            "What the built-in prompt asks for.",
            PROMPT,
            ("summarize", "rerank"),
            unset="the built-in instruction",
        ),
    ] = None
    max_new_tokens: Annotated[
        int,
        Field(ge=1, le=32768),
        Option("How long a summary may be.", PROMPT, ("summarize",), unit="tokens"),
    ] = 128
    max_side: Annotated[
        int,
        Field(ge=1, le=16384),
        Option("The longer side that an image is sent with.", PROMPT, ("summarize", "rerank"), unit="pixels"),
    ] = 448
    temperature: Annotated[
        float,
        Field(ge=0.0, le=10.0, allow_inf_nan=False),
        Option("How freely summaries are sampled; 0 is greedy.", PROMPT, ("summarize",), metavar="T"),
    ] = 0.0
    seed: Annotated[
        int | None,
        Field(ge=0, lt=2**53),
        Option(
            "What sampling begins at.", PROMPT, ("summarize",), metavar="N", unset="another one each time"
        ),
    ] = None
    allow_text_only: Annotated[bool, Option("Rows without an image, too.", PROMPT, ("summarize",))] = False
    allow_truncated: Annotated[
        bool, Option("JPEGs that end early, too; they are flagged.", PROMPT, ("summarize",))
    ] = False
    item_fields: Annotated[
        tuple[ItemField, ...],
        Field(min_length=1),
        Option("What stands for an item.", PROMPT, ("rerank",), metavar="FIELD,..."),
    ] = ("title", "summary", "text")
    item_images: Annotated[bool, Option("The candidates' images, too.", PROMPT, ("rerank",))] = False
    max_history: Annotated[
        int,
        Field(ge=0, le=MOST),
        Option("How much of the history counts, the newest first.", PROMPT, ("rerank",), unit="items"),
    ] = 20
    max_item_tokens: Annotated[
        Count, Option("How long an item's text may be.", PROMPT, ("rerank",), unit="tokens")
    ] = 128
    mode: Annotated[
        Literal["listwise", "pointwise"],
        Option("One prompt for a row, or one for each candidate.", PROMPT, ("rerank",)),
    ] = "listwise"
    permutations: Annotated[
        int,
        Field(ge=1, le=1000),
        Option("Orders of the candidates to average over, at most.", PROMPT, ("rerank",), metavar="N"),
    ] = 1
    calibrate: Annotated[
        bool, Option("Divide out what a prompt without content says.", PROMPT, ("rerank",))
    ] = False
    window: Annotated[
        int | None,
        Field(ge=2, le=MOST),
        Option(
            "Candidates in a prompt; more go in windows.",
            PROMPT,
            ("rerank",),
            metavar="N",
            unset="all in one prompt",
        ),
    ] = None
    stride: Annotated[
        Count | None,
        Option("How far a window moves.", PROMPT, ("rerank",), metavar="N", unset="half the window"),
    ] = None
    labels: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...] | None,
        Field(min_length=1),
        Option(
            "Labels of rows that bring none.", PROMPT, ("probs",), metavar="A,B,...", unset="each row's own"
        ),
    ] = None
    label_prefix: Annotated[
        str,
        Field(max_length=64),
        Option("What stands before each label, such as a space.", PROMPT, ("probs",), unset="nothing"),
    ] = ""
    merging_labels: Annotated[
        Literal["refuse", "read"],
        Option("What happens to labels that are one token with the prompt's end.", PROMPT, ("probs",)),
    ] = "refuse"
    chat: Annotated[bool, Option("The prompt as one user turn, made harmless.", PROMPT, ("probs",))] = False

    # -- cache -------------------------------------------------------------------------------------------

    cache_dir: Annotated[
        Path | None,
        free(
            "Where answers are remembered.",
            CACHE,
            (*JOBS, "cache"),
            metavar="DIR",
            unset="the user's cache folder",
        ),
    ] = None
    no_cache: Annotated[bool, free("Compute every answer anew, and store none.", CACHE, JOBS)] = False
    cache_size: Annotated[
        int | None,
        Field(ge=10**6, le=MOST),
        free("What the cache may take on disk, such as 20GB.", CACHE, JOBS, metavar="SIZE", unset="no bound"),
    ] = None
    offline: Annotated[bool, free("From the cache alone: no network, nothing computed.", CACHE, JOBS)] = False
    dry_run: Annotated[
        bool, free("What would be asked, and what is remembered; sends nothing.", CACHE, JOBS)
    ] = False

    # -- rows and the run --------------------------------------------------------------------------------

    overwrite: Annotated[bool, free("Write what is there already anew.", FILES, (*JOBS, "bench"))] = False
    unordered: Annotated[bool, free("Records as they finish, not in input order.", FILES, JOBS)] = False
    skip_bad_rows: Annotated[bool, free("Record malformed rows as failed.", FILES, JOBS)] = False
    limit: Annotated[
        int | None,
        Field(ge=0, le=MOST),
        free("Only so many rows, the first.", FILES, JOBS, unit="rows", unset="all"),
    ] = None
    concurrency: Annotated[
        Count | None,
        free("Rows worked on at once.", RUN, JOBS, unit="rows", unset="as many as suit who computes"),
    ] = None

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if self.use_quantization and self.quantization not in (None, "4bit"):
            raise ValueError(
                f"--use-quantization means 4bit, but --quantization is {self.quantization}; give one of them"
            )
        if self.stride is not None and self.window is None:
            raise ValueError("--stride is the step of windows; give --window as well")
        if self.stride is not None and self.window is not None and self.stride > self.window:
            raise ValueError("--stride is at most --window, or candidates between windows are never read")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("--client-key is the key of a certificate; give --client-cert as well")
        if self.mode == "pointwise" and (self.permutations > 1 or self.window is not None):
            raise ValueError("--permutations and --window are for --mode listwise")
        return self

    @field_validator("item_fields", "labels", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        return split(value)

    @field_validator("cache_size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        return bytes_of(value) if isinstance(value, str) else value

    @property
    def files(self) -> list[tuple[str, Path]]:
        """The files that are read, and the option that names each; a checkpoint's files under its own."""
        named = [(one.flag, getattr(self, one.name)) for one in declared(Settings).values()]
        files = [(flag, path) for flag, path in named if isinstance(path, Path) and flag != "--cache-dir"]
        for flag, name in named:
            if flag in CHECKPOINTS and name is not None:
                files += [(flag, path) for path in _files_of(Path(name))]
        return files if self._file is None else [*files, ("--config", self._file)]

    def batch_size_for(self, kind: str) -> int | None:
        """Prompts, or images, in a batch; None for as many as suit who computes."""
        size = self.semantic_summary_batch_size if kind == "vision" else self.llm_batch_size
        return None if size == "auto" else size

    @property
    def weights(self) -> str:
        """How weights are kept: `none` (as they are), `8bit`, `4bit` or `fp8`."""
        return self.quantization or ("4bit" if self.use_quantization else "none")


def _files_of(path: Path) -> list[Path]:
    """The files of a checkpoint, or of a tokenizer; none for an id."""
    try:
        return sorted(path.iterdir()) if path.is_dir() else [path] * path.is_file()
    except OSError:  # no folder of ours, or an id that no name of a file can be
        return []
