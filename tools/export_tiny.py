"""Writes trained weights as checkpoint folders, the way transformers 4.57 saves Qwen's own.

Called by `train_tiny.py export`; wants transformers 4.57, because a folder that 5.x saved may not load in
4.57, while one that 4.57 saved loads in 5.x and in vLLM.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3ForCausalLM,
    Qwen3VLForConditionalGeneration,
)

from tiny_models import MAX_PIXELS, MIN_PIXELS, text_config, vision_config
from tiny_tokenizer import ADDED_TOKENS

TINY = Path(__file__).resolve().parents[1] / "tgi_stack" / "tiny"

SPECIAL = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}

TEXT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}
"""
VISION_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == 'image' or part.type == 'image_url' or 'image' in part %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif 'text' in part %}
{{- part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def export(work: Path, out: Path) -> None:
    """Both checkpoints from `work`/{text,vision}.safetensors into `out`/{text,vision}."""
    if not transformers.__version__.startswith("4."):
        raise SystemExit(f"export wants transformers 4.57, this is {transformers.__version__}")
    tokenizer = Tokenizer.from_file(str(out / "text" / "tokenizer.json"))
    text = Qwen3ForCausalLM(text_config(tokenizer))
    vision = Qwen3VLForConditionalGeneration(vision_config(tokenizer))
    for name, model, template in (("text", text, TEXT_TEMPLATE), ("vision", vision, VISION_TEMPLATE)):
        _save_model(model, load_file(work / f"{name}.safetensors"), out / name)
        _save_tokenizer(tokenizer, template, out / name)
    _save_processors(out / "vision")


def _save_model(model: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if set(missing) != {"lm_head.weight"} or unexpected:
        raise SystemExit(f"{folder.name}: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    config = model.config.get_text_config()
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=[config.eos_token_id, config.bos_token_id],
        pad_token_id=config.pad_token_id,
        do_sample=False,
    )
    model.to(torch.bfloat16).save_pretrained(folder)


def _save_tokenizer(tokenizer: Tokenizer, template: str, folder: Path) -> None:
    wrapped = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=None,
        bos_token=None,
        **SPECIAL,
        additional_special_tokens=[text for text, special in ADDED_TOKENS if special][1:],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)


def _save_processors(folder: Path) -> None:
    images = Qwen2VLImageProcessor(
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        min_pixels=MIN_PIXELS,
        max_pixels=MAX_PIXELS,
    )
    images.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {"processor_class": "Qwen3VLProcessor"}
    _write_json(path, settings)
    # The class that would write this one needs torchvision; servers ask for the file all the same.
    shared = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "size")
    video = {key: settings[key] for key in shared} | {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": "Qwen3VLProcessor",
        "fps": 2,
        "min_frames": 4,
        "max_frames": 16,
    }
    _write_json(folder / "video_preprocessor_config.json", video)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
