"""Flags over variables over the file over defaults; an unknown key names the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Fastqwen
from tgi_stack import settings
from tgi_stack.errors import SettingsError


def test_flags_beat_variables_beat_the_file_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('model = "from-file"\nmax-side = 224\ndtype = "bf16"\n')
    environ = {"FASTQWEN_MODEL": "from-variable", "FASTQWEN_MAX_SIDE": "320"}
    chosen = settings.load({"model": "from-flag", "seed": None}, environ, file)
    assert (chosen.model, chosen.max_side, chosen.dtype) == ("from-flag", 320, "bf16")
    assert chosen.new_tokens == 128


def test_switches_are_true_or_false(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("chat = true\nlabel-mass = false\n")
    chosen = settings.load({}, {}, file)
    assert (chosen.chat, chosen.label_mass) == (True, False)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.load({}, {}).model = "other"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_sid = 1", "unknown key `max_sid`; did you mean `max_side`"),
        ("seed = 1\nmax_side = = 2", r"s\.toml: .*line 2"),
        ("max_side = 'wide'", "--max-side"),
        ("dtype = 'int3'", "--dtype"),
        ("max-side = 1\nmax_side = 2", "`max_side` stands twice"),
        ("limit = true", "`limit` is true; it is no switch"),
        ("temperature = false", "`temperature` is false"),
        (f"limit = {'1' * 5000}", r"s\.toml: .*digits"),
        ("limit" + ".a" * 40_000 + " = 1", "more than 65,536 bytes"),
        ("limit = " + "[" * 30_000, r"s\.toml: .*recursion"),
        ('prompt_file = "a\\u0000b"', "--prompt-file: no file's name holds a NUL"),
        ('cache_dir = "a\\u0000b"', "--cache-dir: no file's name holds a NUL"),
        ('schema = "a\\u0000b"', "--schema: no file's name holds a NUL"),
        (f"cache_size = '{'9' * 400}'", "--cache-size: no machine holds that much.*9{79}[.][.][.] in"),
        (f"gpu_memory = {'9' * 400}", "--gpu-memory: no machine holds that much"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, content: str, message: str) -> None:  # C05
    file = tmp_path / "s.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=message):
        settings.load({}, {}, file)


@pytest.mark.parametrize(
    ("name", "near"),
    [("FASTQWEN_MAX_SIDES", "FASTQWEN_MAX_SIDE"), ("FASTQWEN_APIKEY", "FASTQWEN_API_KEY")],
)
def test_an_unknown_variable_is_told_with_the_nearest(said: list[str], name: str, near: str) -> None:
    known = {"FASTQWEN_SEED": "1", "FASTQWEN_API_KEY": "k", "FASTQWEN_CACHE_GROUP": "1", "FAST": "x"}
    assert settings.load({}, known | {name: "7"}) == settings.load({}, known)
    assert said == [f"{name} is not a variable of fastqwen and changes nothing; did you mean {near}?"]


def test_an_unknown_variable_is_told_once(fastqwen: Fastqwen, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("seed = 1\n")
    done = fastqwen("settings", "--config", tmp_path / "s.toml", FASTQWEN_MODL="tiny")
    assert done.stderr.count("FASTQWEN_MODL is not a variable") == 1


def test_a_missing_file_fails_only_where_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        settings.load({}, {}, tmp_path / "gone.toml")


@pytest.mark.parametrize("value", ["0", "-1", "1e9", "nan"])
def test_concurrency_is_a_number_that_makes_sense(value: str) -> None:  # C02
    with pytest.raises(SettingsError, match="--concurrency"):
        settings.load({}, {"FASTQWEN_CONCURRENCY": value})


def test_each_job_has_its_model_and_batch_size() -> None:
    chosen = settings.load({"text_model": "t", "vision_model": "v", "llm_batch_size": 3}, {})
    assert (chosen.model_for("text"), chosen.model_for("vision")) == ("t", "v")
    assert (chosen.batch_size_for("text"), chosen.batch_size_for("vision")) == (3, None)


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        ({}, "none"),
        ({"use_quantization": True}, "4bit"),
        ({"use_quantization": True, "quantization": "4bit"}, "4bit"),
        ({"quantization": "fp8"}, "fp8"),
    ],
)
def test_the_seeds_switch_means_4bit(flags: dict[str, Any], weights: str) -> None:
    assert settings.load(flags, {}).weights == weights


@pytest.mark.parametrize("other", ["8bit", "fp8", "none"])
def test_two_ways_to_keep_weights_are_refused(other: str) -> None:
    with pytest.raises(SettingsError, match=f"--use-quantization means 4bit, but --quantization is {other}"):
        settings.load({"use_quantization": True, "quantization": other}, {})


@pytest.mark.parametrize("value", ["0", "-3", "some", "5000"])
def test_a_batch_size_is_a_number_or_auto(value: str) -> None:
    assert settings.load({"llm_batch_size": "auto"}, {}).batch_size_for("text") is None
    assert settings.load({"llm_batch_size": "16"}, {}).batch_size_for("text") == 16
    with pytest.raises(SettingsError, match="--llm-batch-size"):
        settings.load({"llm_batch_size": value}, {})


@pytest.mark.parametrize("name", ["limit", "temperature", "preparers", "model"])
def test_true_is_no_number_in_python(name: str) -> None:
    with pytest.raises(SettingsError, match=f"`{name}` is true"):
        settings.load({name: True}, {})
