"""Reads a prompt file: the one place where `--prompt-file` becomes text."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tgi_stack.errors import PromptFileError
from tgi_stack.prompting import prompts
from tgi_stack.settings import Settings
from tgi_stack.text_files import TextFileError, read_text


def read_template(settings: Settings, allowed: frozenset[str]) -> str | None:
    """The text of --prompt-file, looked at before anything is loaded; None without one.

    Raises:
        PromptFileError: it can't be read, or see `prompts.check_template`.
    """
    if settings.prompt_file is None:
        return None
    text = text_of(settings.prompt_file)
    prompts.check_template(text, settings.instruction, allowed)
    return text


def text_of(path: Path) -> str:
    """What stands in a prompt file.

    Raises:
        PromptFileError: it can't be read.
    """
    try:
        return read_text(path)
    except OSError as error:
        raise PromptFileError(f"--prompt-file {path}: {error.strerror}") from error
    except TextFileError as error:
        raise PromptFileError(f"--prompt-file {path}: {error}") from error


def digest_of(template: str) -> str:
    """What tells a prompt file's text from another: of what was read, since a pipe can't be read twice."""
    return hashlib.sha256(template.encode()).hexdigest()
