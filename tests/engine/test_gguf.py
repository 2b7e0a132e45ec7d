"""GGUF files as `--model`: their numbers, their tokenizer, and refused where not whole."""

from __future__ import annotations

import json
import shutil
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Kind

import families
from tests.conftest import Fastqwen, read_records, write_rows
from tests.ggufs import Tensors, of_random_blocks, packed, written
from tests.tolerances import FP32
from tgi_stack.engine.label_scores import whole
from tgi_stack.engine.loader import load, understand
from tgi_stack.engine.placement import choose
from tgi_stack.engine.runtime import Runtime
from tgi_stack.engine.switches import Switches
from tgi_stack.errors import CheckpointError, UsageError
from tgi_stack.hub import locate, locate_files
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.prompting.vocabulary import tokenizer_of
from tgi_stack.tiny import TINY

CPU = choose("cpu", "fp32")
TEXT = TINY / "text"
CONFIG = json.loads((TEXT / "config.json").read_text())
TEXTS = (
    "<|im_start|>user\nBlue  suede shoes, size 42 (men's)\r\n\tcafé naïve 東京 <think> x<|im_end|>\n",
    "it's 1234.5% <tool_call>{}</tool_call>   \n\n ",
)


def state_of(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = locate(str(path), "text", None)
    understand(checkpoint)
    found: dict[str, torch.Tensor] = load(checkpoint, "text", CPU).state_dict()
    return found


@pytest.mark.parametrize("kind", [Kind.F32, Kind.BF16])
def test_a_file_without_loss_is_its_checkpoint(kind: Kind, tmp_path: Path) -> None:
    found = state_of(written(tmp_path / "m.gguf", TEXT, kind))
    plain = load(locate("tiny", "text", None), "text", CPU).state_dict()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    "kind", [Kind.F16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_1, Kind.Q6_K, Kind.Q4_K, Kind.IQ4_XS]
)
def test_packed_numbers_are_those_of_the_package(kind: Kind, tmp_path: Path) -> None:
    """Of packings in blocks of 256 the matrices with such rows; llama.cpp packs the others otherwise, too."""

    def change(tensors: Tensors) -> None:
        for name in tensors:
            if "ffn_down" in name and kind in (Kind.Q6_K, Kind.Q4_K, Kind.IQ4_XS):
                tensors[name] = (of_random_blocks((192, 512), kind), kind)

    alike = kind if kind in (Kind.F16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_1) else Kind.Q8_0
    path = written(tmp_path / "m.gguf", TEXT, alike, changed=change)
    found = state_of(path)
    tensors = packed(TEXT, CONFIG, alike)
    change(tensors)
    down, packing = tensors["blk.3.ffn_down.weight"]
    wanted = gguf.quants.dequantize(down, packing).astype(np.float32)
    assert np.array_equal(found["model.layers.3.mlp.down_proj.weight"].numpy(), wanted)
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3_moe"])
def test_each_family_computes_what_its_checkpoint_does(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the published ones are made, and as llama.cpp computes any.
    monkeypatch.setitem(families.FAMILIES, family, families.FAMILIES[family] | {"norm_topk_prob": True})
    folder = tmp_path / "made"
    folder.mkdir()
    theirs = families.made(family, folder)
    path = written(tmp_path / "m.gguf", folder)
    checkpoint = locate(str(path), "text", None)
    understand(checkpoint)
    tokenizer = tokenizer_of(checkpoint)
    runtime = Runtime(load(checkpoint, "text", CPU), Switches(), tokenizer=tokenizer, kind="text")
    requests = [families._request(tokenizer, question) for question in families.QUESTIONS]
    read = whole(runtime.score(requests))
    runtime.close()
    for one, request in zip(read, requests, strict=True):
        wanted = families._forward(theirs, request)
        assert np.abs(np.exp(one.logprobs) - np.exp(wanted)).max() < FP32


def test_transformers_own_reader_finds_the_same(tmp_path: Path) -> None:
    """Of Qwen2, which it reads whole; it knows no `attention.key_length` of Qwen3."""
    folder = tmp_path / "made"
    folder.mkdir()
    families.made("qwen2", folder)
    written(tmp_path / "m.gguf", folder, Kind.Q8_0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    )
    ours = state_of(tmp_path / "m.gguf")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours[name], tensor), name


def test_its_own_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    checkpoint = locate(str(written(tmp_path / "m.gguf", TEXT)), "text", None)
    ours, plain = tokenizer_of(checkpoint), Tokenizer(TEXT / "tokenizer.json")
    for text in TEXTS:
        assert ours.encode(text) == plain.encode(text)
    assert ours.added_tokens == plain.added_tokens
    assert ours.vocabulary == plain.vocabulary
    assert ours.has_qwens_rules
    assert tokenizer_of(checkpoint).digest == ours.digest


def test_a_tokenizer_beside_it_goes_first(tmp_path: Path) -> None:
    checkpoint = locate(str(written(tmp_path / "m.gguf", TEXT)), "text", None)
    shutil.copy(TEXT / "tokenizer.json", tmp_path)
    assert tokenizer_of(checkpoint).digest == Tokenizer(TEXT / "tokenizer.json").digest


@pytest.mark.parametrize("what", ["token", "merges", "shorter"])
def test_another_tokenizer_is_refused(what: str, tmp_path: Path) -> None:
    checkpoint = locate(str(written(tmp_path / "m.gguf", TEXT)), "text", None)
    content = json.loads((TEXT / "tokenizer.json").read_text())
    if what == "token":
        content["added_tokens"][-1]["content"] = "</thought>"
    elif what == "merges":
        content["model"]["merges"][3:5] = content["model"]["merges"][4:2:-1]
    else:
        del content["added_tokens"][-1]
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"other\.json is not the tokenizer of .*m\.gguf"):
        tokenizer_of(checkpoint, tmp_path / "other.json")


def test_its_packing_is_part_of_the_identity(cached: Fastqwen, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", {"id": "1", "prompt": "Which of A, B? ", "labels": ["A", "B"]})
    said = {}
    for name, kind in (("a", Kind.Q8_0), ("b", Kind.Q4_0)):
        written(tmp_path / f"{name}.gguf", TEXT, kind)
        cached("probs", "in.jsonl", "-o", f"{name}.jsonl", "--engine", "torch", "--model", f"{name}.gguf")
        [record] = read_records(tmp_path / f"{name}.jsonl")
        assert not record["from_cache"]
        said[name] = json.loads((tmp_path / f"{name}.jsonl.run.json").read_text())["identity"]
        assert record["revision"] == said[name]["revision"]
    assert [said[name]["quantization"] for name in "ab"] == ["gguf q8_0", "gguf q4_0"]
    assert said["a"]["revision"] != said["b"]["revision"]
    assert "gguf " in said["a"]["version"]
    cached("probs", "in.jsonl", "-o", "again.jsonl", "--engine", "torch", "--model", "a.gguf")
    assert read_records(tmp_path / "again.jsonl")[0]["from_cache"]


def _spoil(path: Path, what: str) -> None:
    content = bytearray(path.read_bytes())
    if what == "magic":
        content[:4] = b"GGML"
    elif what == "version":
        content[4:8] = struct.pack("<I", 1)
    elif what == "big-endian":
        content[4:8] = struct.pack(">I", 3)
    elif what == "tokens without end":
        at = content.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
        content[at : at + 8] = struct.pack("<Q", 2**60)
    elif what == "fields without end":
        content[16:24] = struct.pack("<Q", 2**60)
    elif what == "cut in its header":
        del content[20_000:]
    elif what == "cut in its numbers":
        del content[-100_000:]
    elif what == "empty":
        content.clear()
    elif what == "pointer":
        content[:] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("magic", "no GGUF file"),
        ("version", "version 1 of GGUF"),
        ("big-endian", "big-endian"),
        ("tokens without end", "cut short or damaged"),
        ("fields without end", "cut short or damaged"),
        ("cut in its header", "within its header"),
        ("cut in its numbers", "cut short"),
        ("empty", "no GGUF file"),
        ("pointer", "Git LFS"),
    ],
)
def test_a_spoiled_file_is_refused(what: str, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", TEXT, Kind.Q8_0)
    _spoil(path, what)
    with pytest.raises(CheckpointError, match=reason):
        state_of(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", TEXT, Kind.Q4_0)
    whole_file = path.read_bytes()
    for end in [*range(0, 2_000, 97), *range(2_000, len(whole_file), 60_001), len(whole_file) - 1]:
        path.write_bytes(whole_file[:end])
        with pytest.raises(CheckpointError):
            state_of(path)


def _drop(tensors: Tensors) -> None:
    del tensors["blk.2.attn_k_norm.weight"]


def _extra(tensors: Tensors) -> None:
    tensors["rope_freqs.weight"] = (np.ones(32, np.float32), Kind.F32)


def _reshape(tensors: Tensors) -> None:
    data, kind = tensors["blk.1.ffn_up.weight"]
    tensors["blk.1.ffn_up.weight"] = (data[:-32], kind)


def _whole_numbers(tensors: Tensors) -> None:
    tensors["output_norm.weight"] = (np.ones(192, np.int32), Kind.I32)


def _reranker(tensors: Tensors) -> None:
    tensors["cls.output.weight"] = (np.ones((2, 192), np.float32), Kind.F32)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_drop, r"lacks model\.layers\.2\.self_attn\.k_norm\.weight"),
        (_extra, r"does not have: rope_freqs\.weight"),
        (_reshape, r"up_proj\.weight \[480, 192\] in place of \[512, 192\]"),
        (_whole_numbers, r"output_norm\.weight is I32"),
        (_reranker, r"llama\.cpp's own reranking"),
    ],
)
def test_other_tensors_are_refused(change: Any, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", TEXT, changed=change)
    with pytest.raises(CheckpointError, match=reason):
        state_of(path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"general.architecture": "llama"}, "general.architecture is 'llama'"),
        ({"general.architecture": "qwen3vl"}, "general.architecture is 'qwen3vl'"),
        ({"general.architecture": "made_up"}, "only qwen2, qwen3, qwen3moe are read"),
        ({"general.type": "adapter"}, "only whole models"),
        ({"split.count": 3}, "llama-gguf-split --merge"),
        ({"qwen3.pooling_type": 4}, "pooling_type is 4"),  # a reranker, as llama.cpp's converter marks it
        ({"qwen3.classifier.output_labels": "yes"}, "classifier.output_labels is 'yes': no such field"),
        ({"general.quantization_version": 1}, "only 2 is read"),
        ({"qwen3.rope.scaling.type": "longrope"}, "rope.scaling.type is 'longrope'"),
        ({"qwen3.rope.scaling.type": ["yarn", "linear"]}, "rope.scaling.type is "),
        ({"tokenizer.ggml.eos_token_id": True}, "eos_token_id is True"),
        ({"qwen3.rope.scaling.factor": 4.0}, "kind 'none' has no such setting"),
        ({"qwen3.rope.scaling.type": "linear"}, "rope.scaling.factor is None"),
        ({"qwen3.rope.scaling.yarn_ext_factor": 0.5}, "only 1.0 is computed here"),
        ({"qwen3.rope.dimension_count": 32}, "heads are 64 wide"),
        ({"qwen3.attention.sliding_window": 512}, "sliding_window is 512"),
        ({"qwen3.final_logit_softcapping": 30.0}, "no such field is known"),
        ({"qwen3.expert_count": 8}, "no such field is known"),
        ({"qwen3.block_count": "six"}, "a whole number over 0"),
        ({"qwen3.attention.head_count_kv": [2, 2, 2, 2, 2, 2]}, "a whole number over 0"),
        ({"qwen3.attention.causal": False}, "only True is computed here"),
        ({"qwen3.attention.layer_norm_rms_epsilon": "small"}, "a number is needed"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "has 1024 rows"),
    ],
)
def test_a_field_not_understood_is_refused(fields: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    written(
        path, TEXT, fields={name: value for name, value in fields.items() if name != "general.architecture"}
    )
    if "general.architecture" in fields:
        named = fields["general.architecture"].encode()
        old = struct.pack("<Q", 5) + b"qwen3"
        path.write_bytes(path.read_bytes().replace(old, struct.pack("<Q", len(named)) + named, 1))
    with pytest.raises(CheckpointError, match=reason):
        state_of(path)


@pytest.mark.parametrize("merges", [5, True, "a b", [1, 2]])
def test_merges_of_any_kind_are_refused(merges: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", TEXT, fields={"tokenizer.ggml.merges": merges})
    with pytest.raises(CheckpointError, match="merges are no pairs"):
        tokenizer_of(locate(str(path), "text", None))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["blk.3.attn_q.weight", "blk.0.attn_q_norm.weight", "blk.1.ffn_up.weight"])
def test_weights_that_are_no_numbers_are_refused(name: str, value: float, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        data, kind = tensors[name]
        spoiled = data.copy()
        spoiled[..., 0] = value
        tensors[name] = (spoiled, kind)

    path = written(tmp_path / "m.gguf", TEXT, changed=change)
    with pytest.raises(CheckpointError, match=r"weight.*infinite, or no numbers; fetch"):
        state_of(path)


@pytest.mark.parametrize(("value", "is_taken"), [(np.nan, True), (np.inf, False), (-np.inf, False)])
def test_a_token_may_be_no_number(value: float, is_taken: bool, tmp_path: Path) -> None:
    """One of NaN fails the prompts that hold it; an infinite one could give logits that look like any."""

    def change(tensors: Tensors) -> None:
        data, kind = tensors["token_embd.weight"]
        spoiled = data.copy()
        spoiled[700, 0] = value
        tensors["token_embd.weight"] = (spoiled, kind)

    path = written(tmp_path / "m.gguf", TEXT, changed=change)
    with nullcontext() if is_taken else pytest.raises(CheckpointError, match=r"embed_tokens\.weight: inf"):
        state_of(path)


def test_other_tokenizers_need_one_beside_them(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", TEXT, fields={"tokenizer.ggml.pre": "llama-bpe"})
    with pytest.raises(CheckpointError, match=r"rules 'llama-bpe'.*--tokenizer PATH"):
        tokenizer_of(locate(str(path), "text", None))
    assert tokenizer_of(locate(str(path), "text", None), TEXT / "tokenizer.json").size == 1006


def test_rotary_settings_are_those_of_a_checkpoint(tmp_path: Path) -> None:
    fields = {
        "qwen3.rope.scaling.type": "yarn",
        "qwen3.rope.scaling.factor": 4.0,
        "qwen3.rope.scaling.original_context_length": 1024,
    }
    checkpoint = locate(str(written(tmp_path / "m.gguf", TEXT, fields=fields)), "text", None)
    assert checkpoint.config["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
    }
    assert load(checkpoint, "text", CPU).body.rotary_emb.rope_type == "yarn"


def test_a_folder_with_one_file_is_it(tmp_path: Path) -> None:
    written(tmp_path / "m.gguf", TEXT)
    assert locate(str(tmp_path), "text", None).gguf is not None
    assert locate_files(str(tmp_path), "text", None).config["head_dim"] == 64
    (tmp_path / "n.gguf").write_bytes((tmp_path / "m.gguf").read_bytes())
    with pytest.raises(UsageError, match="holds 2 GGUF files"):
        locate(str(tmp_path), "text", None)
    shutil.copy(TEXT / "model.safetensors", tmp_path)
    assert locate(str(tmp_path), "text", None).gguf is None


def test_a_file_reads_no_images(fastqwen: Fastqwen, tmp_path: Path) -> None:
    written(tmp_path / "m.gguf", TEXT)
    write_rows(tmp_path / "in.jsonl", {"id": "1", "image": "a.jpg"})
    done = fastqwen("summarize", "in.jsonl", "--engine", "torch", "--model", "m.gguf", check=2)
    assert "reads no images" in done.stderr


@pytest.mark.parametrize("switches", [Switches(weights="4bit"), Switches(loader="unsloth")])
def test_what_is_packed_is_not_packed_again(switches: Switches, tmp_path: Path) -> None:
    checkpoint = locate(str(written(tmp_path / "m.gguf", TEXT)), "text", None)
    with pytest.raises(UsageError, match="packed as they are"):
        understand(checkpoint, switches)


@pytest.mark.parametrize(("spoiled", "status"), [("cut", 3), ("family", 3)])
def test_the_command_says_why(spoiled: str, status: int, fastqwen: Fastqwen, tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", TEXT, Kind.Q8_0)
    content = path.read_bytes()
    path.write_bytes(content[:-9] if spoiled == "cut" else content.replace(b"qwen3", b"qwenX", 1))
    write_rows(tmp_path / "in.jsonl", {"id": "1", "prompt": "A or B? ", "labels": ["A", "B"]})
    done = fastqwen(
        "probs", "in.jsonl", "-o", "out.jsonl", "--engine", "torch", "--model", "m.gguf", check=status
    )
    assert "m.gguf" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
