"""`make up` on a real engine, jobs without a further setting, and what befalls their servers meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.conftest import CATALOGUE, read_records, write_rows
from tests.docker.clone import MODELS, Clone
from tests.docker.conftest import Host

pytestmark = pytest.mark.docker
ROWS = 100


def test_without_a_hub_up_names_it(host: Host) -> None:
    clone = host.down()
    there = [path for path in clone.volume.iterdir() if path.name != "played"]
    aside = clone.volume.parent / "aside"
    aside.mkdir()
    for path in there:
        path.rename(aside / path.name)
    try:
        assert "models did not come up: the hub can't be reached" in clone.make("up", check=2).said
    finally:
        for path in there:
            shutil.rmtree(path, ignore_errors=True)
            (aside / path.name).rename(path)
        aside.rmdir()


def test_jobs_need_no_further_setting(host: Host, tmp_path: Path) -> None:
    clone = host.up()
    clone.fastqwen("summarize", CATALOGUE / "images", "--limit", "3", "-o", tmp_path / "s.jsonl")
    given = ("--items", CATALOGUE / "items.jsonl", "-o", tmp_path / "r.jsonl")
    clone.fastqwen("rerank", CATALOGUE / "sessions.jsonl", *given)
    assert {row["status"] for row in read_records(tmp_path / "s.jsonl")} == {"ok"}
    assert {(row["status"], row["engine"]) for row in read_records(tmp_path / "r.jsonl")} == {("ok", "tgi")}
    status, waited = clone.make("status").said, clone.make("wait").said
    for kind in MODELS:  # what stands beside them may be up from another test
        assert f"ok: {kind}: " in status
        assert f"{kind}: " in waited


def test_text_on_vllm_by_one_word(host: Host, tmp_path: Path) -> None:
    clone = host.down()
    assert "TGI is in maintenance mode" not in clone.make("up", "TEXT=vllm").said
    assert "text: Qwen/Qwen3-0.6B on vllm" in clone.make("status").said
    given = ("--items", CATALOGUE / "items.jsonl", "-o", tmp_path / "r.jsonl")
    clone.fastqwen("rerank", CATALOGUE / "sessions.jsonl", *given)
    assert {(row["status"], row["engine"]) for row in read_records(tmp_path / "r.jsonl")} == {("ok", "vllm")}
    clone.make("down")


def test_host_and_servers_meet_at_the_front_alone(host: Host) -> None:
    clone = host.up()
    with HTTPServer(("0.0.0.0", 0), _Page) as service:  # noqa: S104  # a service of the host, open to all
        threading.Thread(target=service.serve_forever, daemon=True).start()
        said = subprocess.run(
            ["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True
        ).stdout
        addresses = {line.split()[3].partition("/")[0] for line in said.splitlines()} - {"127.0.0.1"}
        for address in addresses:
            page = f"http://{address}:{service.server_port}/"
            assert urlopen(page, timeout=5).status == 200  # by the host itself
            assert "curl: (" in clone.engine.docker(
                "exec", clone.container("text"), "curl", "-sS", "-m", "2", page, check=None
            )
        service.shutdown()
    shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    address = clone.engine.docker("inspect", "--format", shown, clone.container("text")).strip()
    with pytest.raises(OSError, match=r"urlopen|timed out"):
        urlopen(f"http://{address}:8000/info", timeout=2)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


def _killed(clone: Clone) -> None:
    """As the kernel does where memory runs out; `docker kill` would keep it down."""
    pid = clone.engine.docker("inspect", "--format", "{{.State.Pid}}", clone.container("text"))
    os.kill(int(pid), signal.SIGKILL)


def _down_and_up(clone: Clone) -> None:
    clone.make("down")
    clone.make("up")


@pytest.mark.parametrize("befalls", [_killed, _down_and_up])
def test_a_job_outlives_its_servers(host: Host, tmp_path: Path, befalls: Callable[[Clone], None]) -> None:
    clone = host.up()
    clone.play("text", delay=0.3)
    rows = write_rows(
        tmp_path / "p.jsonl", *({"id": str(n), "prompt": f"{n}?", "labels": ["A", "B"]} for n in range(ROWS))
    )
    out = tmp_path / "o.jsonl"
    job = clone.started("probs", rows, "-o", out, "--concurrency", "8")
    try:
        clone.until(lambda: out.exists() and len(read_records(out)) >= 8)
        befalls(clone)
        said, _ = job.communicate(timeout=120)
    finally:
        job.kill()
    assert job.returncode == 0, said
    found = read_records(out)
    assert [row["id"] for row in found] == [str(n) for n in range(ROWS)]
    assert {row["status"] for row in found} == {"ok"}


def test_without_a_daemon_status_says_so(host: Host) -> None:
    """Its containers come back with it."""
    clone = host.up()
    clone.engine.stop()
    try:
        said = clone.make("status", check=2).said
        assert "Docker (no Docker daemon answers); start it: sudo systemctl start docker" in said
        assert "no container" not in said
        assert "start it: sudo systemctl start docker" in clone.make("down", check=2).said
    finally:
        clone.engine.start()
    clone.make("wait")
