"""What ships is what was asked for: shapes servers can load, sizes, and how models are found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tgi_stack.engine.loader import load
from tgi_stack.engine.placement import choose
from tgi_stack.errors import CheckpointError, FastqwenError, MachineError, NoEngineError, UsageError
from tgi_stack.hub import Checkpoint, locate
from tgi_stack.tiny import TINY

LIMIT_BYTES = 8 * 10**6


def config(kind: str) -> dict[str, Any]:
    return dict(json.loads((TINY / kind / "config.json").read_text()))


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_a_checkpoint_is_small_and_complete(kind: str) -> None:
    files = {path.name: path.stat().st_size for path in (TINY / kind).iterdir()}
    assert sum(files.values()) <= LIMIT_BYTES
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "README.md"}
    if kind == "vision":
        wanted |= {"preprocessor_config.json", "video_preprocessor_config.json"}
    assert wanted <= set(files)
    assert config(kind)["transformers_version"].startswith("4.57")


def test_servers_load_the_text_model_as_qwen3() -> None:
    text = config("text")
    assert text["architectures"] == ["Qwen3ForCausalLM"]
    assert (text["head_dim"], text["tie_word_embeddings"]) == (64, True)
    assert text["max_position_embeddings"] >= 4096


def test_servers_load_the_vision_model_as_qwen3_vl() -> None:
    vision = config("vision")
    text, tower = vision["text_config"], vision["vision_config"]
    assert vision["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert (tower["patch_size"], tower["spatial_merge_size"]) == (16, 2)
    assert tower["deepstack_visual_indexes"]
    assert text["head_dim"] == 64
    # Without the top-level flag vLLM starts and gives every token the same probability.
    assert vision["tie_word_embeddings"] is text["tie_word_embeddings"] is True
    assert text["rope_scaling"]["mrope_interleaved"] is True
    assert sum(text["rope_scaling"]["mrope_section"]) == text["head_dim"] // 2


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    assert locate(str(tmp_path), "text", None).folder == tmp_path
    with pytest.raises(UsageError, match=r"config\.json"):
        _ = locate(str(tmp_path), "text", None).config


@pytest.mark.parametrize(
    ("name", "download", "error"),
    [
        ("./nowhere", True, UsageError),
        ("/nowhere", True, UsageError),
        ("just-a-name", True, UsageError),
        ("/models/some-Q4_K_M.gguf", True, UsageError),
        ("some/model.gguf", False, UsageError),
        ("some/model", False, NoEngineError),
        ("some/model", True, MachineError),  # with no network: HF_HUB_OFFLINE
    ],
)
def test_models_that_can_not_be_had(
    name: str, download: bool, error: type[FastqwenError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=name):
        locate(name, "text", None, may_download=download)


def test_an_unfinished_download_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--model"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(NoEngineError):
        locate("some/model", "text", None, may_download=False)
    (snapshot / "model.safetensors").touch()
    assert locate("some/model", "text", None, may_download=False).folder == snapshot


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"chat_template": "one"}, "one"),
        (
            {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]},
            "d",
        ),
        ({"chat_template": [{"name": "tool_use", "template": "t"}, 5]}, None),
        ({}, None),
    ],
)
def test_a_template_is_read_in_each_form(tmp_path: Path, config: Any, found: str | None) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Checkpoint("x", "r", tmp_path).chat_template == found


@pytest.mark.parametrize("content", ["", " \n", "version https://git-lfs.github.com/spec/v1\n"])
def test_a_template_without_content_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(content)
    with pytest.raises(CheckpointError, match="fetch it"):
        _ = Checkpoint("x", "r", tmp_path).chat_template


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_weights_in_a_form_unknown_here(tmp_path: Path, method: str) -> None:
    folder = shutil.copytree(TINY / "text", tmp_path / "m")
    fields = config("text") | {"quantization_config": {"quant_method": method, "bits": 4}}
    (folder / "config.json").write_text(json.dumps(fields))
    found = locate(str(folder), "text", None, may_download=False)
    with pytest.raises(CheckpointError, match="can't be loaded"):
        load(found, "text", choose("cpu", "fp32"))


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    whole = (TINY / "text" / "config.json").read_text().rstrip().removesuffix("}")
    file = tmp_path / "config.json"
    file.write_text(whole + ', "rope_theta": 5.0}')
    with pytest.raises(UsageError, match="rope_theta stands twice"):
        _ = Checkpoint("x", "1", tmp_path).config
    said = json.loads(whole + "}")["rope_theta"]
    file.write_text(whole + f', "rope_theta": {json.dumps(said)}' + "}")
    assert Checkpoint("x", "1", tmp_path).config["rope_theta"] == said


def test_weights_replaced_before_they_load_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY / "text", tmp_path / "m"))
    found = locate(str(folder), "text", None)
    load(found, "text", choose("cpu", "fp32"))
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-2] + content[-4:-2])
    with pytest.raises(CheckpointError, match="written to since the run began"):
        load(found, "text", choose("cpu", "fp32"))
