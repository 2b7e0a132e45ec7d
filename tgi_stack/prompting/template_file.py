"""Reads a prompt file: the one place where `--prompt-file` becomes text."""

from __future__ import annotations

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
    try:
        text = read_text(settings.prompt_file)
    except OSError as error:
        raise PromptFileError(f"--prompt-file {settings.prompt_file}: {error.strerror}") from error
    except TextFileError as error:
        raise PromptFileError(f"--prompt-file {settings.prompt_file}: {error}") from error
    prompts.check_template(text, settings.instruction, allowed)
    return text
