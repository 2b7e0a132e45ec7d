"""Records what a real vLLM answers, for tests that run without one.

    python tests/live/record.py TEXT_URL VISION_URL

Both serve the tiny checkpoints under the name `tiny`. Each file of `tests/payloads/vllm-VERSION/` holds a
request and the reply to it, as they went over the wire; an image's bytes are cut out of a request.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.conftest import CATALOGUE, ROOT
from tgi_stack.backends.servers.protocols import vllm
from tgi_stack.backends.servers.protocols.reply import Call
from tgi_stack.backends.servers.transport import Transport
from tgi_stack.images.grid import Grid
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting import prompts
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY
from tgi_stack.types import CaptionRequest, PreparedImage, ScoreRequest

TOKENIZER = Tokenizer(TINY / "text" / "tokenizer.json")
LABELS = ("A", "B", "C")
LABEL_IDS = tuple(TOKENIZER.encode(label)[0] for label in LABELS)
NAME = "recorded"


def score_request(prompt: str, token_ids: tuple[int, ...] | None = None) -> ScoreRequest:
    return ScoreRequest(prompt, token_ids or TOKENIZER.encode(prompt), LABELS, LABEL_IDS)


def caption_request() -> CaptionRequest:
    grid = Grid.from_checkpoint(TINY / "vision")
    name = "mug-02.jpg"
    image = prepare((CATALOGUE / "images" / name).read_bytes(), name, grid, max_side_px=128)
    visual = grid.tokens(image.sent_width, image.sent_height)
    body = prompts.summary_body(None, None)
    prompt = prompts.image_turn(body, image_tokens=visual, close_thinking=False)
    return CaptionRequest(prompt, body, TOKENIZER.encode(prompt), image, 48)


def chat_score_request() -> ScoreRequest:
    image = caption_request().image
    assert image is not None
    parts: tuple[str | PreparedImage, ...] = ("A. ", image, " red\nB. ", image, " blue\nC. none. Which?")
    visual = Grid.from_checkpoint(TINY / "vision").tokens(image.sent_width, image.sent_height)
    body = prompts.IMAGE_MARK.join(part for part in parts if isinstance(part, str))
    prompt = prompts.user_turn(prompts.place_images(body, [visual, visual]), close_thinking=False)
    return ScoreRequest(prompt, TOKENIZER.encode(prompt), LABELS, LABEL_IDS, parts)


def calls() -> dict[str, tuple[str, Call]]:
    """Each recording's name, the kind of server it is asked of, and the request."""
    one, two = score_request("Which? Answer A, B or C:\n"), score_request("And now? A, B or C:\n")
    good = vllm.score_call([one], "tiny", NAME)
    unknown = vllm.score_call([one], "another", NAME)
    long = vllm.score_call([score_request("", (11,) * 3000)], "tiny", NAME)
    picture = vllm.caption_call(caption_request(), "tiny", NAME, closes_thinking=False)
    broken = json.loads(json.dumps(picture.body))
    broken["messages"][0]["content"][0]["image_url"]["url"] = "data:image/jpeg;base64,AAAA"
    return {
        "scores": ("text", good),
        "scores-of-two": ("text", vllm.score_call([one, two], "tiny", NAME)),
        "top-logprobs": ("text", vllm.score_call([one], "tiny", NAME, top=20)),
        "unknown-model": ("text", unknown),
        "too-long": ("text", long),
        "too-many-logprobs": ("text", vllm.score_call([one], "tiny", NAME, top=21)),
        "chat-with-image": ("vision", picture),
        "chat-scores": (
            "vision",
            vllm.chat_score_call(chat_score_request(), "tiny", NAME, closes_thinking=False),
        ),
        "broken-image": ("vision", Call(picture.path, broken, 0, picture.headers)),
    }


async def record(urls: dict[str, str]) -> None:
    transport = Transport()
    try:
        version = json.loads((await transport.get(f"{urls['text']}/version", 10)).body)["version"]
        folder = ROOT / "tests" / "payloads" / f"vllm-{version.partition('+')[0]}"
        folder.mkdir(exist_ok=True)
        for path in ("/v1/models", "/version", "/metrics"):
            reply = await transport.get(urls["text"] + path, 10)
            _write(
                folder / f"{path.rpartition('/')[2]}.json", version, {"path": path}, reply.status, reply.body
            )
        for name, (kind, call) in calls().items():
            reply = await transport.post(urls[kind], call, 120)
            asked = {"path": call.path, "headers": call.headers, "body": call.body}
            print(name, reply.status)
            _write(folder / f"{name}.json", version, asked, reply.status, reply.body)
    finally:
        await transport.aclose()


def _write(path: Path, version: str, request: dict[str, Any], status: int, body: bytes) -> None:
    text = body.decode()
    if path.stem == "metrics":
        text = "".join(line for line in text.splitlines(True) if "num_requests" in line)
    # Where the checkpoint lay when this was recorded is nobody's business.
    text = re.sub(r'"(/[^"]*)?/tgi_stack/tiny/', '"/models/tiny/', text)
    sent = re.sub(r"(base64,)[A-Za-z0-9+/=]{100,}", r"\1...", json.dumps(request))
    value = {"server": f"vllm {version}", "request": json.loads(sent), "status": status, "body": text}
    path.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(record({"text": sys.argv[1], "vision": sys.argv[2]}))
