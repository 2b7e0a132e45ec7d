"""What starts in the containers, run here: the servers' shares of memory, the fetching of weights."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.fake_programs import StandIn, programs

__all__ = ["programs"]

DOCKER = ROOT / "docker"


def start(script: str, share: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FASTQWEN_MEMORY_MIB": share}
    command = ["sh", str(DOCKER / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("memory", "share", "fraction"),
    [
        ("24000, 24000\n", "6000", "0.250"),  # nobody else there: its share of the whole
        ("24000, 12000\n", "6000", "0.750"),  # a neighbour holds half: what it holds, and the share
        ("24000, 24000\n24000, 18000\n", "6000", "0.500"),  # two GPUs: on the fuller one it has its share
        ("24000, 1000\n", "6000", "1.0"),
        ("[Insufficient Permissions], [Insufficient Permissions]\n", "6000", "1.0"),
        ("24000, 24000\n", "", "1.0"),
    ],
)
def test_tgi_takes_its_share_whoever_is_there(programs: Path, memory: str, share: str, fraction: str) -> None:
    StandIn("nvidia-smi", programs).play("memory.total,memory.free", memory)
    launcher = StandIn("text-generation-launcher", programs)
    done = start("tgi.sh", share, "--model-id", "Qwen/Qwen3-0.6B", "--num-shard", "1")
    assert done.returncode == 0, done.stderr
    assert f"CUDA_MEMORY_FRACTION={fraction} " in done.stdout
    assert launcher.calls == ["--model-id Qwen/Qwen3-0.6B --num-shard 1"]


@pytest.mark.parametrize(
    ("totals", "share", "fraction"),
    [
        ("24000\n", "6000", "0.250"),
        ("24000\n48000\n", "6000", "0.125"),
        ("[N/A]\n", "6000", "0.9"),
        ("24000\n", "", "0.9"),
    ],
)
def test_vllm_takes_its_share(programs: Path, totals: str, share: str, fraction: str) -> None:
    StandIn("nvidia-smi", programs).play("memory.total", totals)
    vllm = StandIn("vllm", programs)
    done = start("vllm.sh", share, "Qwen/Qwen3-VL-2B-Instruct", "--hf-overrides", '{"head_dtype":"float32"}')
    assert done.returncode == 0, done.stderr
    (call,) = vllm.calls
    assert call.startswith("serve Qwen/Qwen3-VL-2B-Instruct --hf-overrides {")
    assert f" --gpu-memory-utilization {fraction} " in call
    assert call.endswith("--middleware token_headers.TokenHeaders")


def test_an_unreadable_gpu_starts_nothing(programs: Path) -> None:
    StandIn("nvidia-smi", programs).play("", stderr="Failed to initialize NVML\n", status=255)
    for script, server in (("tgi.sh", "text-generation-launcher"), ("vllm.sh", "vllm")):
        started = StandIn(server, programs)
        done = start(script, "6000")
        assert done.returncode == 255
        assert "Failed to initialize NVML" in done.stdout + done.stderr
        assert started.calls == []


# -- token_headers.py --------------------------------------------------------------------------------------

COUNTS = b'"usage":{"prompt_tokens":812,"total_tokens":815,"completion_tokens":3}'
FAKE = rb'"text":"\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9}"' + b'," ":"%b"' % (500 * b" ")


def answering(*pieces: bytes, status: int = 200) -> Any:
    """An application that answers with these pieces."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"a", b"b")]})
        for number, piece in enumerate(pieces, 1):
            more = {"more_body": True} if number < len(pieces) else {}
            await send({"type": "http.response.body", "body": piece} | more)

    return app


@pytest.mark.parametrize(
    ("app", "told"),
    [
        (answering(b"{%b,%b,%b}" % (FAKE, COUNTS, b'"k":null')), {"prompt": b"812", "generated": b"3"}),
        (answering(b"{%b}" % FAKE), {}),
        (answering(b'{"usage":{"prompt_tokens":7}}'), {"prompt": b"7"}),
        (answering(b'{"usage":null}'), {}),
        (answering(b""), {}),
        (answering(b"data: {%b}" % COUNTS, b"data: [DONE]"), {}),
        (answering(b"{%b}" % COUNTS, status=400), {}),
    ],
)
async def test_an_answers_head_tells_its_tokens(
    monkeypatch: pytest.MonkeyPatch, app: Any, told: dict[str, bytes]
) -> None:
    """And nothing else of it changes."""
    monkeypatch.syspath_prepend(str(DOCKER))
    wrapped = importlib.import_module("token_headers").TokenHeaders(app)
    plain: list[Any] = []
    found: list[Any] = []
    for one, seen in ((app, plain), (wrapped, found)):

        async def send(message: Any, seen: list[Any] = seen) -> None:
            seen.append(message)

        await one({"type": "http", "method": "POST"}, None, send)
    more = [(f"x-{kind}-tokens".encode(), count) for kind, count in told.items()]
    assert found[0]["headers"] == [*plain[0]["headers"], *more]
    assert found[1:] == plain[1:]
    assert found[0]["status"] == plain[0]["status"]


# -- fetch.py ----------------------------------------------------------------------------------------------

COMMIT = "c1899de289a04d12100db370d81485cdf75e47ca"
HUB = """
import os, pathlib
from huggingface_hub import errors
def snapshot_download(name, revision, allow_patterns=None, token=None, local_files_only=False):
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{name} {revision} local={local_files_only} token={token!r}\\n")
    if "gated" in name:
        raise errors.GatedRepoError("403")
    if "private" in name:
        raise errors.RepositoryNotFoundError("404")
    if "far" in name:
        raise errors.LocalEntryNotFoundError("no network")
    place = pathlib.Path(os.environ["HF_HUB_CACHE"]) / ("models--" + name.replace("/", "--"))
    place = place / "snapshots" / COMMIT
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.safetensors").write_bytes(b"12345")
    return str(place)
"""
ERRORS = """
class GatedRepoError(Exception): pass
class RepositoryNotFoundError(Exception): pass
class LocalEntryNotFoundError(Exception): pass
"""


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A huggingface_hub of the test's own, which notes what is asked."""
    package = tmp_path / "packages" / "huggingface_hub"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"COMMIT = {COMMIT!r}\n{HUB}")
    (package / "errors.py").write_text(ERRORS)
    return tmp_path


def fetch(hub: Path, *models: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    if token is not None:
        (hub / "token").write_text(token + "\n")
    environment = {
        "PYTHONPATH": str(hub / "packages"),
        "HF_HUB_CACHE": str(hub / "models"),
        "CALLS": str(hub / "calls"),
        "FASTQWEN_TOKEN_FILE": str(hub / "token"),
    }
    command = [sys.executable, str(DOCKER / "fetch.py"), *models]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_weights_are_fetched_once_with_their_commit(hub: Path) -> None:
    for _ in range(2):
        done = fetch(hub, f"Qwen/Qwen3-0.6B@{COMMIT}")
        assert done.returncode == 0, done.stderr
        assert f"Qwen/Qwen3-0.6B at {COMMIT}: 5 bytes" in done.stdout
    calls = (hub / "calls").read_text().splitlines()
    assert [call.split()[2] for call in calls] == ["local=False", "local=True"]
    assert (hub / "models" / "models--Qwen--Qwen3-0.6B" / "refs" / COMMIT).read_text() == COMMIT


def test_the_token_is_read_and_shown_nowhere(hub: Path) -> None:
    done = fetch(hub, "Qwen/Qwen3-0.6B@main", token="hf_secret")  # noqa: S106  # of the test's own
    assert "token='hf_secret'" in (hub / "calls").read_text()
    assert "hf_secret" not in done.stdout + done.stderr
    (hub / "calls").unlink()
    (hub / "token").unlink()
    fetch(hub, "Qwen/Qwen3-0.6B@main")
    assert "token=False" in (hub / "calls").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a/gated", "is gated: accept its terms"),
        ("a/private", "no such model, or a private one"),
        ("a/far", "can't be reached"),
    ],
)
def test_a_failed_fetch_is_told_in_one_line(hub: Path, name: str, said: str) -> None:
    done = fetch(hub, f"{name}@main")
    assert done.returncode == 1
    assert said in done.stdout
    assert "Traceback" not in done.stderr
