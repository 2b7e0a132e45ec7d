"""What a run was asked to do: flags over `FASTQWEN_*` variables over `fastqwen.toml` over defaults.

Built once, frozen and handed down; nothing else reads the environment.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from tgi_stack.errors import SettingsError
from tgi_stack.redaction import redact
from tgi_stack.text_files import TextFileError, read_text

FILE = "fastqwen.toml"
DEFAULT_ENDPOINTS = {"text": "http://127.0.0.1:8080", "vision": "http://127.0.0.1:8081"}
LISTS = ("item_fields", "labels", "endpoint", "text_endpoints", "vision_endpoints")
PREFIX = "FASTQWEN_"
ItemField = Literal["title", "summary", "text"]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
MOST = 2**63 - 1  # of counts that have no bound of their own


class Settings(BaseModel):
    """Every key is an option of the command line under the same name, with underscores."""

    # Built at first use: `--help` needs no validator.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    _file: Path | None = PrivateAttr(None)  # that settings were read from

    engine: Literal["auto", "tgi", "vllm", "torch", "scripted"] = "auto"
    endpoint: tuple[str, ...] = ()
    text_endpoints: tuple[str, ...] = ()
    vision_endpoints: tuple[str, ...] = ()
    api_key_file: Path | None = None
    ca_file: Path | None = None
    startup_timeout: float = Field(600.0, ge=0.0, le=86400.0, allow_inf_nan=False)
    model: str | None = None
    text_model: str | None = None
    vision_model: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    device: str = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    quantization: Literal["none", "8bit", "4bit", "fp8"] | None = None
    loader: Literal["transformers", "unsloth"] = "transformers"
    use_quantization: bool = False
    use_torch_compile: bool = False
    use_flash_attention: bool = False
    semantic_summary_batch_size: BatchSize | Literal["auto"] = "auto"
    llm_batch_size: BatchSize | Literal["auto"] = "auto"

    prompt_file: Path | None = None
    instruction: str | None = None
    max_new_tokens: int = Field(128, ge=1, le=32768)
    max_side: int = Field(448, ge=1, le=16384)
    temperature: float = Field(0.0, ge=0.0, le=10.0, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, lt=2**53)
    allow_text_only: bool = False
    allow_truncated: bool = False

    item_fields: tuple[ItemField, ...] = Field(("title", "summary", "text"), min_length=1)
    max_history: int = Field(20, ge=0, le=MOST)
    max_item_tokens: int = Field(128, ge=1, le=MOST)
    item_images: bool = False
    mode: Literal["listwise", "pointwise"] = "listwise"
    permutations: int = Field(1, ge=1, le=1000)
    calibrate: bool = False
    window: int | None = Field(None, ge=2, le=MOST)
    stride: int | None = Field(None, ge=1, le=MOST)
    label_mass: bool = False
    fallback: Literal["torch", "bounds", "fail"] | None = None

    labels: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(None, min_length=1)
    label_prefix: str = Field("", max_length=64)
    merging_labels: Literal["refuse", "read"] = "refuse"
    chat: bool = False

    cache_dir: Path | None = None
    no_cache: bool = False
    cache_size: int | None = Field(None, ge=10**6, le=MOST)
    offline: bool = False
    dry_run: bool = False

    overwrite: bool = False
    unordered: bool = False
    skip_bad_rows: bool = False
    limit: int | None = Field(None, ge=0, le=MOST)
    concurrency: int | None = Field(None, ge=1, le=MOST)

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if self.use_quantization and self.quantization not in (None, "4bit"):
            raise ValueError(
                f"--use-quantization means 4bit, but --quantization is {self.quantization}; give one of them"
            )
        if self.stride is not None and self.window is None:
            raise ValueError("--stride is the step of windows; give --window as well")
        if self.stride is not None and self.window is not None and self.stride > self.window:
            raise ValueError("--stride is at most --window, or candidates between windows are never read")
        if self.mode == "pointwise" and (self.permutations > 1 or self.window is not None):
            raise ValueError("--permutations and --window are for --mode listwise")
        return self

    @field_validator("cache_size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        return bytes_of(value) if isinstance(value, str) else value

    @property
    def files(self) -> dict[str, Path]:
        """The files that are read, by the option that names each."""
        named = {name: getattr(self, name) for name in type(self).model_fields if name != "cache_dir"}
        files = {f"--{name.replace('_', '-')}": v for name, v in named.items() if isinstance(v, Path)}
        return files if self._file is None else files | {"--config": self._file}

    def model_for(self, kind: str) -> str | None:
        """The model named for a job of `kind` `text` or `vision`, or None for the default."""
        return self.model or (self.vision_model if kind == "vision" else self.text_model)

    @property
    def names_endpoints(self) -> bool:
        """Whether the user named any endpoint."""
        return bool(self.endpoint or self.text_endpoints or self.vision_endpoints)

    def endpoints_for(self, kind: str) -> tuple[str, ...]:
        """The servers for a job of `kind`; without any, where `make up` puts them."""
        named = self.endpoint or (self.vision_endpoints if kind == "vision" else self.text_endpoints)
        return named or (DEFAULT_ENDPOINTS[kind],)

    def batch_size_for(self, kind: str) -> int | None:
        """Prompts, or images, in a batch; None for as many as suit who computes."""
        size = self.semantic_summary_batch_size if kind == "vision" else self.llm_batch_size
        return None if size == "auto" else size

    @property
    def weights(self) -> str:
        """How weights are kept: `none` (as they are), `8bit`, `4bit` or `fp8`."""
        return self.quantization or ("4bit" if self.use_quantization else "none")


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, file: Path | None = None
) -> Settings:
    """The settings of a run.

    Args:
        flags: options that were given on the command line; None means not given.
        file: a settings file; without it `fastqwen.toml` in the current folder, if there is one.

    Raises:
        SettingsError: an unreadable file, an unknown key (with the nearest one), a value that won't do.
    """
    values = _from_file(file) | _from_environment(environ)
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**values)
        settings._file = file or (Path(FILE) if Path(FILE).is_file() else None)
        return settings
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise SettingsError(first["msg"].removeprefix("Value error, ")) from error
        name = str(first["loc"][0])
        raise SettingsError(
            f"--{name.replace('_', '-')}: {first['msg']} (got {redact(repr(first['input']))})"
        ) from error


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or Path(FILE)
    if file is None and not path.is_file():
        return {}
    try:
        values = tomllib.loads(read_text(path))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, TextFileError, RecursionError) as error:
        raise SettingsError(f"{path}: {error}") from error
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name in values:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.0)[0]
            raise SettingsError(f"{path}: unknown key `{name}`; did you mean `{near}`?")
    return values


def bytes_of(value: str) -> int:
    """A number of bytes such as `500MB`, `20 GiB` or `1048576`.

    Raises:
        ValueError: it is none.
    """
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if found is None or found[2].upper() not in units:
        raise ValueError("give a size such as 500MB or 20GiB")
    return int(float(found[1]) * units[found[2].upper()])


def split(value: str) -> tuple[str, ...]:
    """`A,B,C` as its parts; of nothing none."""
    return tuple(value.split(",")) if value else ()


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        value = environ.get(PREFIX + name.upper())
        if value is not None:
            values[name] = split(value) if name in LISTS else value
    return values
