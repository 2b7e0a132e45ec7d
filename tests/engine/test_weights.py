"""No tensor of a network is ever left at random, and none that stands in the files is left out unseen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Fastqwen, write_rows
from tgi_stack.engine.loader import load, prove
from tgi_stack.engine.models import by_transformers, weights
from tgi_stack.engine.placement import choose
from tgi_stack.engine.switches import Switches
from tgi_stack.errors import CheckpointError
from tgi_stack.hub import Checkpoint
from tgi_stack.tiny import TINY

CPU = choose("cpu", "fp32")
Header = dict[str, Any]


def header_of(kind: str) -> Header:
    content = (TINY / kind / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header.pop("__metadata__", None)
    return dict(header)


def laid(folder: Path, header: Header, name: str = "model.safetensors") -> None:
    """A file with this header's tensors, all zeros, behind each other; sparse, so that it costs nothing."""
    place, entries = 0, {}
    for tensor, entry in header.items():
        size = {"BF16": 2, "F32": 4, "F64": 8, "I8": 1}[entry["dtype"]]
        for side in entry["shape"]:
            size *= side
        entries[tensor] = entry | {"data_offsets": [place, place + size]}
        place += size
    text = json.dumps(entries).encode()
    with (folder / name).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a tiny checkpoint's small files."""
    kind = getattr(request, "param", "text")
    made = tmp_path / "checkpoint"
    shutil.copytree(TINY / kind, made, ignore=shutil.ignore_patterns("*.safetensors"))
    return made


def proof(folder: Path) -> None:
    prove(Checkpoint("it", "none", folder))


NAMES = [(kind, name) for kind in ("text", "vision") for name in header_of(kind)]
SPOILED: dict[str, Callable[[Header, str], None]] = {
    "dropped": lambda header, name: header.pop(name),
    "renamed": lambda header, name: header.update({f"{name}s": header.pop(name)}),
    "reshaped": lambda header, name: header[name].update(shape=[*header[name]["shape"][:-1], 3]),
    "flattened": lambda header, name: header[name].update(shape=[*header[name]["shape"], 1]),
    "whole numbers": lambda header, name: header[name].update(dtype="I8"),
    "doubled": lambda header, name: header.update({f"model.{name}": header[name]}),
}


@pytest.mark.parametrize(("folder", "name"), NAMES, ids=[f"{k}-{n}" for k, n in NAMES], indirect=["folder"])
def test_a_spoiled_tensor_is_named(folder: Path, name: str, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["folder"]
    for how, spoil in SPOILED.items():
        header = header_of(kind)
        spoil(header, name)
        laid(folder, header)
        with pytest.raises(CheckpointError) as told:
            proof(folder)
        assert name in str(told.value), how


@pytest.mark.parametrize("folder", ["text", "vision"], indirect=True)
def test_rotary_buffers_are_no_surprise(folder: Path, request: pytest.FixtureRequest) -> None:
    header = header_of(request.node.callspec.params["folder"])
    header["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"dtype": "F32", "shape": [32]}
    laid(folder, header)
    proof(folder)


def sharded(folder: Path) -> dict[str, str]:
    """The text checkpoint in two shards; the index's map, which is written too."""
    header = header_of("text")
    names = list(header)
    places = {}
    for number, part in enumerate((names[:30], names[30:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        laid(folder, {name: header[name] for name in part}, file)
        places.update(dict.fromkeys(part, file))
    indexed(folder, places)
    return places


def indexed(folder: Path, places: dict[str, str]) -> None:
    (folder / weights.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def _left_out(folder: Path, places: dict[str, str]) -> None:
    indexed(folder, {name: file for name, file in places.items() if name != "model.norm.weight"})


def _in_both(folder: Path, places: dict[str, str]) -> None:
    header = header_of("text")
    names = [name for name, file in places.items() if file == FIRST]
    laid(folder, {name: header[name] for name in [*names, "model.norm.weight"]}, FIRST)


SHARDS: dict[str, tuple[Callable[[Path, dict[str, str]], object], str]] = {
    "missing": (lambda folder, _: (folder / SECOND).unlink(), SECOND),
    "empty": (lambda folder, _: (folder / SECOND).write_bytes(b""), f"{SECOND} is empty"),
    "in both": (_in_both, r"model\.norm\.weight stands in two shards"),
    "left out": (_left_out, r"no shard of model\.norm\.weight"),
    "elsewhere": (
        lambda folder, places: indexed(folder, places | {"model.norm.weight": FIRST}),
        r"says .*00001.* of model\.norm\.weight, which stands in .*00002",
    ),
    "invented": (lambda folder, places: indexed(folder, places | {"model.x": FIRST}), r"model\.x"),
    "outside": (
        lambda folder, places: indexed(folder, places | {"model.x": f"../{FIRST}"}),
        r"model\.x is in '\.\./",
    ),
    "both": (lambda folder, _: laid(folder, header_of("text")), "holds both"),
    "no index": (lambda folder, _: (folder / weights.INDEX).write_text("[]"), "no index"),
    "no map": (lambda folder, _: (folder / weights.INDEX).write_text('{"weight_map": 3}'), "no index"),
    "cut": (lambda folder, _: (folder / weights.INDEX).write_text('{"weight_map": {'), "no index"),
}


@pytest.mark.parametrize("how", SHARDS)
def test_an_index_that_lies_is_refused(folder: Path, how: str) -> None:
    places = sharded(folder)
    proof(folder)
    spoil, match = SHARDS[how]
    spoil(folder, places)
    with pytest.raises(CheckpointError, match=match):
        proof(folder)


def test_a_name_twice_in_an_index(folder: Path) -> None:
    places = sharded(folder)
    text = json.dumps({"weight_map": places}).replace("{", '{"model.norm.weight": "x", ', 2)
    (folder / weights.INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight stands twice"):
        proof(folder)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5715424\n"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"]
)
def test_a_pointer_is_called_one(folder: Path, name: str, fastqwen: Fastqwen, tmp_path: Path) -> None:
    shutil.copy(TINY / "text" / "model.safetensors", folder)
    (folder / name).write_bytes(POINTER)
    rows = write_rows(tmp_path / "in.jsonl", {"prompt": "A or B? ", "labels": ["A", "B"]})
    told = fastqwen("probs", rows, "--engine", "torch", "--model", folder, check=3).stderr
    assert f"{name} is a Git LFS pointer" in told
    assert "git lfs pull" in told


@pytest.mark.parametrize("length", [0, 7, 100, 10_000, -1])
def test_a_file_cut_short_is_named(folder: Path, length: int) -> None:
    content = (TINY / "text" / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is (empty|cut short or damaged)"):
        proof(folder)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "pytest_model.bin").write_bytes(b"\x80")
    with pytest.raises(CheckpointError, match="only safetensors are read"):
        proof(folder)


def test_an_adapter_is_not_left_out_silently(folder: Path) -> None:
    laid(folder, header_of("text"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="adapter"):
        proof(folder)


def test_a_missing_tensor_ends_with_exit_3(folder: Path, fastqwen: Fastqwen, tmp_path: Path) -> None:
    header = header_of("text")
    del header["model.layers.3.mlp.up_proj.weight"]
    laid(folder, header)
    rows = write_rows(tmp_path / "in.jsonl", {"prompt": "A or B? ", "labels": ["A", "B"]})
    told = fastqwen("probs", rows, "--engine", "torch", "--model", folder, check=3)
    assert "lacks model.layers.3.mlp.up_proj.weight" in told.stderr
    assert not told.stdout


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_weights_are_those_of_transformers(kind: str, request: pytest.FixtureRequest) -> None:
    theirs = request.getfixturevalue(f"{kind}_model")
    ours = load(Checkpoint("tiny", "it", TINY / kind), kind, CPU)
    wanted = dict(theirs.named_parameters())
    found = dict(ours.named_parameters())
    assert wanted.keys() == found.keys()
    assert not any(found[name].requires_grad for name in found)
    assert ours.generation_config.eos_token_id == theirs.generation_config.eos_token_id
    rotary = theirs.model.language_model.rotary_emb if kind == "vision" else theirs.model.rotary_emb
    assert torch.equal(ours.body.rotary_emb.inv_freq, rotary.inv_freq)


def saved(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(TINY / "text" / "model.safetensors") | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def configured(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_tied_head_may_stand_beside_its_embedding(folder: Path) -> None:
    embedding = load_file(TINY / "text" / "model.safetensors")["model.embed_tokens.weight"]
    saved(folder, **{"lm_head.weight": embedding.clone()})
    load(Checkpoint("it", "none", folder), "text", CPU)
    saved(folder, **{"lm_head.weight": embedding + 1})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight, another one than .*tie_word_embeddings"):
        load(Checkpoint("it", "none", folder), "text", CPU)


def test_an_untied_head_has_to_be_there(folder: Path) -> None:
    saved(folder)
    configured(folder, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"lacks lm_head\.weight"):
        proof(folder)


def test_names_without_their_beginning_are_known(folder: Path) -> None:
    laid(folder, {name.removeprefix("model."): entry for name, entry in header_of("text").items()})
    proof(folder)


def test_a_file_that_changes_later_changes_nothing(folder: Path) -> None:
    saved(folder)
    model = load(Checkpoint("it", "none", folder), "text", choose("cpu", "bf16"))
    before = model.model.norm.weight.clone()
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1_000_000, 2)
        file.write(bytes(1_000_000))
    assert torch.equal(model.model.norm.weight, before)


DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({DOWN: None}, DOWN),
        ({"model.extra.weight": torch.zeros(2)}, r"model\.extra\.weight"),
        ({DOWN: torch.zeros(3, 3)}, DOWN),
    ],
)
def test_transformers_path_proves_the_same(folder: Path, changes: dict[str, Any], match: str) -> None:
    saved(folder, **changes)
    with pytest.raises(CheckpointError, match=match):
        by_transformers.load(Checkpoint("it", "none", folder), sees=False, placement=CPU)


def test_a_quantised_network_is_proven_before(folder: Path) -> None:
    saved(folder, **{DOWN: None})
    with pytest.raises(CheckpointError, match=DOWN):
        load(Checkpoint("it", "none", folder), "text", CPU, Switches(weights="4bit"))
