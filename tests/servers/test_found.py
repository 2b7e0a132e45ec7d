"""Servers as they are found: other headers for keys, paths, names, limits of pixels, names of fields."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tests.loopback
from tests.conftest import Fastqwen, read_records, write_rows
from tests.loopback import GRID, Loopback, listening, serve
from tests.servers.test_discovery import VERSION, card, cards, info
from tests.servers.test_servers import _use, questions, use
from tgi_stack.backends.servers.protocols import tgi, vllm
from tgi_stack.images.grid import Grid, fit
from tgi_stack.tiny import TINY

DIALECTS = ("tgi", "vllm", "sglang")
SEES = ("vllm", "sglang")  # and count what they make of a picture


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_key_goes_by_any_header(fastqwen: Fastqwen, tmp_path: Path, dialect: str) -> None:
    rows, secret = questions(tmp_path, 3), "-".join(("known", "to", "nobody"))
    with serve(dialect, api_key=secret, key_header="x-api-key") as server:
        refused = fastqwen("probs", rows, *use(server), check=4, FASTQWEN_API_KEY=secret)
        assert "--api-key-header" in refused.stderr
        named = ("--api-key-header", "X-API-Key")
        done = fastqwen("probs", rows, *use(server), *named, "--debug", FASTQWEN_API_KEY=secret)
    assert secret not in refused.stderr + done.stderr + done.stdout
    assert done.stdout.count('"ok"') == 3


@pytest.mark.parametrize("name", ["", "X Key", "X:Key", "Host", "content-length", "X\r\nY", "é", "x" * 200])
def test_no_header_is_refused_at_once(fastqwen: Fastqwen, tmp_path: Path, name: str) -> None:
    rows = questions(tmp_path, 1)
    done = fastqwen("probs", rows, "--endpoint", "http://127.0.0.1:9", "--api-key-header", name, check=2)
    assert "--api-key-header" in done.stderr


def test_a_server_stands_under_a_path(fastqwen: Fastqwen, tmp_path: Path, dialect: str) -> None:
    class Under(Loopback):
        async def _reply(self, writer: asyncio.StreamWriter, method: str, path: str, *rest: Any) -> None:
            assert path.startswith("/gpu/text/")
            await super()._reply(writer, method, path.removeprefix("/gpu/text"), *rest)

    rows = questions(tmp_path, 3)
    with listening(Under(dialect)) as server:
        done = fastqwen("probs", rows, "--model", "tiny", "--endpoint", f"{server.url}/gpu/text/v1/score")
    assert done.stdout.count('"ok"') == 3


def test_an_alias_finds_the_models_files(fastqwen: Fastqwen, tmp_path: Path) -> None:
    """The name is the operator's, and so is the path that the server loaded; its tokenizer is here."""
    shutil.copytree(TINY / "text", tmp_path / "weights")

    class Elsewhere(Loopback):
        def _described(self, path: str) -> dict[str, Any] | None:
            page = super()._described(path)
            if page is not None and path == "/model_info":
                page["tokenizer_path"] = str(tmp_path / "weights")
            return page

    rows = questions(tmp_path, 3)
    with listening(Elsewhere("sglang", model="our-qwen", root="/srv/models/ours")) as server:
        for named in ((), ("--model", "our-qwen")):
            done = fastqwen("probs", rows, "--endpoint", server.url, *named)
            assert done.stdout.count('"ok"') == 3
    with serve("vllm", model="our-qwen", root=str(tmp_path / "weights")) as other:
        fastqwen("probs", rows, "--endpoint", other.url, "--model", "our-qwen")


def test_thoughts_left_in_a_summary_are_flagged(fastqwen: Fastqwen, tmp_path: Path) -> None:
    class Thinking(Loopback):
        def _chat(self, asked: dict[str, Any], id: str) -> dict[str, Any]:
            reply = super()._chat(asked, id)
            reply["choices"][0]["message"]["content"] = "<think>\nA mug?\n</think>\nA mug."
            return reply

    rows = one_picture(tmp_path, 96, 64)
    with listening(Thinking("sglang")) as server:
        fastqwen("summarize", rows, "-o", tmp_path / "o.jsonl", *_use(server))
    assert read_records(tmp_path / "o.jsonl")[0]["flags"] == ["thinking"]


class Limited(Grid):
    """What a server makes of a picture that has limits of its own."""

    def tokens(self, width: int, height: int) -> int:
        return super().tokens(*fit(width, height, self))


def one_picture(folder: Path, width: int, height: int) -> Path:
    Image.effect_noise((width, height), 90).convert("RGB").save(folder / f"{width}.png")
    return write_rows(folder / f"{width}.jsonl", {"id": str(width), "image": f"{width}.png"})


@pytest.mark.slow
@pytest.mark.parametrize("dialect", SEES)
@pytest.mark.parametrize(("least", "most"), [(4, 40), (16, 10_000), (8, 40)])
def test_limits_of_pixels_are_learnt(
    fastqwen: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialect: str, least: int, most: int
) -> None:
    block = GRID.factor**2
    own = Limited(GRID.factor, least * block, min(most * block, GRID.max_pixels), GRID.mean, GRID.std)
    monkeypatch.setattr(tests.loopback, "GRID", own)
    with serve(dialect) as server:
        for size in ((1500, 1400), (1500, 300), (40, 30), (900, 60)):
            rows, out = one_picture(tmp_path, *size), tmp_path / f"{size[0]}-{size[1]}.out.jsonl"
            done = fastqwen("summarize", rows, "-o", out, *_use(server), "--no-cache")
            (record,) = read_records(out)
            sent = GRID.tokens(record["image"]["sent_width"], record["image"]["sent_height"])
            assert least <= sent <= most
    assert "makes pictures of at" in done.stderr


@pytest.mark.parametrize("dialect", SEES)
def test_learnt_limits_are_kept_until_a_restart(
    cached: Fastqwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    block = GRID.factor**2
    own = Limited(GRID.factor, 4 * block, 40 * block, GRID.mean, GRID.std)
    monkeypatch.setattr(tests.loopback, "GRID", own)
    asked = []

    class Counting(Loopback):
        def _chat(self, given: dict[str, Any], id: str) -> dict[str, Any]:
            asked.append(given)
            return super()._chat(given, id)

    counts = []
    with listening(Counting(dialect)) as server:
        for number in range(3):
            server.metrics = f"process_start_time_seconds {1.79e9 + (number == 2)}\n"
            rows = one_picture(tmp_path, 900 + number, 700)
            asked.clear()
            cached("summarize", rows, "-o", tmp_path / f"{number}.out.jsonl", *_use(server))
            (record,) = read_records(tmp_path / f"{number}.out.jsonl")
            assert record["status"] == "ok"
            counts.append(len(asked))
    assert counts[1] == 1  # the row alone
    assert counts[0] == counts[2] > 1


@pytest.mark.parametrize("dialect", SEES)
def test_another_count_is_no_limit_of_pixels(fastqwen: Fastqwen, tmp_path: Path, dialect: str) -> None:
    class Odd(Loopback):
        def _chat(self, asked: dict[str, Any], id: str) -> dict[str, Any]:
            reply = super()._chat(asked, id)
            reply["usage"]["prompt_tokens"] += 7
            return reply

    rows = one_picture(tmp_path, 96, 64)
    with listening(Odd(dialect)) as server:
        done = fastqwen("summarize", rows, "-o", tmp_path / "o.jsonl", *_use(server), check=1)
    assert "makes pictures of at" not in done.stderr
    assert read_records(tmp_path / "o.jsonl")[0]["error"]["type"] == "server.mismatch"


def test_fields_go_by_their_older_names() -> None:
    old = json.loads(info(max_input_length=300))
    del old["max_input_tokens"]
    assert tgi.described(json.dumps(old).encode())[0].longest_prompt == 300
    for name in ("context_length", "max_context_length", "context_window"):
        one = card(longest=None) | {name: 4096}
        del one["max_model_len"]
        assert vllm.described(cards(one), VERSION)[0].context == 4096


def test_an_adapter_is_asked_by_its_name(fastqwen: Fastqwen, tmp_path: Path) -> None:
    class WithAdapter(Loopback):
        def _described(self, path: str) -> dict[str, Any] | None:
            if path == "/v1/models":
                base = {"id": "base", "root": str(TINY / "text"), "parent": None, "max_model_len": 4096}
                own = {"id": "lora", "root": "/adapters/x", "parent": "base", "max_model_len": None}
                return {"data": [base, own]}
            return super()._described(path)

        def _answer(self, path: str, asked: dict[str, Any], *rest: Any) -> Any:
            assert asked["model"] == "lora"
            return super()._answer(path, asked, *rest)

    rows, out = questions(tmp_path, 3), tmp_path / "o.jsonl"
    with listening(WithAdapter("vllm", model="lora")) as server:
        fastqwen("probs", rows, "--endpoint", server.url, "--model", "lora", "-o", out)
    assert {(one["status"], one["model"]) for one in read_records(out)} == {("ok", "lora")}
