"""Where settings come from: flags over `FASTQWEN_*` variables over `fastqwen.toml` over defaults.

They are built once, frozen and handed down. Keys, proxies, the terminal and folders of other programs have
variables that are no settings: whoever needs one reads it (docs/reference.md lists them).
"""

from __future__ import annotations

import difflib
import logging
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from tgi_stack.declared.option import declared
from tgi_stack.declared.run import Fields
from tgi_stack.errors import SettingsError
from tgi_stack.redaction import keep_user, redact
from tgi_stack.settings.model import Settings
from tgi_stack.text_files import read_text
from tgi_stack.words import VARIABLES

LOG = logging.getLogger(__name__)

FILE = "fastqwen.toml"
FILE_BYTES = 2**16  # tomllib takes the square of a key's parts
SHOWN = 80  # characters of a value that will not do
PREFIX = "FASTQWEN_"
URLS = ("endpoint", "cache_tier", "proxy", "ray_address")  # a user and a password may stand in these


@dataclass(frozen=True, slots=True)
class Given:
    """A value that somebody gave, and where it stands: an option, a variable or a file's name."""

    value: Any
    place: str


def given(
    flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, file: Path | None = None
) -> dict[str, Given]:
    """What was given of the settings, by name; the others have their defaults. See `load`.

    Raises:
        SettingsError: an unreadable file, an unknown key (with the nearest one), true or false for a number.
    """
    known = declared(Fields)
    found = {name: Given(value, str(file or FILE)) for name, value in _from_file(file).items()}
    for name in known:
        variable = PREFIX + name.upper()
        if variable in environ:
            found[name] = Given(environ[variable], variable)
    told = {name: Given(value, known[name].flag) for name, value in flags.items() if value is not None}
    for name, one in (found | told).items():
        if isinstance(one.value, bool) and not _takes_booleans(name):
            said = str(one.value).lower()
            raise SettingsError(f"{one.place}: `{name}` is {said}; it is no switch, give its value")
    for name in URLS:
        for value in _texts((found | told).get(name)):
            keep_user(value)
    return found | told


def _texts(one: Given | None) -> list[str]:
    value = None if one is None else one.value
    several = value if isinstance(value, list | tuple) else (value,)
    return [text for text in several if isinstance(text, str)]


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, file: Path | None = None
) -> Settings:
    """The settings of a run.

    Args:
        flags: options that were given on the command line; None means not given.
        file: a settings file; without it `fastqwen.toml` in the current folder, if there is one.

    A variable that is none of ours is told with the nearest one: another version or program may know it.

    Raises:
        SettingsError: an unreadable file, an unknown key (with the nearest one), a value that won't do.
    """
    found = given(flags, environ, file)
    _tell_unknown(environ)
    try:
        settings = Settings(**{name: one.value for name, one in found.items()})
        settings._file = file or (Path(FILE) if Path(FILE).is_file() else None)
        return settings
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise SettingsError(said) from error
        name = str(first["loc"][0])
        flag = declared(Fields)[name].flag
        place = "" if found[name].place == flag else f" in {found[name].place}"
        raise SettingsError(f"{flag}: {said} (got {_shown(first['input'])}{place})") from error


def _shown(value: Any) -> str:
    said = redact(repr(value))
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}..."


def _tell_unknown(environ: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in declared(Fields)} | VARIABLES.keys()
    for name in sorted(name for name in environ if name.startswith(PREFIX) and name not in known):
        near = _nearest(name, (one for one in known if one.startswith(PREFIX)))
        LOG.warning(f"{name} is not a variable of fastqwen and changes nothing; did you mean {near}?")


def _nearest(name: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or Path(FILE)
    if file is None and not path.is_file():
        return {}
    try:
        values = tomllib.loads(read_text(path, FILE_BYTES))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of tomllib, of text_files, of a number of 5,000 digits
        raise SettingsError(f"{path}: {error}") from error
    known = declared(Fields)
    found: dict[str, Any] = {}
    for given_name, value in values.items():
        name = given_name.replace("-", "_")
        if name not in known:
            raise SettingsError(f"{path}: unknown key `{name}`; did you mean `{_nearest(name, known)}`?")
        if name in found:
            raise SettingsError(f"{path}: `{name}` stands twice, with - and with _; leave one of them out")
        found[name] = value
    return found


def _takes_booleans(name: str) -> bool:
    """Whether true and false are values of a setting: where they are not, true would be read as 1."""
    kinds = get_args(annotation := Settings.model_fields[name].annotation)
    return bool in (annotation, *kinds)
