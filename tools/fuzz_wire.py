"""Spoils replies of all dialects at random and reads them: an answer or an error of the row comes out.

    python tools/fuzz_wire.py --cases 100000 [--seed 1]

A sound reply of the loopback server is taken, and something in it is replaced, taken away, doubled, wrapped
or cut: JSON, bytes, status or headers. What is read is held to what a record may hold.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.loopback import GRID, TOKENIZER, Loopback, RefusedError
from tgi_stack.backends.servers import retry
from tgi_stack.backends.servers.dialects import DIALECTS, Reading
from tgi_stack.backends.servers.endpoints import Endpoint, Limit
from tgi_stack.backends.servers.protocols import sglang, tgi, vllm
from tgi_stack.backends.servers.protocols.numbers import NOT_SEEN, SUM_TOLERANCE, ReplyError
from tgi_stack.backends.servers.protocols.reply import Call, Served, error_text, gauge
from tgi_stack.backends.servers.question import Answer, Question
from tgi_stack.backends.servers.transport import Reply
from tgi_stack.errors import AnswerError, RowError
from tgi_stack.images.prepare import prepare
from tgi_stack.prompting import prompts
from tgi_stack.prompting.profile import Profile
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, PreparedImage, ScoreRequest

NAME = f"{4242:014x}"
LABELS = ("A", "B", "C")
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.5, 1e-4, 2, -9999.0, -9999, -65504.0, -701.0, -3.4e38, -1e39,
    1e39, 1e308,
    float("nan"), float("inf"), float("-inf"), 2**31, 2**63, 2**64, -(2**63), -(10**400), 10**4299, "",
    "A", "-0.5",
    "NaN", "\ud800", "\x00\x1b[31m", "x" * 300, "token_id:32", "token_id:-1", "token_id:٣",
    "token_id:" + "9" * 30,
    [], [[]], [None], {}, {"": None}, {"error": "x"}, [{}], [[{}]], {"id": 1}, "length", "stop",
    "eos_token", 4242,
)  # fmt: skip
HEADERS = ("x-prompt-tokens", "Retry-After", "Date", "Location", "Content-Type")
VALUES = (
    "", "0", "-3", "31", "1e9", "nan", "inf", "0.01", "-", "+5", "\ud800", "9" * 400, "x" * 500,
    "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Foo 0 99:99:99", "Sun, 06 Nov 1994 08:49:37 -0000",
    "Mon, 01 Jan 0001 00:00:00 +2359",
)  # fmt: skip


@dataclass
class Spoiler:
    """Gives sound replies, or spoilt ones; `spoilt` holds back how much."""

    rng: random.Random
    base: dict[str, tuple[int, dict[str, str], Any]] = field(default_factory=dict)

    def reply(self, server: Loopback, call: Call) -> Reply:
        """A reply to a call, spoilt more or less."""
        manner = f"{server.dialect} {server.kernels} {server.half} {server.scores_items}"
        key = f"{manner} {call.path} {json.dumps(call.body)}"
        if key not in self.base:
            headers = {name.lower(): value for name, value in call.headers.items()}
            try:
                self.base[key] = (200, *server._answer(call.path, call.body, headers))
            except RefusedError as refusal:
                self.base[key] = (refusal.status, {}, refusal.body)
        status, headers, value = self.base[key]
        headers, value = dict(headers), copy.deepcopy(value)
        for _ in range(self.rng.choice((0, 1, 1, 1, 2, 3, 8))):
            value = self._changed(value)
        if self.rng.random() < 0.1:
            status = self.rng.choice((204, 301, 400, 404, 424, 429, 500, 503, 599, 999))
        return Reply(status, self._headers(headers), self._bytes(value), lambda: None)

    def _changed(self, value: Any) -> Any:
        places = list(_places(value))
        if not places:
            return self.rng.choice(ODD)
        holder, key = self.rng.choice(places)
        what = self.rng.randrange(7)
        if what == 0:
            del holder[key]
        elif what == 1:
            holder[key] = [holder[key]]
        elif what == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif what == 3 and isinstance(holder, dict):
            holder[str(self.rng.choice(ODD))] = holder[key]
        elif what == 4 and isinstance(holder[key], float):
            holder[key] = holder[key] * self.rng.choice((0, -1, 0.9, 1.01, 1e3, 1e300))
        else:
            holder[key] = copy.deepcopy(self.rng.choice(ODD))
        return value

    def _bytes(self, value: Any) -> bytes:
        sys.set_int_max_str_digits(0)
        body = json.dumps(value, ensure_ascii=self.rng.random() < 0.5).encode("utf-8", "surrogatepass")
        sys.set_int_max_str_digits(4300)
        what = self.rng.randrange(40)
        if what == 0:
            return body[: self.rng.randrange(len(body) + 1)]
        if what == 1:
            return self.rng.randbytes(self.rng.randrange(64))
        if what == 2:
            place = self.rng.randrange(len(body))
            return body[:place] + self.rng.randbytes(2) + body[place + 1 :]
        if what == 3:
            return b"[" * 100_000
        if what == 4:
            return body.replace(b'"id"', b'"id": 3, "id"')
        return b'{"a":' * 50_000 if what == 5 else body

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        for _ in range(self.rng.choice((0, 0, 0, 1, 2))):
            name = self.rng.choice(HEADERS)
            if self.rng.random() < 0.3:
                headers.pop(name, None)
            else:
                headers[name] = self.rng.choice(VALUES)
        return headers


def _places(value: Any) -> Any:
    """Each place in a value that can be replaced: what holds it, and its key."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


# -- what is asked -------------------------------------------------------------------------------------


class Wire:
    """Asks by way of spoilt replies, as the backend does: one that is no answer fails the row."""

    def __init__(self, server: Loopback, spoiler: Spoiler) -> None:
        self._server = server
        self._spoiler = spoiler
        served = Served(server.dialect, server.model, server.model, "1", 4096)
        self.endpoint = Endpoint("http://loopback", served, Limit(8, time.monotonic))

    async def ask(self, question: Question[Answer]) -> tuple[Answer, int]:
        """The answer, after one attempt."""
        reply = self._spoiler.reply(self._server, question.call(self.endpoint, NAME))
        if reply.status != 200:
            decision = retry.of_status(reply.status)
            pause = retry.retry_after_s(reply.headers.get("Retry-After"), reply.headers.get("Date"))
            check(pause is None or 0 <= pause <= retry.MAX_RETRY_AFTER_S, f"a pause of {pause}")
            raise AnswerError("server.refused", f"{decision.name} {error_text(reply.body)}")
        try:
            return question.parse(self.endpoint, NAME, reply), 1
        except ReplyError as error:
            raise AnswerError("server.bad_response", str(error)) from error


def check(right: bool, what: str) -> None:
    """Raises AssertionError: something came out that no record may hold."""
    if not right:
        raise AssertionError(what)


def sound(found: object) -> None:
    """Raises AssertionError for an answer that is none."""
    if isinstance(found, LabelScores):
        check(all(type(x) is float and NOT_SEEN <= x <= 0.0 for x in found.logprobs), f"{found.logprobs}")
        check(math.fsum(map(math.exp, found.logprobs)) <= 1.0 + SUM_TOLERANCE or not found.exact, "over 1")
        check(found.label_mass is None or 0.0 < found.label_mass <= 1.0, f"a mass of {found.label_mass}")
    elif isinstance(found, Caption):
        check(type(found.text) is str and found.finish_reason in ("stop", "length"), f"{found}")
        check(0 <= found.completion_tokens < 2**31, f"{found.completion_tokens} tokens")
    json.dumps(str(found))


def requests() -> tuple[list[ScoreRequest], list[CaptionRequest]]:
    """Reads of labels and summaries, with pictures and without."""
    import io

    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (96, 64), "teal").save(picture, "PNG")
    image = prepare(picture.getvalue(), "a picture", GRID, max_side_px=448)
    label_ids = tuple(TOKENIZER.encode(label)[0] for label in LABELS)
    plain = prompts.user_turn("Which? A, B or C.", close_thinking=False)
    scores = [ScoreRequest(plain, TOKENIZER.encode(plain), LABELS, label_ids)]
    visual = GRID.tokens(image.sent_width, image.sent_height)
    body = f"A. {prompts.IMAGE_MARK} mug. Which?"
    seen = prompts.user_turn(prompts.place_images(body, [visual]), close_thinking=False)
    parts: tuple[str | PreparedImage, ...] = ("A. ", image, " mug. Which?")
    scores.append(ScoreRequest(seen, TOKENIZER.encode(seen), LABELS, label_ids, parts))
    turn = prompts.image_turn("Look.", image_tokens=visual, close_thinking=False)
    captions = [
        CaptionRequest(turn, "Look.", TOKENIZER.encode(turn), image, 16),
        CaptionRequest(plain, "Which? A, B or C.", TOKENIZER.encode(plain), None, 16, 0.5, 7),
    ]
    return scores, captions


def logits(ids: Any) -> Any:
    """Of a model that is sure of some tokens and of others not."""
    return np.random.default_rng(len(ids)).normal(size=TOKENIZER.size, scale=4.0)


SERVERS: list[tuple[str, dict[str, Any]]] = [
    ("tgi", {}),
    ("tgi", {"logits": logits}),
    ("tgi", {"logits": logits, "half": True}),
    ("tgi", {"logits": logits, "kernels": False}),
    ("vllm", {}),
    ("vllm", {"logits": logits, "reads_ids": False, "max_top_n": 20}),
    ("sglang", {}),
    ("sglang", {"logits": logits, "scores_items": False}),
]
PROFILE = Profile(TOKENIZER, closes_thinking=False, context=4096, grid=GRID)


def cases(spoiler: Spoiler) -> list[Callable[[], Coroutine[Any, Any, object]]]:
    """All that is asked of servers, each as one case."""
    scores, captions = requests()
    made: list[Callable[[], Coroutine[Any, Any, object]]] = []
    for dialect, options in SERVERS:
        wire = Wire(Loopback(dialect, **{"max_top_n": 20} | options), spoiler)
        masses = ("logits" in options, False) if dialect == "tgi" else (False,)
        made += [_score(wire, request, mass) for request in scores for mass in masses]
        made += [_caption(wire, request) for request in captions]
    return [*made, *_descriptions(spoiler)]


def _score(wire: Wire, request: ScoreRequest, mass: bool) -> Callable[[], Coroutine[Any, Any, object]]:
    served = wire.endpoint.served
    identity = Identity(served.dialect, served.model, "1", "none", "bf16", "0", "1")

    async def case() -> object:
        how = Reading(1, with_mass=mass)
        reads = DIALECTS[served.dialect].reads(wire.ask, served, PROFILE, identity, how)
        try:
            return await reads.score(request)
        finally:
            await reads.aclose()

    return case


def _caption(wire: Wire, request: CaptionRequest) -> Callable[[], Coroutine[Any, Any, object]]:
    dialect = DIALECTS[wire.endpoint.served.dialect]

    def call(endpoint: Endpoint, name: str) -> Call:
        return dialect.caption_call(request, endpoint.served, PROFILE, name)

    def parse(endpoint: Endpoint, name: str, reply: Reply) -> Caption:
        return dialect.parse_caption(reply, request, endpoint.served, name)

    async def case() -> object:
        return (await wire.ask(Question(call, parse)))[0]

    return case


def _descriptions(spoiler: Spoiler) -> list[Callable[[], Coroutine[Any, Any, object]]]:
    """What servers say of themselves, and their metrics."""

    def spoilt(server: Loopback, path: str) -> bytes:
        value = copy.deepcopy(server._described(path))
        for _ in range(spoiler.rng.randrange(4)):
            value = spoiler._changed(value)
        return spoiler._bytes(value)

    async def of_tgi() -> object:
        return tgi.described(spoilt(Loopback("tgi"), "/info"))

    async def of_vllm() -> object:
        server = Loopback("vllm")
        return vllm.described(spoilt(server, "/v1/models"), spoilt(server, "/version"))

    async def of_sglang() -> object:
        server = Loopback("sglang")
        return sglang.described(
            *(spoilt(server, f"/{page}") for page in ("v1/models", "model_info", "server_info"))
        )

    async def of_metrics() -> object:
        body = b"tgi_queue_size " + spoiler.rng.choice(
            (b"1", b"e", b"1e999", b".", b"+", b"0x1", spoiler.rng.randbytes(4))
        )
        return gauge(body, "tgi_queue_size")

    return [of_tgi, of_vllm, of_sglang, of_metrics]


async def fuzz(count: int, seed: int) -> Counter[str]:
    """How often each kind of outcome came.

    Raises:
        AssertionError: something else came out, with the case's number.
    """
    spoiler = Spoiler(random.Random(seed))
    kinds = cases(spoiler)
    outcomes: Counter[str] = Counter()
    for number in range(count):
        spoiler.rng.seed(f"{seed} {number}")
        try:
            found = await kinds[number % len(kinds)]()
            sound(found)
            outcomes[f"answer: {type(found).__name__}"] += 1
        except (ReplyError, RowError) as error:
            outcomes[getattr(error, "type", "no description")] += 1
        except Exception as error:
            raise AssertionError(f"case {number} of seed {seed}: {type(error).__name__}: {error}") from error
    return outcomes


def main() -> None:
    """Runs as many cases as are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    began = time.monotonic()
    for outcome, times in asyncio.run(fuzz(given.cases, given.seed)).most_common():
        print(f"{times:>10,}  {outcome}")
    print(f"{given.cases:,} cases in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
