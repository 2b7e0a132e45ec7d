"""Models from a hub: where it is, and what it says of models that not everybody may have."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.ggufs import written
from tgi_stack.checkpoints.gguf.on_hub import named
from tgi_stack.checkpoints.revision import revision_of
from tgi_stack.errors import UsageError
from tgi_stack.tiny import TINY


class Gate(BaseHTTPRequestHandler):
    """Refuses all, as a hub refuses whoever has not accepted a model's terms."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to model some/model is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Gate", (Gate,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("wanted", ["locate", "locate_files"])
def test_a_gated_model_says_what_to_do(hub: tuple[str, list[str]], tmp_path: Path, wanted: str) -> None:
    url, asked = hub
    program = f"from tgi_stack.hub import {wanted}; {wanted}('some/model', 'text', None)"
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environ |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True)
    assert "HF_TOKEN" in done.stderr.splitlines()[-1]
    assert "accept its terms" in done.stderr
    assert asked


NOBODY = """
from tgi_stack.errors import MachineError
from tgi_stack.hub import locate, locate_files, locate_tokenizer
from tgi_stack.stack.running.pinning import commit
for ask in (
    lambda: locate("some/model", "text", None),
    lambda: locate_files("some/model", "text", None),
    lambda: locate_tokenizer("some/model", "text"),
    lambda: commit("some/model"),
):
    try:
        ask()
    except MachineError as error:
        print("told", error)
"""
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>hi</html>"


@pytest.mark.parametrize("answer", [b"", PAGE], ids=["nothing", "a page"])
def test_a_hub_that_does_not_answer_is_told(tmp_path: Path, answer: bytes) -> None:
    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", NOBODY], env=environ, capture_output=True, text=True)
        server.shutdown()
    assert done.stdout.count("told") == 4, done.stderr


COMMIT = "0123456789abcdef0123456789abcdef01234567"
MANY = ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-f16.gguf", "big-F16-00001-of-00002.gguf")


class Shelf(BaseHTTPRequestHandler):
    """A hub that has one repository, some/model, at one commit."""

    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path, _, _ = self.path.partition("?")
        if "/tree/" in path:
            tree = [{"type": "file", "path": n, "size": len(f), "oid": "0"} for n, f in self.files.items()]
            self._send(json.dumps(tree).encode())
            return
        if path.startswith("/api/models/some/model"):
            siblings = [{"rfilename": name, "size": len(one)} for name, one in self.files.items()]
            self._send(json.dumps({"id": "some/model", "sha": COMMIT, "siblings": siblings}).encode())
            return
        name = path.removeprefix("/some/model/resolve/").partition("/")[2]
        self._send(self.files[name], name) if name in self.files else self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def _send(self, content: bytes, name: str = "page") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[tuple[dict[str, bytes], list[str], dict[str, str]]]:
    """What the hub has, what it was asked, and the variables that lead to it."""
    files: dict[str, bytes] = {}
    asked: list[str] = []
    handler = type("_Shelf", (Shelf,), {"files": files, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    url = f"http://127.0.0.1:{server.server_port}"
    yield (
        files,
        asked,
        environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"},
    )
    server.shutdown()
    server.server_close()


def located(name: str, environ: dict[str, str], **more: str) -> str:
    """What `locate` finds by a name, or why it finds nothing."""
    program = (
        "import sys; from tgi_stack.hub import locate, locate_files\n"
        f"found = locate({name!r}, 'text', None)\n"
        "files = locate_files(found.name, 'text', None, may_download=False)\n"
        "assert files.config['head_dim'] == 64\n"
        "print(found.revision, '' if found.gguf is None else found.gguf.path.name)"
    )
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, env=environ | more, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_gguf_file_of_the_hub(shelf: Any, tmp_path: Path) -> None:
    files, asked, environ = shelf
    content = written(tmp_path / "m.gguf", TINY / "text").read_bytes()
    files |= dict.fromkeys(MANY, b"GGUF\3\0\0\0") | {"README.md": b"#"} | {"m-Q4_K_M.gguf": content}
    wanted = f"gguf-{hashlib.sha256(content).hexdigest()[:12]} m-Q4_K_M.gguf"
    assert located("some/model:m-Q4_K_M.gguf", environ) == wanted
    assert [one for one in asked if one.startswith("GET") and "resolve" in one] == [
        "GET /some/model/resolve/main/m-Q4_K_M.gguf"
    ]
    before = len(asked)
    for name in (
        "some/model:m-Q4_K_M.gguf",
        "some/model:q4_k_m",
        "some/model",
    ):  # the cache has this one alone
        assert located(name, environ, HF_HUB_OFFLINE="1") == wanted
    assert len(asked) == before
    assert "not on this machine" in located("some/model:Q8_0", environ, HF_HUB_OFFLINE="1")


@pytest.mark.slow
def test_a_downloaded_checkpoint_is_found_offline(shelf: Any) -> None:
    files, asked, environ = shelf
    names = ("config.json", "tokenizer.json", "model.safetensors")
    files |= {name: (TINY / "text" / name).read_bytes() for name in names} | {
        "m.gguf": b"GGUF",
        "a.bin": b"p",
    }
    assert located("some/model", environ).startswith(COMMIT)
    assert not [one for one in asked if one.endswith((".bin", ".gguf"))]
    assert located("some/model", environ, HF_HUB_OFFLINE="1").startswith(COMMIT)


@pytest.mark.slow
def test_a_name_that_means_several_files(shelf: Any) -> None:
    files, _, environ = shelf
    files |= dict.fromkeys(MANY, b"GGUF\3\0\0\0")
    assert "--model some/model:m-Q4_K_M.gguf (there are m-Q4_K_M.gguf, m-Q8_0.gguf)" in located(
        "some/model", environ
    )
    assert "it holds 3 GGUF files" in located("some/model", environ)
    assert "none of its GGUF files is Q5_0" in located("some/model:Q5_0", environ)
    assert "is a part of a model" in located("some/model:F16", environ)
    assert "damaged" in located("some/model:Q8_0", environ)
    del files["m-Q4_K_M.gguf"], files["big-F16-00001-of-00002.gguf"]
    assert "damaged" in located("some/model", environ)  # the only one


@pytest.mark.parametrize(
    ("name", "files", "found"),
    [
        ("a/b:m.gguf", ("m.gguf", "n.gguf"), "m.gguf"),
        ("a/b:sub/m.gguf", ("m.gguf", "sub/m.gguf"), "sub/m.gguf"),
        ("a/b:q4_k_m", ("m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "mmproj-Q4_K_M.gguf"), "m-Q4_K_M.gguf"),
        ("a/b:Q4_K_M", ("m.Q4_K_M.gguf", "m-IQ4_K_M.gguf"), "m.Q4_K_M.gguf"),
        ("a/b:mmproj-f16.gguf", ("m.gguf", "mmproj-f16.gguf"), "mmproj-f16.gguf"),
        ("a/b:Q4", ("m-Q4_K_M.gguf",), "none of its GGUF files is Q4; name one: --model a/b:m-Q4_K_M.gguf"),
        ("a/b:Q8_0", ("x-Q8_0.gguf", "y-Q8_0.gguf"), "2 of its GGUF files is Q8_0; name one"),
        ("a/b:F16", ("m-F16-00001-of-00001.gguf",), "llama-gguf-split --merge"),
        ("a/b:F16", (), "name another repository"),
    ],
)
def test_which_file_of_a_repository(name: str, files: tuple[str, ...], found: str) -> None:
    wanted = named(name)
    assert wanted is not None
    if found.endswith(".gguf") and found in files:
        assert wanted.chosen([*files, "README.md"]) == found
        return
    with pytest.raises(UsageError, match=re.escape(found)):
        wanted.chosen([*files, "README.md"])


@pytest.mark.parametrize(
    "name", ["a/b", "tiny", "C:\\models\\m.gguf", "a/b/c:d", "/a/b:c", "./a:b", "a/b:", "a--b/c:d", "é/é:d"]
)
def test_other_names_are_no_files_of_a_hub(name: str) -> None:
    assert named(name) is None


def test_a_file_here_goes_before_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named("a/b:m.gguf") is not None
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b:m.gguf").touch()
    assert named("a/b:m.gguf") is None


def test_weights_trained_on_are_another_revision(tmp_path: Path) -> None:
    file, size = tmp_path / "model.safetensors", 12 * 2**20
    (tmp_path / "config.json").write_text("{}")

    def revision(weights: bytes) -> str:
        file.write_bytes(weights)
        os.utime(file, (1, 1))  # as in an image whose files all have one time
        return revision_of([tmp_path / "config.json", file])

    before = bytes(size)
    one_matrix = before[: size // 2] + b"\1" * (size // 100) + before[size // 2 + size // 100 :]
    assert revision(before) == revision(before) != revision(one_matrix)
    assert revision(before[:4096]) != revision(before[:4095] + b"\1")  # a small one is read whole
