"""Whether a tokenizer is the one of its model: found out before the first row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgi_stack.errors import MachineError, UsageError
from tgi_stack.prompting import prompts
from tgi_stack.prompting.tokenizer import Tokenizer

if TYPE_CHECKING:  # the processes that prepare rows need no hub, which takes as long to import as all else
    from tgi_stack.hub import Checkpoint


def tokenizer_of(checkpoint: Checkpoint, given: Path | None = None) -> Tokenizer:
    """The tokenizer of a model.

    Args:
        given: the file that stands in for the model's own.

    Raises:
        CheckpointError: none, or another one than a GGUF file holds.
        MachineError: a file that can't be read.
    """
    path, held = given or checkpoint.tokenizer_file, checkpoint.gguf
    if held is None:
        if path is None:
            raise MachineError(f"{checkpoint.name} has no tokenizer.json")
        return Tokenizer(path)
    from tgi_stack.checkpoints.gguf.tokenizer import refuse_another, tokenizer_json

    if path is not None:
        tokenizer = Tokenizer(path)
        refuse_another(held, str(path), tokenizer.content, tokenizer.vocabulary)
        return tokenizer
    return Tokenizer.of(tokenizer_json(held), f"the tokenizer in {held.path}")


def refuse_another_vocabulary(tokenizer: Tokenizer, name: str, config: Mapping[str, Any]) -> None:
    """Raises UsageError for a tokenizer that is not of the model which a config.json describes.

    Args:
        name: where the tokenizer was read.
    """
    if str(config.get("model_type")).startswith("qwen"):
        refuse_missing_marks(tokenizer, name, images="image_token_id" in config)
    for text, id in tokenizer.declared.items():
        if tokenizer.added_tokens.get(text) != id:
            found = tokenizer.added_tokens.get(text)
            raise UsageError(
                f"{name} says id {id} of {text}, which is read as {found}: tokens are missing before it; "
                "give the model's own"
            )
    text_config = config.get("text_config")
    size = (text_config if isinstance(text_config, dict) else config).get("vocab_size")
    if isinstance(size, int) and tokenizer.size > size:
        raise UsageError(f"{name} has {tokenizer.size:,} tokens, the model only {size:,}; give its own")
    image, mark = config.get("image_token_id"), tokenizer.encode(prompts.IMAGE_PAD)
    if isinstance(image, int) and len(mark) == 1 and mark[0] != image:
        raise UsageError(
            f"{name} gives {prompts.IMAGE_PAD} the id {mark[0]}, config.json {image}; give the model's own"
        )


def refuse_missing_marks(tokenizer: Tokenizer, name: str, *, images: bool) -> None:
    """Raises UsageError for a tokenizer that lacks a mark of the turns that are written for a model.

    Args:
        name: what to call it in the message.
        images: whether images will stand in them.
    """
    marks = [prompts.TURN_START, prompts.TURN_END]
    marks += [prompts.VISION_START, prompts.IMAGE_PAD, prompts.VISION_END] if images else []
    missing = [mark for mark in marks if len(tokenizer.encode(mark)) != 1]
    if missing:
        raise UsageError(
            f"{name} lacks {' and '.join(missing)}, which prompts for this model need; "
            "give the model's own: --tokenizer PATH"
        )
