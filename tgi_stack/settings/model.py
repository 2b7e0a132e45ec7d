"""The settings of a run: frozen, each value of the type and within the bounds that were declared."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationInfo, field_validator, model_validator

from cache.tier.address import parse
from tgi_stack.declared.option import declared
from tgi_stack.declared.run import ITEM_FIELDS, MOST, Fields
from tgi_stack.declared.runner import workers_of
from tgi_stack.redaction import keep_secret
from tgi_stack.settings.written import bytes_of, memory_of, split

DATA_FIELD = re.compile(r"data(\.[^.]+)+", re.DOTALL)
# A folder, a file or a name.
NAMED = ("--model", "--text-model", "--vision-model", "--tokenizer", "--schema")


# `BaseModel.schema` is an old name of `model_json_schema`, which nobody calls here.
warnings.filterwarnings("ignore", 'Field name "schema"', UserWarning)


class Settings(Fields, BaseModel):  # type: ignore[misc]
    """Every field is an option, a variable `FASTQWEN_NAME` and a key of `fastqwen.toml`; see `Fields`."""

    # A value may be a URL with a password: `loading` says what is wrong with it, and blots it out.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)
    _file: Path | None = PrivateAttr(None)  # that settings were read from

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
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("--client-key is the key of a certificate; give --client-cert as well")
        if self.mode == "pointwise" and (self.permutations > 1 or self.window is not None):
            raise ValueError("--permutations and --window are for --mode listwise")
        return self

    @field_validator("item_fields", "labels", "endpoint", "text_endpoints", "vision_endpoints", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        return split(value)

    @field_validator("*")
    @classmethod
    def _named(cls, value: object, info: ValidationInfo) -> object:
        # A settings file can hold one; every call that opens a file would end in a ValueError.
        if (isinstance(value, Path) or info.field_name == "schema") and "\0" in str(value):
            raise ValueError("no file's name holds a NUL character")
        return value

    @field_validator("item_fields")
    @classmethod
    def _fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in ITEM_FIELDS and not DATA_FIELD.fullmatch(name):
                raise ValueError(f"{name!r} is none of {', '.join(ITEM_FIELDS)}, data.NAME")
        return value

    @field_validator("workers")
    @classmethod
    def _workers(cls, value: str | None) -> str | None:
        if value is not None:
            workers_of(value)
        return value

    @field_validator("workers", "gpu_memory", mode="before")
    @classmethod
    def _one_number(cls, value: object) -> object:
        return str(value) if type(value) in (int, float) else value  # as a file or Python gives it

    @field_validator("cache_tier")
    @classmethod
    def _tier(cls, value: str | None) -> str | None:
        if value not in (None, "off"):
            keep_secret(parse(value).password)
        return value

    @field_validator("gpu_memory")
    @classmethod
    def _memory(cls, value: str | None) -> str | None:
        if value is not None:
            memory_of(value, MOST)
        return value

    @field_validator("cache_size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        return bytes_of(value) if isinstance(value, str) else value

    @property
    def files(self) -> list[tuple[str, Path]]:
        """The files that are read, and the option that names each; a checkpoint's files under its own."""
        named = [(one.flag, getattr(self, one.name)) for one in declared(Fields).values()]
        files = [(flag, path) for flag, path in named if isinstance(path, Path) and flag != "--cache-dir"]
        for flag, name in named:
            if flag in NAMED and name is not None:
                files += [(flag, path) for path in _files_of(Path(name))]
        return files if self._file is None else [*files, ("--config", self._file)]


def _files_of(path: Path) -> list[Path]:
    """The files of a checkpoint, or of a tokenizer; none for an id."""
    try:
        return sorted(path.iterdir()) if path.is_dir() else [path] * path.is_file()
    except OSError:  # no folder of ours, or an id that no name of a file can be
        return []
