"""Whether a server truly answers: one scored token whose answer is known, and for vision a picture."""

from __future__ import annotations

import io
import time

from PIL import Image

from tgi_stack.backends.served import ServedBackend
from tgi_stack.backends.serving import open_served
from tgi_stack.errors import ServerError
from tgi_stack.images.prepare import prepare
from tgi_stack.labels import Prover
from tgi_stack.settings import Settings
from tgi_stack.types import CaptionRequest, ScoreRequest

KNOWN = "Write the letter C and nothing else."
LABELS = ("A", "B", "C", "D", "E")
ANSWER = 2
PATIENCE_S = 10.0
PICTURE_PX = 448
PICTURE_TOKENS = 16


async def prove(url: str, kind: str, model: str, revision: str) -> float:
    """Asks as a job would: the seconds it took.

    Raises:
        FastqwenError: it does not answer, or not as it must.
    """
    began = time.monotonic()
    asked = {"endpoint": (url,), "model": model, "startup_timeout": PATIENCE_S}
    if revision != "main":
        asked["revision"] = revision
    chosen = Settings.model_validate(asked)
    backend = await open_served(chosen, kind, lambda line: None, patience_s=0.0)
    try:
        await _read(backend, url)
        if kind == "vision":
            await _look(backend, url)
    finally:
        await backend.aclose()
    return time.monotonic() - began


async def _read(backend: ServedBackend, url: str) -> None:
    tokenizer = backend.profile.tokenizer
    prompt, ids = backend.profile.turn(KNOWN)
    ending = (backend.profile.tail, tokenizer.encode(backend.profile.tail))
    scores = await backend.score(
        ScoreRequest(prompt, ids, LABELS, Prover(tokenizer.encode).ids(LABELS, ending))
    )
    best = max(range(len(LABELS)), key=scores.logprobs.__getitem__)
    if best != ANSWER:
        raise ServerError(f"{url}: asked to write {LABELS[ANSWER]}, it would write {LABELS[best]}")


async def _look(backend: ServedBackend, url: str) -> None:
    grid = backend.profile.grid
    if grid is None:
        raise ServerError(f"{url}: {backend.identity.model} reads no images")
    picture = io.BytesIO()
    Image.new("RGB", (PICTURE_PX, PICTURE_PX), "red").save(picture, "JPEG")
    image = prepare(picture.getvalue(), "a red picture", grid, max_side_px=PICTURE_PX)
    body = "What colour is this picture?"
    prompt, ids = backend.profile.turn(body, grid.tokens(image.sent_width, image.sent_height))
    caption = await backend.caption(CaptionRequest(prompt, body, ids, image, PICTURE_TOKENS))
    if not caption.text:
        raise ServerError(f"{url}: no word about a picture")
