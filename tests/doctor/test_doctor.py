"""`fastqwen doctor`: each line ok, a warning, or a failure with the fix."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import nvidia_smi
from tests.conftest import Fastqwen
from tests.fake_programs import StandIn, programs
from tests.loopback import TOKENIZER, listening, serve
from tests.probe_server import ProbeServer
from tests.servers.test_servers import ROUTES
from tgi_stack.doctor import machine, servers

__all__ = ["programs"]


@pytest.fixture(autouse=True)
def small_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def lines(stdout: str) -> dict[str, dict[str, Any]]:
    return {line["what"]: line for line in json.loads(stdout)}


def test_doctor_names_what_a_serverless_machine_lacks(fastqwen: Fastqwen, programs: Path) -> None:
    done = fastqwen("doctor", "--json")
    found = lines(done.stdout)
    assert found["Python"]["state"] == found["packages"]["state"] == found["cache"]["state"] == "ok"
    assert found["GPU"]["state"] == found["Docker"]["state"] == "warning"
    assert "install Docker Engine" in found["Docker"]["fix"]
    for port in ("8080", "8081"):
        assert "make up" in found[f"http://127.0.0.1:{port}"]["fix"]
    assert all(line["fix"] for line in found.values() if line["state"] == "warning")
    assert "clock" in found


def test_doctor_says_which_servers_would_run(fastqwen: Fastqwen, programs: Path) -> None:
    StandIn("nvidia-smi", programs).play("--query-gpu", nvidia_smi.TWO_L4)
    info = json.dumps({"ServerVersion": "28.2.2", "Runtimes": {"nvidia": {}}})
    StandIn("docker", programs).play("info", info).play("compose version", "2.36.2\n")
    found = lines(fastqwen("doctor", "--json").stdout)
    assert found["GPU 0"]["detail"] == f"NVIDIA L4, 22,564 of 23,034 MiB free, driver {nvidia_smi.DRIVER}"
    assert found["NVIDIA container toolkit"]["state"] == "ok"
    assert "vision on GPU 0" in found["make up"]["detail"]
    assert "text on GPU 1" in found["make up"]["detail"]


def test_a_full_gpu_is_told_what_fits(fastqwen: Fastqwen, programs: Path) -> None:
    row = nvidia_smi.row(0, "NVIDIA L4", 23034, 12000, "8.9")
    StandIn("nvidia-smi", programs).play("--query-gpu", row)
    found = lines(fastqwen("doctor", "--json").stdout)
    assert found["make up"]["state"] == "warning"
    assert "MiB too few" in found["make up"]["detail"]


@pytest.mark.parametrize("dialect", ["tgi", "vllm", "sglang"])
def test_an_endpoint_is_told_in_full(fastqwen: Fastqwen, programs: Path, dialect: str) -> None:
    with listening(ProbeServer(dialect, date=formatdate(usegmt=True))) as server:
        done = fastqwen("doctor", "--endpoint", server.url, "--json")
    found = lines(done.stdout)
    url = server.url
    assert dialect in found[url]["detail"]
    assert "tiny" in found[url]["detail"]
    assert "revision unknown, quantisation unknown, dtype unknown" in found[f"{url} identity"]["detail"]
    assert found[f"{url} labels"]["detail"].startswith("of 20 and 52 candidates")
    route = ROUTES[dialect]
    assert f"route {route}, 20 labels" in found[f"{url} label reads"]["detail"]
    assert "ms a read" in found[f"{url} label reads"]["detail"]
    assert found[f"{url} queue"]["detail"] == "1 requests run, 0 wait"
    assert "s from the server's" in found["clock"]["detail"]
    assert all(found[what]["state"] == "ok" for what in found if what.startswith(url))


def sure(ids: Sequence[int]) -> Any:
    """Of a model that is sure: few of the labels are among its likeliest tokens."""
    logits = np.random.default_rng(len(ids)).normal(size=TOKENIZER.size)
    logits[[TOKENIZER.encode(letter)[0] for letter in "ABCDEFGHIJKLMNOPQRST"]] += 3.0
    return logits


@pytest.mark.parametrize(("most", "state"), [(5, "warning"), (1024, "ok")])
def test_labels_out_of_sight_are_told(fastqwen: Fastqwen, programs: Path, most: int, state: str) -> None:
    with serve("tgi", logits=sure, grammars=False, max_top_n=most) as server:
        found = lines(fastqwen("doctor", "--endpoint", server.url, "--json").stdout)
    line = found[f"{server.url} label reads"]
    assert line["state"] == state
    assert ("some of 20 and of 52 are out of sight" in line["detail"]) == (state == "warning")
    assert (state == "ok") or "--max-top-n-tokens 128" in line["fix"]


def test_the_way_of_an_image_is_told(fastqwen: Fastqwen, programs: Path) -> None:
    with listening(ProbeServer("vllm")) as vision:
        environ = {"FASTQWEN_VISION_ENDPOINTS": vision.url, "FASTQWEN_MODEL": "tiny"}
        found = lines(fastqwen("doctor", "--json", check=4, **environ).stdout)
    detail = found[f"{vision.url} image"]["detail"]
    assert detail == (
        "1500 x 1000 -> 288 x 192 pixels sent -> 54 visual tokens, as many as the server counts: "
        "it does not resize again"
    )


def test_a_server_that_resizes_again_is_found(fastqwen: Fastqwen, programs: Path) -> None:
    class Shrinking(ProbeServer):
        def _chat(self, asked: dict[str, Any], id: str) -> dict[str, Any]:
            reply = super()._chat(asked, id)
            reply["usage"]["prompt_tokens"] -= 60
            return reply

    with listening(Shrinking("vllm")) as vision:
        environ = {"FASTQWEN_VISION_ENDPOINTS": vision.url, "FASTQWEN_MODEL": "tiny"}
        found = lines(fastqwen("doctor", "--json", check=4, **environ).stdout)
    line = found[f"{vision.url} image"]
    assert line["state"] == "failure"
    assert "max_pixels" in line["fix"]


def test_a_missing_endpoint_fails_only_where_named(fastqwen: Fastqwen, programs: Path) -> None:
    done = fastqwen("doctor", "--endpoint", "http://127.0.0.1:9", check=4)
    assert "failure: http://127.0.0.1:9" in done.stderr
    assert "make up" in done.stderr


class Going(ProbeServer):
    """A server that answers one question, and no other."""

    last = b""  # what it says then; nothing: it ends

    async def _reply(self, writer: asyncio.StreamWriter, method: str, path: str, *rest: Any) -> None:
        if method == "POST" and self.posts:
            writer.write(self.last)
            if not self.last:
                await self._stop()
            return
        await super()._reply(writer, method, path, *rest)


@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 429 X\r\nContent-Length: 0\r\n\r\n"])
def test_a_server_that_goes_is_not_awaited(
    fastqwen: Fastqwen, programs: Path, monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    monkeypatch.setattr(servers, "GONE_S" if not last else "ANSWER_S", 0.1)
    with listening(Going("vllm")) as server:
        server.last = last
        line = lines(fastqwen("doctor", "--endpoint", server.url, "--json", check=4).stdout)
    found = line[f"{server.url} label reads"]
    assert found["state"] == "failure"
    assert ("no answer within" if last else "no endpoint has answered") in found["detail"]


def test_a_server_without_a_usable_model_fails(fastqwen: Fastqwen, programs: Path) -> None:
    class Embedding(ProbeServer):
        def _described(self, path: str) -> dict[str, Any] | None:
            page = super()._described(path)
            return page | {"is_generation": False} if page is not None and path == "/model_info" else page

    with listening(Embedding("sglang")) as server:
        line = lines(fastqwen("doctor", "--endpoint", server.url, "--json", check=4).stdout)[server.url]
    assert (line["state"], line["detail"]) == ("failure", "tiny: it generates nothing")


def test_a_key_is_never_shown(fastqwen: Fastqwen, programs: Path) -> None:
    with listening(ProbeServer("vllm", api_key="right")) as server:
        done = fastqwen(
            "doctor", "--endpoint", server.url, "--json", check=4, FASTQWEN_API_KEY="a-secret-key"
        )
    assert "a-secret-key" not in done.stdout + done.stderr


def test_ports_are_told_as_free_or_in_use() -> None:
    with listening(ProbeServer("tgi")) as server:
        held = server.port
        line = machine.ports_line({"text": held})
        assert line.detail.startswith(f"{held} (text) in use; where no server of yours")
    assert machine.ports_line({"text": held}).detail == f"{held} (text) free"


# -- lines of the machine ----------------------------------------------------------------------------------


def test_the_cache_is_where_settings_put_it(fastqwen: Fastqwen, programs: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "entry").write_bytes(bytes(1234))
    found = lines(fastqwen("doctor", "--json", FASTQWEN_CACHE_DIR=str(tmp_path / "c")).stdout)
    line = found["cache"]
    assert line["state"] == "ok"
    assert line["detail"].startswith(f"{tmp_path / 'c'}, ")
    assert "SQLite 3." in line["detail"]
    assert line["detail"].endswith("1,234 bytes")


def test_a_future_cache_is_checked_at_its_place(tmp_path: Path) -> None:
    line = machine.cache_line(tmp_path / "not" / "yet")
    assert (line.state, line.detail.split(", ")[-1]) == ("ok", "0 bytes")


def test_a_cache_on_network_storage_is_a_failure(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n")
    line = machine.cache_line(tmp_path / "cache", mounts)
    assert (line.state, line.status) == ("failure", 3)
    assert "FASTQWEN_CACHE_DIR" in line.fix


@pytest.mark.parametrize(
    ("offset", "told", "state"),
    [(0.0, True, "ok"), (3600.0, True, "warning"), (-3600.0, True, "warning"), (0.0, False, "ok")],
)
def test_the_clock_is_held_against_the_servers(offset: float, told: bool, state: str) -> None:
    now = time.time()
    date = formatdate(now + offset, usegmt=True) if told else None
    assert machine.clock_line(date, now).state == state
    assert machine.clock_line("yesterday", now).state == "ok"
    assert machine.clock_line(None, 1.0).state == "failure"
