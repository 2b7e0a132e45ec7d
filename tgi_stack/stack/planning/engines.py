"""What each engine can serve: engine and version x model type x quantisation -> arguments, or why not.

Read in the sources of both releases; `docs/design/stack.md` says which cells were run.
"""

from __future__ import annotations

from dataclasses import dataclass

from tgi_stack.errors import UsageError


@dataclass(frozen=True, slots=True)
class Engine:
    """A release of a server; `image` is where it is pulled from."""

    name: str
    version: str
    image: str


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start it: arguments beside the fixed ones, and what the numbers then are.

    Attributes:
        dtype: of weights that are not quantised, and of the logits before any upcast.
        weight_bits: of a weight inside the layers; embeddings keep 16.
        shards: whether it runs on several GPUs.
    """

    arguments: tuple[str, ...]
    dtype: str
    weight_bits: float = 16
    shards: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why it can't be; `instead` is what to do."""

    reason: str
    instead: str


Cell = Launch | Refusal

TGI = Engine("tgi", "3.3.7", "ghcr.io/huggingface/text-generation-inference:3.3.7")
VLLM = Engine("vllm", "0.33.0", "vllm/vllm-openai:v0.33.0")
SGLANG = Engine("sglang", "0.5.23", "lmsysorg/sglang:v0.5.23")
ENGINES = {engine.name: engine for engine in (TGI, VLLM, SGLANG)}
# What who chooses an engine has to know of TGI, as of the day that it was looked up.
STATE_OF_TGI = (
    "TGI is in maintenance mode (3.3.7 is its last release; looked up 2026-11-28). TEXT=vllm or TEXT=sglang "
    "brings exact masses, labels of several tokens and more labels at once, without a fallback"
)
REPEATABLE = "--enable-deterministic-inference"  # of SGLang
MODEL_TYPES = ("qwen3", "qwen3_vl", "qwen2_5_vl")
# none, 8bit, 4bit and fp8 are made of plain weights at the start; the others are kinds of checkpoints.
QUANTIZATIONS = ("none", "8bit", "4bit", "fp8", "fp8-checkpoint", "awq", "gptq")
CHOICES = QUANTIZATIONS[:4]

_ON_VLLM = "TEXT=vllm reads such a checkpoint; on TGI: TEXT_QUANTIZATION=none or 8bit"
_VISION_ON_VLLM = "serve it with vLLM: VISION=vllm"


def _tgi_qwen3() -> dict[str, Cell]:
    checkpoint = "NotImplementedError: {} quantization is not supported for AutoModel"
    return {
        # fp16 has three more bits of mantissa than bf16, and TGI never upcasts its logits.
        "none": Launch(("--dtype", "float16"), "fp16"),
        # Sharded loading never reaches the quantiser.
        "8bit": Launch(("--dtype", "float16", "--quantize", "bitsandbytes"), "fp16", 8, shards=False),
        "4bit": Refusal(
            "NotImplementedError: 4bit quantization is not supported for AutoModel", "TEXT_QUANTIZATION=8bit"
        ),
        "fp8": Refusal(
            "TGI accepts fp8 for Qwen3 and loads it unquantised", "TEXT_QUANTIZATION=8bit or TEXT=vllm"
        ),
        "fp8-checkpoint": Refusal("nobody is known to have loaded a Qwen3 FP8 checkpoint in TGI", _ON_VLLM),
        "awq": Refusal(checkpoint.format("awq"), _ON_VLLM),
        "gptq": Refusal(checkpoint.format("gptq"), _ON_VLLM),
    }


def _tgi_qwen2_5_vl() -> dict[str, Cell]:
    untried = Refusal("nobody is known to have loaded a quantised Qwen2.5-VL in TGI", _VISION_ON_VLLM)
    cells: dict[str, Cell] = dict.fromkeys(QUANTIZATIONS, untried)
    return cells | {"none": Launch(("--dtype", "bfloat16"), "bf16")}


def _tgi_qwen3_vl() -> dict[str, Cell]:
    reason = "TGI 3.3.7 ends with `Unsupported model type qwen3_vl`, after downloading all weights"
    instead = (
        f"{_VISION_ON_VLLM}; or with TGI VISION_MODEL=Qwen/Qwen2.5-VL-3B-Instruct; "
        "or name an image that can with VISION_IMAGE"
    )
    return dict.fromkeys(QUANTIZATIONS, Refusal(reason, instead))


def _vllm() -> dict[str, Cell]:
    gone = Refusal(
        "vLLM has no bitsandbytes any more (`Unknown quantization method: bitsandbytes`)",
        "TEXT_QUANTIZATION or VISION_QUANTIZATION=fp8, or an AWQ, GPTQ or FP8 checkpoint",
    )
    return _without_bitsandbytes(("--dtype", "bfloat16"), gone)


def _sglang() -> dict[str, Cell]:
    untried = Refusal(
        "nobody is known to have loaded a Qwen3 with bitsandbytes in SGLang",
        "TEXT_QUANTIZATION or VISION_QUANTIZATION=fp8, or an AWQ, GPTQ or FP8 checkpoint",
    )
    # Logits in fp32: labels tie in bf16.
    return _without_bitsandbytes(("--dtype", "bfloat16", "--enable-fp32-lm-head"), untried)


def _without_bitsandbytes(plain: tuple[str, ...], refusal: Refusal) -> dict[str, Cell]:
    """What vLLM and SGLang have in common; `plain` launches a checkpoint that is not quantised."""
    return {
        "none": Launch(plain, "bf16"),
        "8bit": refusal,
        "4bit": refusal,
        "fp8": Launch((*plain, "--quantization", "fp8"), "bf16", 8),
        # What a checkpoint is quantised with stands in its own configuration.
        "fp8-checkpoint": Launch(plain, "bf16", 8),
        "awq": Launch(("--dtype", "auto"), "auto", 4.5),
        "gptq": Launch(("--dtype", "auto"), "auto", 4.5),
    }


TABLE: dict[tuple[str, str, str], Cell] = {
    (engine, model_type, quantization): cell
    for engine, model_type, cells in (
        ("tgi", "qwen3", _tgi_qwen3()),
        ("tgi", "qwen3_vl", _tgi_qwen3_vl()),
        ("tgi", "qwen2_5_vl", _tgi_qwen2_5_vl()),
        *(("vllm", model_type, _vllm()) for model_type in MODEL_TYPES),
        *(("sglang", model_type, _sglang()) for model_type in MODEL_TYPES),
    )
    for quantization, cell in cells.items()
}


def launch(engine: str, model_type: str, quantization: str, *, shards: int = 1, image: str = "") -> Launch:
    """The table's cell, where it is a launch.

    Args:
        image: an image that the user named in place of the engine's own. What it can is not known: the
            table refuses nothing to it, and it gets the arguments of plain weights.

    Raises:
        UsageError: the reason why it can't be, and what can.
    """
    cell = TABLE[engine, model_type, quantization]
    own_image = image in ("", ENGINES[engine].image)
    if isinstance(cell, Refusal) and not own_image and quantization == "none":
        cell = Launch(("--dtype", "bfloat16"), "bf16")
    named = f"{engine} {ENGINES[engine].version} with {model_type}, quantisation {quantization}"
    if isinstance(cell, Refusal):
        raise UsageError(f"{named}: {cell.reason}; {cell.instead}")
    if shards > 1 and not cell.shards:
        raise UsageError(f"{named} runs on one GPU only, NUM_SHARD={shards} was asked; NUM_SHARD=1")
    return cell
