"""Models from a hub: where it is, and what it says of models that not everybody may have."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


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
