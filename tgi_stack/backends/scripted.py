"""A backend whose answers are a pure function of the request: for tests and benchmarks of all around it.

An answer that lands in the wrong row shows in the output, runs are repeatable to the byte, and nothing is
loaded. `--model` carries the script, for example `delay_s=0.01,fail_every=7`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_stack import __version__
from tgi_stack.errors import RowError, SettingsError
from tgi_stack.images.grid import Grid
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.scoring import distributions
from tgi_stack.settings import Settings
from tgi_stack.tiny import TINY
from tgi_stack.types import Caption, CaptionRequest, Identity, LabelScores, ScoreRequest

ROUTE = "scripted"


@dataclass(frozen=True, slots=True)
class Script:
    """How the answers come: after `delay_s` seconds; every `fail_every`-th request (by digest) fails."""

    delay_s: float = 0.0
    fail_every: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Script:
        """From `name=value,...`.

        Raises:
            SettingsError: another name, or a value that is no number.
        """
        try:
            pairs = (pair.partition("=") for pair in (text or "").split(",") if pair)
            given = {name: float(value) for name, _, value in pairs}
            script = cls(given.pop("delay_s", 0.0), int(given.pop("fail_every", 0)))
        except ValueError as error:
            raise SettingsError(f"--model {text}: not of the form name=number,...") from error
        if given:
            raise SettingsError(f"--model {text}: the scripted engine takes delay_s and fail_every")
        return script


class ScriptedBackend:
    """Answers by the digest of what it was asked."""

    takes_tokens = True

    def __init__(
        self,
        script: Script,
        kind: str = "vision",
        tokenizer: Tokenizer | None = None,
        profile: Profile | None = None,
    ) -> None:
        folder = TINY / "vision"
        if profile is None:
            # Prompts are those that the tiny checkpoint of its kind would get.
            tokenizer = tokenizer or Tokenizer(folder / "tokenizer.json")
            grid = Grid.from_checkpoint(folder)
            profile = Profile(tokenizer, closes_thinking=kind == "text", context=65_536, grid=grid)
        self._script = script
        self.max_concurrency = 256  # as an engine of this process has that computes in batches
        self.profile = profile
        digest = profile.tokenizer.digest
        self.identity = Identity("scripted", "scripted", __version__, "none", "none", digest, "2")

    async def score(self, request: ScoreRequest) -> LabelScores:
        number = number_of(request.token_ids)
        if self._script.delay_s:
            await asyncio.sleep(self._script.delay_s)
        self._refuse(number)
        logprobs = label_logprobs(number, request.label_ids)
        return LabelScores(
            logprobs, "vocabulary", distributions.mass(logprobs), True, ROUTE, len(request.token_ids)
        )

    async def caption(self, request: CaptionRequest) -> Caption:
        seen = b"" if request.image is None else request.image.jpeg
        number = number_of(request.token_ids, seen)
        if self._script.delay_s:
            await asyncio.sleep(self._script.delay_s)
        self._refuse(number)
        text = summary_of(number, request.form)
        return Caption(text, "stop", ROUTE, len(request.token_ids), len(text.split()))

    async def aclose(self) -> None:
        pass

    def _refuse(self, number: int) -> None:
        if self._script.fail_every and number % self._script.fail_every == 0:
            raise RowError("scripted.failure", "the script says so")


def number_of(token_ids: Sequence[int], image: bytes = b"") -> int:
    """What an answer is a function of: a digest of the question."""
    ids = token_ids if isinstance(token_ids, array) else array("I", token_ids)
    whole = hashlib.sha256(ids.tobytes())
    whole.update(image)
    return int.from_bytes(whole.digest()[:8], "big")


def summary_of(number: int, form: str | None) -> str:
    """The answer: another one for each question, and of its schema where it has one."""
    if form is None:
        return f"Scripted summary {number:x}."
    return json.dumps(_of_schema(json.loads(form), number), separators=(",", ":"))


def _of_schema(schema: dict[str, Any], number: int) -> Any:
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    match schema["type"]:
        case "object":
            named = enumerate(schema["properties"].items())
            return {name: _of_schema(one, number + place) for place, (name, one) in named}
        case "array":
            many = min(schema["maxItems"], max(schema["minItems"], 1 + number % 2))
            return [_of_schema(schema["items"], number + place) for place in range(many)]
        case "string":
            return f"{number:x}".ljust(schema["minLength"], "-")[: schema["maxLength"]]
        case "integer" | "number":
            least = schema.get("minimum", schema.get("maximum", 0) - 100)
            return least + min(number % 100, schema.get("maximum", least + 100) - least)
        case "boolean":
            return number % 2 == 0
    return None


def label_logprobs(number: int, label_ids: Sequence[int]) -> tuple[float, ...]:
    """The answer: different for each question and each label, and adding up to 1."""
    at = number % 9973
    return distributions.among([math.sin(at + label) for label in label_ids])


def open_scripted(settings: Settings, kind: str) -> ScriptedBackend:
    """The scripted backend that the settings describe; `--tokenizer` takes a file or a folder with one."""
    tokenizer = None
    if settings.tokenizer is not None:
        path = Path(settings.tokenizer)
        tokenizer = Tokenizer(path / "tokenizer.json" if path.is_dir() else path)
    return ScriptedBackend(Script.parse(settings.model), kind, tokenizer)
