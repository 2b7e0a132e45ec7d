"""Questions whose answers are known, to try a server with."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from tgi_stack.errors import MachineError
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting import prompts
from tgi_stack.prompting.labels import Prover
from tgi_stack.prompting.profile import Profile
from tgi_stack.types import CaptionRequest, PreparedImage, ScoreRequest

KNOWN_LABELS = ("A", "B", "C", "D", "E")
KNOWN_ANSWER = 2
KNOWN_QUESTION = f"Write the letter {KNOWN_LABELS[KNOWN_ANSWER]} and nothing else."


def label_request(profile: Profile, question: str, labels: Sequence[str]) -> ScoreRequest:
    """One user turn, and labels proven to be one token after it.

    Raises:
        LabelError: a label is not.
    """
    tokenizer = profile.tokenizer
    prompt, ids = profile.turn(question)
    ending = (profile.tail(), tokenizer.encode(profile.tail()))
    return ScoreRequest(prompt, ids, tuple(labels), Prover(tokenizer).ids(tuple(labels), ending))


def picture_request(
    profile: Profile, width: int, height: int, max_side_px: int, new_tokens: int
) -> tuple[CaptionRequest, PreparedImage]:
    """A question about a red picture of a size, as `summarize` would send it."""
    if profile.grid is None:
        raise MachineError("this model reads no images")
    picture = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(picture, "JPEG")
    image = prepare(picture.getvalue(), "a red picture", profile.grid, max_side_px=max_side_px)
    body = "What colour is this picture?"
    visual = [profile.grid.tokens(image.sent_width, image.sent_height)]
    prompt, ids = profile.turn(prompts.IMAGE_MARK + body, visual)
    return CaptionRequest(prompt, body, ids, image, new_tokens), image
