"""Endpoints as users write them: what can't be one is refused before anything waits."""

from __future__ import annotations

import pytest

from tgi_stack.backends.servers.urls import checked_url
from tgi_stack.errors import SettingsError

ROUTES = [
    "/v1", "/v1/", "/v1/completions", "/v1/chat/completions", "/v1/models", "/generate",
    "/generate_stream", "/info",
    "/health", "/metrics", "/docs", "/v1/embeddings", "/V1/", "//v1//",
]  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
def test_a_copied_route_is_cut_off(route: str) -> None:
    assert checked_url(f"http://h:8080{route}") == "http://h:8080"
    assert checked_url(f"https://gpu:8443/text{route}") == "https://gpu:8443/text"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080",
        "https://gpu:8443/text",
        "http://[::1]:81",
        "http://a_b.internal",
        "http://[fe80::1%25eth0]:81",
    ],
)
def test_a_sound_endpoint_stays(url: str) -> None:
    assert checked_url(url) == url
    assert checked_url(url + "/") == url


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "127.0.0.1:8080", "ftp://h", "file:///etc/passwd", "http://", "http://:80",
        "http://[::1", "http://h:99999",
        "http://h:0", "http://h:-1", "http://h:port", "http://a..b", "http://-a", f"http://{'a' * 64}",
        "http://no.invalid",
        "http://256.1.1.1", "http://1.2.3", "http://h/?q=1", "http://h/?", "http://h/#x", "http://a b",
        "http://h\n.x",
        "http://h\\x", f"http://{'a.' * 130}b",
    ],
)  # fmt: skip
def test_what_can_be_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="--endpoint"):
        checked_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@h", "ftp://user:hunter2@h/", "http://user:hun@hunter2@h:8080/v1",
        "http://:hunter2@h",
        "http://h/?api_key=hunter2", "http://h/?x=1&token=hunter2", "http://h/#access_token=hunter2",
        "user:hunter2@h",
        "http://user:hunter2/x@h", "http://hunter2@h", "http://u:hunter2@[::1", "http://u:hunter2@h:99999",
        "http://u:hunter2", "//u:hunter2@h",
    ],
)  # fmt: skip
def test_no_password_of_a_url_is_shown(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        checked_url(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "end", ["?id=hunter2", "/v1?a=1&mine=hunter2", "#hunter2", "/?x\nhunter2", "?k=a#hunter2"]
)
def test_nothing_behind_a_path_is_shown(end: str) -> None:
    with pytest.raises(SettingsError) as caught:
        checked_url(f"http://h{end}")
    assert "hunter2" not in str(caught.value)


def test_spaces_around_a_url_are_none_of_it() -> None:
    assert checked_url(" http://h:8080/v1/\n") == "http://h:8080"


@pytest.mark.parametrize(
    ("url", "one"),
    [
        ("HTTP://h", "http://h"), ("http://H", "http://h"), ("http://h:80", "http://h"),
        ("http://h:080/", "http://h"),
        ("http://h:", "http://h"), ("https://GPU:443/Text/", "https://gpu/Text"), ("http://[::1]:80", "http://[::1]"),
        ("http://[FE80::1]:81//", "http://[fe80::1]:81"), ("https://h:80", "https://h:80"), ("http://h/V1/", "http://h"),
    ],
)  # fmt: skip
def test_one_endpoint_has_one_spelling(url: str, one: str) -> None:
    assert checked_url(url) == one
