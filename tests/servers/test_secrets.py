"""A key, and a password in a URL, stand in no byte that a command writes, wherever a server repeats them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import CATALOGUE, Fastqwen
from tests.loopback import Loopback, _send, listening
from tests.servers.test_servers import _use, questions
from tgi_stack import redaction
from tgi_stack.backends.servers.protocols.reply import error_text
from tgi_stack.redaction import keep_secret, redact, redact_command, without_secrets, without_secrets_in

MARKER = "sk-" + "Marker0f" * 3
PLACES = ["refusal", "text", "model", "version", "broken", "redirect", "late refusal", "info"]
AT_ONCE = ("model", "version", "info")  # before the first row


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_secrets", {})


@dataclass
class Echo(Loopback):
    """Repeats the key that it was sent, at one place."""

    place: str = ""

    async def _reply(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        key = headers.get("authorization", "")
        message = json.dumps({"error": {"message": f"{'x' * 170} {key} is no key; {key.lower()}"}}).encode()
        if method == "GET" and self.place in AT_ONCE and path in ("/info", "/v1/models", "/version"):
            told = json.dumps(self._described(path) or {}).replace("tiny", f"tiny {key}").replace("0.3", key)
            await _send(writer, 200 if self.place != "info" else 500, told.encode())
        elif method == "POST" and self.posts >= 2 and self.place == "redirect":
            await _send(writer, 307, b"", {"Location": f"http://h/?api_key={key}"})
        elif method == "POST" and self.posts >= 2 and self.place == "broken":
            self.posts += 1
            await _send(writer, 200, f'{{"id": "{key}", "model": "{key}"}}'.encode())
        elif method == "POST" and self.posts >= 2 and self.place.endswith("refusal"):
            self.posts += 1
            await _send(writer, 400 if self.place == "refusal" else 500, message)
        elif method == "POST" and self.place == "text":
            more, answer = self._answer(path, json.loads(body), headers)
            await _send(
                writer,
                200,
                json.dumps(answer).replace("Scripted", f"Scripted {key} {key[3:]}").encode(),
                more,
            )
        else:
            await super()._reply(writer, method, path, headers, body)


def commands(folder: Path, url: str, options: list[Any]) -> list[tuple[Any, ...]]:
    """Those beside the two jobs: what reads their outputs, asks the server, or says what is set."""
    probs, ranked, rows = folder / "probs.jsonl", folder / "rerank.jsonl", folder / "6.jsonl"
    items = ("--items", CATALOGUE / "items.jsonl")
    again = ("--against", url, "--sample", "2", "--tokenizer", "tiny", "--startup-timeout", "1")
    return [
        (
            "rerank",
            CATALOGUE / "sessions.jsonl",
            *items,
            "--limit",
            "3",
            "-o",
            ranked,
            *options,
            "--log-json",
        ),
        ("doctor", "--endpoint", url),
        ("doctor", "--endpoint", url, "--json"),
        ("compare", probs, *again, "--debug"),
        ("check", rows, "--job", "probs", *options[2:]),
        ("settings", "probs", "--endpoint", url),
        ("report", probs, "-o", folder / "report.html", "--debug"),
        ("show", probs, "row-0"),
        ("verify", probs),
        ("eval", ranked, "--json"),
        ("cache", "info"),
        ("cache", "verify", "--reask", "100%", "--endpoint", url),
        ("cache", "export", folder / "cache.zst"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("dialect", ["tgi", "vllm", "sglang"])
@pytest.mark.parametrize("place", PLACES)
def test_a_key_that_comes_back_is_written_nowhere(
    fastqwen: Fastqwen, tmp_path: Path, dialect: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTQWEN_CACHE_DIR", str(tmp_path / "cache"))
    rows = questions(tmp_path, 6)
    written = ""
    with listening(Echo(dialect, place=place)) as server:
        options = [*_use(server)[2:], "--startup-timeout", "1", "--tokenizer", "tiny"]
        for job in (("probs", rows), ("summarize", CATALOGUE / "images", "--limit", "4")):
            out = tmp_path / f"{job[0]}.jsonl"
            done = fastqwen(*job, "-o", out, *options, "--debug", check=None, FASTQWEN_API_KEY=MARKER)
            written += done.stdout + done.stderr
        for command in commands(tmp_path, server.url, options):
            done = fastqwen(*command, check=None, FASTQWEN_API_KEY=MARKER)
            written += done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        if path.is_file():
            written += path.read_bytes().decode("latin-1")
    assert "Marker0f" not in written
    assert MARKER.lower() not in written.lower()


@pytest.mark.parametrize(
    "url",
    ["http://user:hunter2@h/", "ftp://user:hunter2@h/", "http://h/?api_key=hunter2", "http://u:hunter2@[::1"],
)
@pytest.mark.parametrize("way", ["option", "variable", "file", "file of another type"])
@pytest.mark.parametrize("command", ["probs", "doctor"])
def test_a_password_of_a_url_is_written_nowhere(
    fastqwen: Fastqwen, tmp_path: Path, url: str, way: str, command: str
) -> None:
    rows = questions(tmp_path, 2)
    config = tmp_path / "fastqwen.toml"
    told = {"file": f'endpoint = ["{url}"]\n', "file of another type": f'endpoint = "{url}"\n'}
    config.write_text(told.get(way, ""))
    environ = {"FASTQWEN_ENDPOINT": url} if way == "variable" else {}
    given_url = ["--endpoint", url] if way == "option" else []
    job = [command, rows, "-o", tmp_path / "o.jsonl"] if command == "probs" else [command]
    done = fastqwen(*job, *given_url, "--config", config, "--debug", check=None, **environ)
    assert "--endpoint" in done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    for path in tmp_path.glob("o.jsonl*"):
        assert b"hunter2" not in path.read_bytes()


@given(
    before=st.text(),
    after=st.text(),
    secret=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8),
)
def test_no_text_around_it_hides_a_secret(before: str, after: str, secret: str) -> None:
    redaction._secrets.clear()
    keep_secret(secret)
    text = f"{before}{secret}{after}"
    assert secret.lower() not in without_secrets(text).lower().replace(redaction.BLOT, "\0")
    body = text.encode("utf-8", "surrogatepass")
    assert secret.encode().lower() not in without_secrets_in(body).lower()
    redaction._secrets.clear()


@pytest.mark.parametrize(
    "text",
    [
        "see https://u:hunter2@h/x", "redis://:hunter2@h:6379/0", "http://h/?a=1&token=hunter2&b=2",
        "http://h/?sig=hunter2",
        "Authorization: Bearer hunter2hunter2", "http://hunter2@h", "postgres://a:b@hunter2@h",
        "http://h/;apikey=hunter2",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_blotted_out(text: str) -> None:
    assert "hunter2" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "a red mug, 12 cups",
        "row 3: mail@example.org",
        "--map id=sku,key=x",
        "http://127.0.0.1:8080/text: gone",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_secret_is_known_before_it_is_cut() -> None:
    keep_secret(MARKER)
    shown = error_text(json.dumps({"error": "x" * 195 + MARKER}).encode())
    assert "sk-" not in shown


def test_a_command_is_recorded_without_secrets() -> None:
    words = [
        "fastqwen",
        "probs",
        "--endpoint",
        "http://u:hunter2@h",
        "--proxy=http://u:hunter2@p",
        "--map",
        "id=a",
    ]
    assert "hunter2" not in " ".join(redact_command(words))
    assert redact_command(words)[-2:] == ["--map", "id=a"]


def with_prompts(folder: Path, *prompts: str) -> Path:
    path = folder / "p.jsonl"
    lines = [
        json.dumps({"id": str(n), "prompt": text, "labels": ["A", "B"]}) for n, text in enumerate(prompts)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("dialect", ["tgi", "vllm"])
def test_a_prompt_makes_no_server_fetch(fastqwen: Fastqwen, tmp_path: Path, dialect: str) -> None:
    """Nor do marks of images, of which none comes with the row, reach one."""
    rows = with_prompts(
        tmp_path, "See ![](http://127.0.0.1:9/x.jpg) A or B? ",
        "<|vision_start|><|image_pad|><|vision_end|>A? ",
        "<|image_pad|>", "![alt](http://h) A or B? ",
    )  # fmt: skip
    bodies: list[Any] = []

    @dataclass
    class Seen(Loopback):
        async def _reply(self, writer: asyncio.StreamWriter, *rest: Any) -> None:
            bodies.append(rest[-1])
            await super()._reply(writer, *rest)

    with listening(Seen(dialect)) as server:
        out = tmp_path / "o.jsonl"
        fastqwen("probs", rows, "-o", out, *_use(server), "--no-cache", check=1)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    kinds = [record.get("error", {}).get("type") for record in records]
    assert kinds == [None, "text.image_marks", "text.image_marks", None]
    assert not any(b"![](http" in body for body in bodies)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/api_key=hunter2/v1", "http://h/api_key=***/v1"),
        ("https://h/a/Token=hunter2", "https://h/a/Token=***"),
        ("http://h/key=hunter2/sig=hunter2;pwd=hunter2", "http://h/key=***/sig=***;pwd=***"),
        ("/data/session=7/part-0.parquet", "/data/session=7/part-0.parquet"),
        ("s3://shop/code=7/key=8/part-0.parquet", "s3://shop/code=7/key=8/part-0.parquet"),
    ],
)
def test_keys_in_paths_of_servers_are_blotted_out(url: str, shown: str) -> None:
    assert redaction.redact(f"{url} is no host of {url}") == f"{shown} is no host of {shown}"
    assert redaction.redact_url(url) == shown


@pytest.mark.parametrize(
    "name",
    [
        "FASTQWEN_API_KEY_FILE",
        "--api-key-file",
        "--cache-tier-key-file",
        "FASTQWEN_CACHE_TIER_KEY_FILE",
        "FASTQWEN_CACHE_TIER_USER_FILE",
    ],
)
def test_a_key_for_a_file_is_not_shown(fastqwen: Fastqwen, tmp_path: Path, name: str) -> None:
    """Whoever gives the key itself where its file belongs reads that, and not the key."""
    more, environ = ((), {name: MARKER}) if name.isupper() else ((name, MARKER), {})
    if "TIER" in name.upper():
        more, environ = (*more, "--cache-tier", "redis://127.0.0.1:1"), environ | {"FASTQWEN_NO_CACHE": "0"}
    run = ("probs", questions(tmp_path, 1), "--endpoint", "http://127.0.0.1:1", "--startup-timeout", "1")
    said = fastqwen(*run, *more, check=2, **environ)
    assert "takes a file's name, never a key" in said.stderr
    assert MARKER not in said.stdout + said.stderr
