"""TGI's limits are held against what it counts of a prompt: pictures by its own rule, not by the model's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Fastqwen, read_records, write_rows
from tests.loopback import GRID, Loopback, RefusedError, listening, seen_by_tgi
from tests.servers.test_servers import _use
from tgi_stack.prompting.profile import Profile
from tgi_stack.prompting.tokenizer import Tokenizer
from tgi_stack.tiny import TINY
from tgi_stack.types import PreparedImage


@dataclass
class Small(Loopback):
    """Refuses what is longer than it says in /info, as TGI does."""

    most: int = 10_000
    context: int = 10_000
    longest: int = 0
    refused: int = 0

    def _described(self, path: str) -> dict[str, Any] | None:
        found = super()._described(path)
        if found is not None and path == "/info":
            found |= {"max_input_tokens": self.most, "max_total_tokens": self.context}
        return found

    def _generate(self, inputs: str, asked: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
        counted = seen_by_tgi(inputs)[1]
        self.longest = max(self.longest, counted)
        if counted > self.most or counted + asked["max_new_tokens"] > self.context:
            self.refused += 1
            message = f"Input validation error: `inputs` must have less than {self.most} tokens"
            raise RefusedError(422, {"error": message, "error_type": "validation"})
        return super()._generate(inputs, asked)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "p.png"
    Image.new("RGB", (224, 160), "red").save(path)
    return path


@pytest.mark.parametrize("limit", ["most", "context"])
def test_a_summary_fits_or_is_not_sent(fastqwen: Fastqwen, tmp_path: Path, picture: Path, limit: str) -> None:
    rows = write_rows(tmp_path / "r.jsonl", {"id": "a", "image": picture.name})
    job = ("summarize", rows, "--no-cache", "-o", tmp_path / "o.jsonl", "--overwrite")
    with listening(Small("tgi")) as server:
        fastqwen(*job, *_use(server))
        counted = server.longest
        assert counted > 224 * 160 // 196
        exact = counted + (128 if limit == "context" else 0)
        for room, status in ((exact, 0), (exact - 1, 1)):
            setattr(server, limit, room)
            fastqwen(*job, *_use(server), check=status)
    assert server.refused == 0
    (record,) = read_records(tmp_path / "o.jsonl")
    assert record["error"]["type"] == "text.too_long"
    assert "--max-side" in record["error"]["message"]


def test_history_makes_room_for_pictures(fastqwen: Fastqwen, tmp_path: Path, picture: Path) -> None:
    items = [{"id": name, "title": f"Thing {name}", "image": picture.name} for name in "abcdefgh"]
    shop = write_rows(tmp_path / "items.jsonl", *items)
    rows = write_rows(tmp_path / "r.jsonl", {"id": "u", "history": list("abcdef"), "candidates": ["g", "h"]})
    job = ("rerank", rows, "--items", shop, "--item-images", "--no-cache", "-o", tmp_path / "o.jsonl")
    flags = []
    with listening(Small("tgi")) as server:
        for _ in range(2):
            fastqwen(*job, *_use(server), "--overwrite")
            flags.append(read_records(tmp_path / "o.jsonl")[0]["flags"])
            server.most = server.longest - 1
    assert server.refused == 0
    assert flags == [[], ["text.truncated"]]


def test_what_is_counted_is_remembered() -> None:
    tokenizer = Tokenizer(TINY / "vision" / "tokenizer.json")
    profile = Profile(tokenizer, True, 4096, GRID, 4000, 196, 2)
    image = PreparedImage(b"", "0" * 64, 448, 448, 448, 448)
    assert profile.counted_more([image, image]) == 2 * (1024 + 2 - GRID.tokens(448, 448))
    assert Profile.of(tokenizer, profile.described()) == profile
    assert Profile(tokenizer, True, 4096, GRID).counted_more([image]) == 0
