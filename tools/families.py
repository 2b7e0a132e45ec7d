"""Makes a checkpoint of each family of models with random weights, and compares what is computed with it.

    python tools/families.py [NAME ...]

Each is a few hundred kB, made by transformers' class of its configuration. Label probabilities, alone and in
a batch, are held to transformers' plain forward of one prompt; summaries to its greedy `generate` of one.
A family that is refused prints why.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from tgi_stack.engine import caption
from tgi_stack.engine.label_scores import whole
from tgi_stack.engine.loader import load, model_type_for, understand
from tgi_stack.engine.models import compat
from tgi_stack.engine.placement import choose
from tgi_stack.engine.runtime import Runtime
from tgi_stack.engine.switches import Switches
from tgi_stack.errors import FastqwenError
from tgi_stack.hub import Checkpoint
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting import prompts
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.prompting.vocabulary import tokenizer_of
from tgi_stack.tiny import TINY
from tgi_stack.types import CaptionRequest, ScoreRequest

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,  # so that probabilities are far apart
}
OLD = {name: value for name, value in SMALL.items() if name != "head_dim"}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "decoder_sparse_step": 1,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 16,
    "deepstack_visual_indexes": [0, 1],
    "num_position_embeddings": 64,
}
OLD_TOWER = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64}
# Of half a head: 16 wide in Qwen3, 8 in Qwen2, a quarter of 16 in Qwen3.5.
SECTIONS = {"qwen2": [2, 1, 1], "qwen3_v": [4, 2, 2], "qwen3_5": [1, 1, 0]}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": OLD,
    "qwen2_moe": OLD | EXPERTS,
    "qwen3": SMALL,
    "qwen3_moe": SMALL | EXPERTS,
    "qwen3_next": SMALL | EXPERTS | LINEAR,
    "qwen3_5_text": SMALL | LINEAR,
    "qwen3_5_moe_text": SMALL | EXPERTS | LINEAR,
    "llama": SMALL,
    "qwen2_vl": {"text_config": OLD, "vision_config": OLD_TOWER},
    "qwen2_5_vl": {"text_config": OLD, "vision_config": OLD_TOWER | {"out_hidden_size": 32}},
    "qwen3_vl": {"text_config": SMALL, "vision_config": TOWER},
    "qwen3_vl_moe": {"text_config": SMALL | EXPERTS, "vision_config": TOWER},
    "qwen3_5": {"text_config": SMALL | LINEAR, "vision_config": TOWER},
    "qwen3_5_moe": {"text_config": SMALL | EXPERTS | LINEAR, "vision_config": TOWER},
}
QUESTIONS = ("One?", "A longer question than the first one, to be padded or packed.", "Which of A, B or C?")
LABELS = "ABCD"
GRID = Grid.from_checkpoint(TINY / "vision")


@dataclass(frozen=True)
class Compared:
    """What was seen of a family; differences are the largest of a probability.

    Attributes:
        by: what computes it: the project's own network, or transformers' forward.
        texts: whether summaries are those of `generate`.
        refused: why it is not loaded.
    """

    name: str
    by: str = ""
    alone: float = 0.0
    batched: float = 0.0
    texts: bool = True
    refused: str = ""


def compared(name: str, folder: Path) -> Compared:
    """Makes the family's checkpoint in an empty folder, and compares."""
    theirs = made(name, folder)
    checkpoint = Checkpoint(name, "made", folder)
    tokenizer = tokenizer_of(checkpoint)
    kind = "vision" if "vision_config" in FAMILIES[name] else "text"
    try:
        model_type_for(checkpoint, kind)
        understand(checkpoint)
        ours = load(checkpoint, kind, choose("cpu", "fp32"))
        runtime = Runtime(ours, Switches(), tokenizer=tokenizer, kind="text")
    except FastqwenError as error:
        return Compared(name, refused=str(error).replace(str(folder), "the folder"))
    try:
        return _compared(name, theirs, runtime, tokenizer)
    finally:
        runtime.close()


def _compared(name: str, theirs: Any, runtime: Runtime, tokenizer: Tokenizer) -> Compared:
    requests = [_request(tokenizer, question) for question in QUESTIONS]
    wanted = [_forward(theirs, request) for request in requests]
    alone = [whole(runtime.score([request]))[0].logprobs for request in requests]
    together = [one.logprobs for one in whole(runtime.score(requests))]
    asked = [CaptionRequest(r.prompt, "", r.token_ids, None, 6) for r in requests]
    texts = (
        [one.text for one in caption.caption(runtime.model, tokenizer, None, asked)]
        if not runtime.writes
        else []
    )
    if runtime.writes:
        texts = [runtime.write(one).result().text for one in asked]
    generated = [_generated(theirs, tokenizer, one) for one in asked]
    # Pictures of 16-pixel patches; the tests of the own network have theirs.
    if FAMILIES[name].get("vision_config") == TOWER and not runtime.writes:
        pictured = [_pictured(tokenizer, size) for size in ((96, 64), (64, 96), (128, 128))]
        texts += [one.text for one in caption.caption(runtime.model, tokenizer, GRID, pictured)]
        generated += [_generated(theirs, tokenizer, one) for one in pictured]
    return Compared(
        name,
        "transformers' forward" if runtime.network is None else "own network",
        _apart(alone, wanted),
        _apart(together, wanted),
        texts == generated,
    )


def made(name: str, folder: Path) -> Any:
    """Writes the family's checkpoint, and gives its network as transformers makes it."""
    torch.manual_seed(7)
    tokenizer = TINY / "vision"
    for file in ("tokenizer.json", "preprocessor_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / file, folder / file)
    known = json.loads((tokenizer / "config.json").read_text())
    fields = FAMILIES[name]
    vocabulary = {
        key: known["text_config"][key]
        for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
        if key in known["text_config"]
    }
    if "text_config" in fields:
        marks = {key: known[key] for key in known if key.endswith("_token_id")}
        text = fields["text_config"] | vocabulary
        text |= compat.rotary(10_000.0, _rotary(name))
        fields = fields | marks | {"text_config": text, "tie_word_embeddings": False}
    else:
        fields = fields | vocabulary
    config = transformers.CONFIG_MAPPING[name](**fields)
    auto = (
        transformers.AutoModelForImageTextToText
        if "text_config" in fields
        else transformers.AutoModelForCausalLM
    )
    model = auto.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(folder)
    return model


def _rotary(name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["mrope_section"] = next(split for start, split in SECTIONS.items() if name.startswith(start))
    if not name.startswith("qwen2"):
        found["mrope_interleaved"] = True
    return found | ({"partial_rotary_factor": 0.25} if name.startswith("qwen3_5") else {})


def _request(tokenizer: Tokenizer, question: str) -> ScoreRequest:
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    ids = tuple(tokenizer.encode(label)[0] for label in LABELS)
    return ScoreRequest(prompt, tokenizer.encode(prompt), tuple(LABELS), ids)


@torch.inference_mode()
def _forward(model: Any, request: ScoreRequest) -> tuple[float, ...]:
    logits = model(input_ids=torch.tensor([request.token_ids]), use_cache=False).logits[0, -1].double()
    return tuple(torch.log_softmax(logits, -1)[list(request.label_ids)].tolist())


@torch.inference_mode()
def _generated(model: Any, tokenizer: Tokenizer, asked: CaptionRequest) -> str:
    ids = torch.tensor([asked.token_ids])
    found = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=asked.max_new_tokens,
        do_sample=False,
        **caption.image_arguments(model, GRID, [] if asked.image is None else [asked.image], ids),
    )
    row = found[0, ids.shape[1] :].tolist()
    ends = caption.end_ids(model)
    kept = next((at for at, token in enumerate(row) if token in ends), len(row))
    return tokenizer.decode(row[:kept]).strip()


def _pictured(tokenizer: Tokenizer, size: tuple[int, int]) -> CaptionRequest:
    """A question about a picture of many colours."""
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, "PNG")
    image = prepare(buffer.getvalue(), "noise", GRID)
    visual = GRID.tokens(image.sent_width, image.sent_height)
    prompt = prompts.image_turn("What is it?", image_tokens=visual, close_thinking=False)
    return CaptionRequest(prompt, "What is it?", tokenizer.encode(prompt), image, 6)


def _apart(found: Sequence[tuple[float, ...]], wanted: Sequence[tuple[float, ...]]) -> float:
    """The largest difference of a probability among the labels."""
    pairs = [torch.tensor(logprobs).double().softmax(-1) for logprobs in (found, wanted)]
    return float((pairs[0] - pairs[1]).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'family':18}{'by':24}{'alone':>10}{'batched':>10}  summaries")
    for name in parser.parse_args().names or FAMILIES:
        if name not in transformers.CONFIG_MAPPING:
            print(f"{name:18}not known to this transformers")
            continue
        with tempfile.TemporaryDirectory() as folder:
            one = compared(name, Path(folder))
        if one.refused:
            print(f"{name:18}refused: {one.refused}")
            continue
        texts = "equal" if one.texts else "DIFFERENT"
        print(f"{name:18}{one.by:24}{one.alone:10.1e}{one.batched:10.1e}  {texts}")


if __name__ == "__main__":
    main()
