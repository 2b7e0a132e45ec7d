"""Models that are none of those computed here: refused with the reason, never loaded as another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.conftest import Fastqwen, write_rows
from tgi_stack.engine.loader import load, understand
from tgi_stack.engine.placement import choose
from tgi_stack.errors import CheckpointError
from tgi_stack.hub import Checkpoint, locate
from tgi_stack.tiny import TINY

CPU = choose("cpu", "fp32")
LAYERS = {"vocab_size": 1024, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "max_position_embeddings": 64}
PAIR = {
    "vocab_size": 1024,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "d_model": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
DISTILLED = {"vocab_size": 1024, "dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2}
T5 = {"vocab_size": 1024, "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2}


def _of(kind: str, **fields: Any) -> Callable[[Path], None]:
    """Writes a checkpoint by a class of transformers."""

    def make(folder: Path) -> None:
        torch.manual_seed(7)
        model = getattr(transformers, kind)
        # Words that not all of its classes know are taken and ignored.
        model(model.config_class(**fields)).save_pretrained(folder)

    return make


def _tiny(**fields: Any) -> Callable[[Path], None]:
    """The shipped model under another configuration; its tensors would fit."""

    def make(folder: Path) -> None:
        shutil.copytree(TINY / "text", folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text()) | fields
        (folder / "config.json").write_text(json.dumps(config))

    return make


CODE = {"AutoConfig": "configuration_mine.MyConfig", "AutoModelForCausalLM": "modeling_mine.MyModel"}
TEXT_ALONE = "no model that writes text alone"
REFUSED = {
    "made up": (_tiny(model_type="qwen9"), "'qwen9', which the installed transformers does not know"),
    "code of its own": (_tiny(model_type="mine", auto_map=CODE), r"auto_map\) is never run"),
    "another class by code": (_tiny(architectures=["MyModel"], auto_map=CODE), r"'MyModel'.*never run"),
    "two classes": (_tiny(architectures=["Qwen3ForCausalLM", "MyModel"]), "only Qwen3ForCausalLM"),
    "a family as another": (_tiny(model_type="qwen2"), "only Qwen2ForCausalLM is computed"),
    "no class": (_tiny(model_type="llama", architectures=None), "architectures is missing"),
    "no family": (_tiny(model_type=None), "model_type is None"),
    "an encoder": (_of("BertForMaskedLM", **LAYERS, **HEADS), "only BertLMHeadModel is computed"),
    "an encoder's layers": (_of("BertModel", **LAYERS, **HEADS), r"lacks cls\.predictions"),
    "an encoder alone": (_of("DistilBertForMaskedLM", **DISTILLED), TEXT_ALONE),
    "a pair": (_of("T5ForConditionalGeneration", **T5), TEXT_ALONE),
    "a pair that has a half": (_of("BartForConditionalGeneration", **PAIR), TEXT_ALONE),
    "half of a pair": (_of("BartForCausalLM", **PAIR), TEXT_ALONE),
    "a classifier": (_of("Qwen3ForSequenceClassification", **LAYERS, **HEADS), "only Qwen3ForCausalLM"),
    "another classifier": (_of("LlamaForSequenceClassification", **LAYERS, **HEADS), "only LlamaForCausalLM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_model_is_never_loaded(name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    make(tmp_path)
    checkpoint = locate(str(tmp_path), "text", None)
    with pytest.raises(CheckpointError, match=reason):
        _understood_and_loaded(checkpoint)


def _understood_and_loaded(checkpoint: Checkpoint) -> None:
    understand(checkpoint)
    load(checkpoint, "text", CPU)


@pytest.mark.parametrize("name", ["made up", "code of its own", "an encoder", "a pair"])
def test_the_command_ends_with_the_reason(name: str, tmp_path: Path, fastqwen: Fastqwen) -> None:
    make, reason = REFUSED[name]
    make(tmp_path / "model")
    for file in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(TINY / "text" / file, tmp_path / "model")
    (tmp_path / "model" / "modeling_mine.py").write_text("raise SystemExit('it was run')")
    write_rows(tmp_path / "in.jsonl", {"id": "1", "prompt": "A or B? ", "labels": ["A", "B"]})
    done = fastqwen("probs", "in.jsonl", "--engine", "torch", "--model", "model", check=3)
    assert not done.stdout
    assert reason.replace("\\", "") in done.stderr
