"""Whatever a tier's password is, and wherever it stands, no output holds it: drawn ones, every command."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import Fastqwen
from tests.tier.conftest import Running, free_port
from tests.tier.machines import asked

# What stands in URLs, files, JSON and Python's own texts with another meaning, and is no word by itself.
PIECES = st.sampled_from([*"/?#@:%+&=;'\"\\ <>|~", "é", "%2F", "://", "a", "Z", "0", "token=", "Bearer "])
PASSWORDS = st.lists(PIECES, max_size=6).map(lambda pieces: "Mk7" + "".join(pieces).rstrip() + "Qv9")
PLACES = st.sampled_from(["escaped", "raw", "file", "file with a user", "settings file"])
STATES = st.sampled_from(["right", "wrong", "away"])


def forms(password: str) -> set[str]:
    """As a password could come to be shown; of one with a space a part is enough."""
    whole = {
        password,
        quote(password, safe=""),
        quote(password),
        json.dumps(password)[1:-1],
        repr(password)[1:-1],
    }
    return whole | {"Mk7", "Qv9"}


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(password="Mk7/a#b?c@dQv9", place="raw", state="right")  # noqa: S106  # drawn, as all here
@example(password="Mk7/Bearer aQv9", place="raw", state="right")  # noqa: S106
@example(password="Mk7<'\"\\ Qv9", place="raw", state="wrong")  # noqa: S106
@example(password="Mk7" + "a" * 40 + "' Qv9", place="raw", state="right")  # shortened by others
@example(password="Mk7' Qv9", place="settings file", state="away")  # noqa: S106
@example(password="Mk7%2F@:Qv9", place="escaped", state="wrong")  # noqa: S106
@example(password="Mk7'\"\\Qv9", place="file with a user", state="wrong")  # noqa: S106
@example(password="Mk7 éQv9", place="file", state="away")  # noqa: S106
@given(password=PASSWORDS, place=PLACES, state=STATES)
def test_no_output_holds_a_drawn_password(
    server: Running,
    cached: Fastqwen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    password: str,
    place: str,
    state: str,
) -> None:
    monkeypatch.delenv("FASTQWEN_CACHE_TIER_USER_FILE", raising=False)
    server.client.config_set("requirepass", password if state == "right" else "another")
    port = free_port() if state == "away" else server.port
    url, environ, typed = f"redis://127.0.0.1:{port}/0", {}, []
    for old in ("fastqwen.toml", "user", "o.jsonl", "o.jsonl.run.json", "o.jsonl.part.jsonl"):
        (tmp_path / old).unlink(missing_ok=True)
    if place.startswith("file"):
        user = "default:" if place.endswith("user") or ":" in password else ""
        (tmp_path / "user").write_text(user + password + "\n")
        environ, typed = {"FASTQWEN_CACHE_TIER_USER_FILE": str(tmp_path / "user")}, ["--cache-tier", url]
    else:
        shown = password if place == "raw" else quote(password, safe="")
        url = url.replace("//", f"//default:{shown}@")
        if place == "settings file":
            (tmp_path / "fastqwen.toml").write_text(f"cache_tier = {json.dumps(url)}\n")
        else:
            typed = ["--cache-tier", url]
    rows = asked(tmp_path / "rows.jsonl", range(3))
    job = ("probs", rows, "-o", tmp_path / "o.jsonl", "--engine", "scripted", *typed)
    texts = [
        text
        for command in (
            (*job, "--debug"),
            (*job, "--overwrite", "--log-json"),
            ("cache", "info", *typed),
            ("cache", "verify", *typed, "--debug"),
            ("cache", "clear", *typed),
            ("cache", "purge", "--revision", "r", *typed, "--log-json"),
            ("doctor", "--json", *typed),
            ("settings", "probs", *typed),
        )
        for text in cached(*command, check=None, **environ)[:2]
    ]
    texts += [path.read_text() for path in tmp_path.glob("o.jsonl*")]
    found = [form for form in forms(password) for text in map(str, texts) if form in text]
    assert found == []
    server.client.config_set("requirepass", "")


@pytest.mark.parametrize("content", ["", ":", "user:", "\n\n"])
def test_a_user_file_without_a_password_is_told(cached: Fastqwen, tmp_path: Path, content: str) -> None:
    (tmp_path / "user").write_text(content)
    given = {"FASTQWEN_CACHE_TIER_USER_FILE": str(tmp_path / "user")}
    done = cached("cache", "info", "--cache-tier", "redis://127.0.0.1:1/0", check=2, **given)
    assert "no password; write user:password, or the password alone" in done.stderr
