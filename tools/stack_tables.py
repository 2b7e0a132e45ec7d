"""Prints the tables of docs/servers.md: what each engine serves, what models need, what fits on one GPU.

python tools/stack_tables.py
"""

from __future__ import annotations

from itertools import groupby

from tgi_stack.stack.planning import engines, gpus, plan
from tgi_stack.stack.planning.engines import ENGINES, TABLE, Launch
from tgi_stack.stack.planning.plan import DoesNotFitError
from tgi_stack.stack.planning.request import Request
from tgi_stack.stack.planning.sizes import MODELS, Model

GPU_GIB = (16, 24, 48, 80, 141)


def engines_table() -> str:
    """What each engine serves; cells that say the same stand in one row."""
    lines = ["| engine | model type | quantisation | arguments, or why not |", "|---|---|---|---|"]
    for (engine, model_type, said), cells in groupby(
        TABLE.items(), key=lambda item: (*item[0][:2], _said(item[1]))
    ):
        quantizations = ", ".join(place[2] for place, _ in cells)
        lines.append(f"| {engine} {ENGINES[engine].version} | {model_type} | {quantizations} | {said} |")
    return "\n".join(lines) + "\n"


def _said(cell: engines.Cell) -> str:
    if isinstance(cell, Launch):
        return f"`{' '.join(cell.arguments)}`"
    return cell.reason.replace("`", "")


def sizes_table() -> str:
    """What each model needs on the engine that serves it by default."""
    lines = [
        "| model | engine | weights, GB | least on one GPU, GiB | of that for 2 x 8,192 tokens, GiB |",
        "|---|---|---|---|---|",
    ]
    for model in MODELS.values():
        wanted = _wanted(model)
        kept = 2 * 8192 * model.kv_bytes / plan.USABLE_KV
        least = wanted.need_mib(Request()) / 1024
        weights = model.weight_bytes(wanted.launch.weight_bits) / 1e9
        lines.append(
            f"| {model.name} | {wanted.engine.name} | {weights:.1f} | {least:.1f} | {kept / 2**30:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _wanted(model: Model) -> plan.Wanted:
    if model.type == "qwen3":
        return plan.wanted(Request(text_model=model.name), plan.PREFILL_TOKENS[-1])["text"]
    engine = "tgi" if model.type == "qwen2_5_vl" else "vllm"
    return plan.wanted(Request(vision=engine, vision_model=model.name), plan.PREFILL_TOKENS[-1])["vision"]


def pairs_table() -> str:
    """Which text model fits beside which vision model on one empty GPU, by its size."""
    vision = [model for model in MODELS.values() if model.type == "qwen3_vl"]
    text = [model for model in MODELS.values() if model.type == "qwen3"]
    lines = ["| one empty GPU of | " + " | ".join(_short(model) for model in vision) + " |"]
    lines.append("|---" * (len(vision) + 1) + "|")
    for size in GPU_GIB:
        largest = {v.name: _largest(size, v, text) for v in vision}
        lines.append(f"| {size} GiB | " + " | ".join(largest[v.name] for v in vision) + " |")
    return "\n".join(lines) + "\n"


def _largest(size: int, vision: Model, text: list[Model]) -> str:
    fits = "no"
    for model in text:
        for quantization, said in (("none", ""), ("fp8", ", vision fp8")):
            asked = Request(text_model=model.name, vision_model=vision.name, vision_quantization=quantization)
            try:
                plan.make(asked, gpus.assumed(str(size)))
            except DoesNotFitError:
                continue
            fits = f"{_short(model)}{said}"
            break
    return fits


def _short(model: Model) -> str:
    return model.name.removeprefix("Qwen/").removesuffix("-Instruct")


if __name__ == "__main__":
    print(engines_table(), sizes_table(), pairs_table(), sep="\n")
