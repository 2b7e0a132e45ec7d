"""The settings of a run: each with its type, bounds and default, and what is said of it, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval, MaxLen, MinLen

from tgi_stack.declared.option import CACHE, FILES, PROMPT, RUN, TORCH, Option, free
from tgi_stack.declared.runner import RunnerFields
from tgi_stack.declared.servers import COMPUTING, JOBS, SCORING, ServerFields

ITEM_FIELDS = ("title", "summary", "text")  # and places in `data`, such as data.category
BatchSize = Annotated[int, Interval(ge=1, le=4096)]
NEW_TOKENS = 128
MOST = 2**63 - 1  # of counts that have no bound of their own

Count = Annotated[int, Interval(ge=1, le=MOST)]
Preparers = Annotated[int, Interval(ge=1, le=16)]


class Fields(ServerFields, RunnerFields):
    """What `Settings` holds; apart from it, so that `--help` needs no pydantic."""

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
        Option("How weights are kept.", TORCH, (*JOBS, "compare"), unset="none"),
    ] = None
    loader: Annotated[
        Literal["transformers", "unsloth"], Option("Who loads weights.", TORCH, (*JOBS, "compare"))
    ] = "transformers"
    use_quantization: Annotated[
        bool,
        Option("The same as --quantization 4bit.", TORCH, (*JOBS, "compare"), also=("--use_quantization",)),
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
            "Prompts in a batch; with vLLM and SGLang, in a request. auto: as many as fit.",
            TORCH,
            SCORING,
            metavar="N|auto",
            also=("--llm_batch_size",),
        ),
    ] = "auto"

    gpu_memory: Annotated[
        str | None,
        free(
            "What the engine may take of a GPU, such as 0.5 of it or 8GiB.",
            TORCH,
            JOBS,
            metavar="SHARE|SIZE",
            unset="what is free",
        ),
    ] = None

    # -- prompt ------------------------------------------------------------------------------------------

    prompt_file: Annotated[
        Path | None,
        Option(
            "The prompt, with placeholders such as {{title}}.",
            PROMPT,
            ("summarize", "rerank", "compare"),
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
    schema: Annotated[
        str | None,
        Option(
            "Summaries as data: JSON of this schema, each validated.",
            PROMPT,
            ("summarize",),
            metavar="FILE.json|catalogue",
            unset="summaries as text",
        ),
    ] = None
    max_new_tokens: Annotated[
        int | None,
        Interval(ge=1, le=32768),
        Option(
            "How long a summary may be.",
            PROMPT,
            ("summarize",),
            unit="tokens",
            unset=f"{NEW_TOKENS}; with --schema as its longest answer in ordinary text, at most 1024",
        ),
    ] = None
    max_side: Annotated[
        int,
        Interval(ge=1, le=16384),
        Option("The longer side that an image is sent with.", PROMPT, ("summarize", "rerank"), unit="pixels"),
    ] = 448
    temperature: Annotated[
        float,
        Interval(ge=0.0, le=10.0),
        Option("How freely summaries are sampled; 0 is greedy.", PROMPT, ("summarize",), metavar="T"),
    ] = 0.0
    seed: Annotated[
        int | None,
        Interval(ge=0, lt=2**53),
        Option(
            "What sampling begins at.", PROMPT, ("summarize",), metavar="N", unset="another one each time"
        ),
    ] = None
    allow_text_only: Annotated[bool, Option("Rows without an image, too.", PROMPT, ("summarize",))] = False
    allow_truncated: Annotated[
        bool, Option("JPEGs that end early, too; they are flagged.", PROMPT, ("summarize",))
    ] = False
    item_fields: Annotated[
        tuple[str, ...],
        MinLen(1),
        Option("What stands for an item; of data as data.NAME.", PROMPT, ("rerank",), metavar="FIELD,..."),
    ] = ITEM_FIELDS
    item_images: Annotated[bool, Option("The candidates' images, too.", PROMPT, ("rerank",))] = False
    max_history: Annotated[
        int,
        Interval(ge=0, le=MOST),
        Option("How much of the history counts, the newest first.", PROMPT, ("rerank",), unit="items"),
    ] = 20
    max_item_tokens: Annotated[
        Count | None,
        Option(
            "How long an item's text may be.",
            PROMPT,
            ("rerank",),
            metavar="N",
            unset="128; with --mode pointwise what fits",
        ),
    ] = None
    mode: Annotated[
        Literal["listwise", "pointwise"],
        Option("One prompt for a row, or one for each candidate.", PROMPT, ("rerank",)),
    ] = "listwise"
    permutations: Annotated[
        int,
        Interval(ge=1, le=1000),
        Option("Orders of the candidates to average over, at most.", PROMPT, ("rerank",), metavar="N"),
    ] = 1
    calibrate: Annotated[
        bool, Option("Divide out what a prompt without content says.", PROMPT, ("rerank",))
    ] = False
    window: Annotated[
        int | None,
        Interval(ge=2, le=MOST),
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
        tuple[Annotated[str, MinLen(1)], ...] | None,
        MinLen(1),
        Option(
            "Labels of rows that bring none.", PROMPT, ("probs",), metavar="A,B,...", unset="each row's own"
        ),
    ] = None
    label_prefix: Annotated[
        str,
        MaxLen(64),
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
            (*JOBS, "cache", "report"),
            metavar="DIR",
            unset="the user's cache folder",
        ),
    ] = None
    no_cache: Annotated[
        bool, free("Compute every answer anew, and store none.", CACHE, (*JOBS, "report"))
    ] = False
    cache_size: Annotated[
        int | None,
        Interval(ge=10**6, le=MOST),
        free("What the cache may take on disk, such as 20GB.", CACHE, JOBS, metavar="SIZE", unset="no bound"),
    ] = None
    cache_tier: Annotated[
        str | None,
        free(
            "A tier of the cache that a team shares, by the Redis protocol; rediss:// for TLS.",
            CACHE,
            (*JOBS, "cache", "doctor"),
            metavar="URL|off",
            unset="that of make up TIER=1 where it runs, else none",
        ),
    ] = None
    cache_tier_mode: Annotated[
        Literal["read", "read-write"],
        free("What may be done with the tier; for laptops: read.", CACHE, (*JOBS, "doctor")),
    ] = "read-write"
    cache_tier_key_file: Annotated[
        Path | None,
        free(
            "The team's key, which seals what stands in the tier.",
            CACHE,
            (*JOBS, "cache", "doctor"),
            metavar="FILE",
            unset="digests without a key",
        ),
    ] = None
    cache_tier_images: Annotated[bool, free("Prepared images in the tier, too.", CACHE, JOBS)] = False
    offline: Annotated[bool, free("From the cache alone: no network, nothing computed.", CACHE, JOBS)] = False
    dry_run: Annotated[
        bool, free("What would be asked, and what is remembered; sends nothing.", CACHE, JOBS)
    ] = False

    # -- rows and the run --------------------------------------------------------------------------------

    overwrite: Annotated[
        bool, free("Write what is there already anew.", FILES, (*JOBS, "bench", "report"))
    ] = False
    unordered: Annotated[bool, free("Records as they finish, not in input order.", FILES, JOBS)] = False
    skip_bad_rows: Annotated[bool, free("Record malformed rows as failed.", FILES, JOBS)] = False
    limit: Annotated[
        int | None,
        Interval(ge=0, le=MOST),
        free("Only so many rows, the first.", FILES, (*JOBS, "report"), unit="rows", unset="all"),
    ] = None
    concurrency: Annotated[
        Count | None,
        free("Rows worked on at once.", RUN, JOBS, unit="rows", unset="as many as suit who computes"),
    ] = None
    preparers: Annotated[
        Preparers | Literal["auto"],
        free(
            "Processes that prepare rows. auto: one a core, none for few rows; OUT is the same.",
            RUN,
            JOBS,
            metavar="auto|N",
        ),
    ] = "auto"

    def batch_size_for(self, kind: str) -> int | None:
        """Prompts, or images, in a batch; None for as many as suit who computes."""
        size = self.semantic_summary_batch_size if kind == "vision" else self.llm_batch_size
        return None if size == "auto" else size

    @property
    def new_tokens(self) -> int:
        """How long a summary may be."""
        return NEW_TOKENS if self.max_new_tokens is None else self.max_new_tokens

    @property
    def weights(self) -> str:
        """How weights are kept: `none` (as they are), `8bit`, `4bit` or `fp8`."""
        return self.quantization or ("4bit" if self.use_quantization else "none")
