"""The files beside the compose file, the faults of logs, and identities from stack.json."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from tests import nvidia_smi
from tests.conftest import ROOT
from tgi_stack.backends.servers.protocols.reply import Served
from tgi_stack.errors import DiskError, UsageError
from tgi_stack.stack.files import docker_folder, keys
from tgi_stack.stack.files.declared import Declared, declared
from tgi_stack.stack.files.docker_folder import DockerFolder
from tgi_stack.stack.planning import gpus, plan
from tgi_stack.stack.planning.request import Request
from tgi_stack.stack.running import faults

KEY = "0123456789abcdef0123"


@pytest.fixture
def folder(tmp_path: Path) -> DockerFolder:
    for name in ("compose.yml", "pins.json", "doorkeeper.py", "fetch.py", "tgi.sh", "vllm.sh"):
        shutil.copy(ROOT / "docker" / name, tmp_path)
    for name in ("caddy", "grafana", "prometheus"):
        shutil.copytree(ROOT / "docker" / name, tmp_path / name)
    return DockerFolder(tmp_path)


def written(folder: DockerFolder, request: Request | None = None) -> DockerFolder:
    folder.write(plan.make(request or Request(), gpus.parse(nvidia_smi.TWO_L4)), ())
    return folder


def test_the_identity_of_each_server_is_written(folder: DockerFolder) -> None:
    found = written(folder).written
    assert found is not None
    vision, text = found["servers"]
    assert (text["engine"], text["engine_version"], text["model"]) == ("tgi", "3.3.7", "Qwen/Qwen3-0.6B")
    assert (text["quantization"], text["dtype"], text["url"]) == ("none", "fp16", "http://127.0.0.1:8080")
    assert (vision["engine"], vision["dtype"], vision["url"]) == ("vllm", "bf16", "http://127.0.0.1:8081")
    assert len(text["revision"]) == 40
    assert found["request"] == Request().as_dict()


def test_a_plan_of_another_version_is_none(folder: DockerFolder) -> None:
    assert folder.written is None
    for content in ("", "[]", '{"version": 99}', "{"):
        (folder.path / "stack.json").write_text(content)
        assert folder.written is None


def test_a_model_without_a_pin_is_of_main(folder: DockerFolder) -> None:
    found = written(folder, Request(vision_model="Qwen/Qwen3-VL-8B-Instruct-FP8")).written
    assert found is not None
    assert found["servers"][0]["revision"] == "main"


def test_a_broken_file_of_pins_is_told(folder: DockerFolder) -> None:
    (folder.path / "pins.json").write_text("{}")
    with pytest.raises(UsageError, match=r"pins\.json: .*; restore it"):
        folder.pins()


def test_extras_are_added_to_a_plan_that_stays(folder: DockerFolder) -> None:
    found = written(folder).written
    assert found is not None
    folder.add_extras(found, ("gateway",))
    assert folder.profiles == ("vision-vllm", "text", "gateway")
    lines = folder.env.read_text().splitlines()
    assert "COMPOSE_PROFILES=vision-vllm,text,gateway" in lines
    assert len(lines) == len({line.split("=")[0] for line in lines})


def test_a_folder_without_a_compose_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no compose\.yml in .*--docker-dir"):
        docker_folder.locate(tmp_path)
    assert docker_folder.locate(None).path == ROOT / "docker"


# -- secrets -----------------------------------------------------------------------------------------------


def test_secrets_are_open_in_containers_alone(folder: DockerFolder) -> None:
    folder.secrets.mkdir()
    (folder.secrets / "hf_token").write_text("hf_x")
    (folder.secrets / "hf_token").chmod(0o600)
    keys.prepare(folder.path)
    assert stat.S_IMODE(folder.secrets.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder.secrets / "hf_token").stat().st_mode) == 0o644
    assert (folder.secrets / "hf_token").read_text() == "hf_x"


def test_an_unreadable_mounted_file_is_told(folder: DockerFolder) -> None:
    keys.refuse_closed_files(folder.path)
    (folder.path / "caddy" / "Caddyfile").chmod(0o600)
    with pytest.raises(DiskError, match=r"Caddyfile is closed to other users.*chmod -R go\+rX"):
        keys.refuse_closed_files(folder.path)


def test_users_are_those_with_a_key(folder: DockerFolder) -> None:
    """Two keys of one user are how a key is replaced."""
    keys.prepare(folder.path)
    (folder.secrets / "keys").write_text(f"# team\nbob {KEY}a\n\nalice {KEY}b\nbob {KEY}c\n")
    assert keys.users(folder.path) == {f"{KEY}a": "bob", f"{KEY}b": "alice", f"{KEY}c": "bob"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read"),
        ("# nobody\n", "holds no key"),
        ("alice short\n", "line 1: a user and a key of 20 or more"),
        (f'alice {KEY}\nbob {KEY}"\n', "line 2: a user and a key"),
        (f"alice {KEY} more\n", "line 1"),
        (f"alice {KEY}\nbob {KEY}\n", "line 2: the key of another line"),
    ],
)
def test_a_bad_key_file_shows_no_key(folder: DockerFolder, content: str | None, said: str) -> None:
    keys.prepare(folder.path)
    if content is not None:
        (folder.secrets / "keys").write_text(content)
    with pytest.raises(UsageError) as caught:
        keys.users(folder.path)
    assert said in str(caught.value)
    assert KEY not in str(caught.value)


# -- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out of GPU memory"),
        ("RuntimeError: Not enough memory to handle 16384 prefill tokens.", "out of GPU memory"),
        ("Free memory on startup is less than desired GPU memory utilization (0.9)", "out of GPU memory"),
        ("ValueError: Unsupported model type qwen3_vl", "does not know this model type: qwen3_vl"),
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "no GPU in the container"),
        ("Error response from daemon: unknown or invalid runtime name: nvidia", "the NVIDIA runtime"),
        ("Bind for 127.0.0.1:8080 failed: port is already allocated", "a port is taken"),
        ("requirement error: unsatisfied condition: cuda>=12.9, please update", "driver is too old"),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error", "the model is gated"),
        ("Error response from daemon: pull access denied for vllm/vllm-openai", "can't be pulled"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "no Docker daemon answers"),
        ("write /var/lib/docker/tmp/x: no space left on device", "the disk is full"),
        (
            'Error response from daemon: Get "https://registry.example/v2/": dial tcp: lookup '
            "registry.example on 127.0.0.1:53: read udp 127.0.0.1:5->127.0.0.1:53: connection refused",
            "the registry of the images can't be reached",
        ),
        (
            'Get "https://registry.example/v2/": net/http: TLS handshake timeout',
            "the registry of the images can't be reached",
        ),
        (
            'Get "https://registry.example/v2/": context deadline exceeded (Client.Timeout exceeded while '
            "awaiting headers)",
            "the registry of the images can't be reached",
        ),
        (
            'Get "https://registry.example/v2/": tls: failed to verify certificate: x509: certificate signed '
            "by unknown authority",
            "the registry's certificate can't be verified",
        ),
        ("toomanyrequests: You have reached your pull rate limit.", "lets this host pull no more"),
        ("ValueError: Unknown quantization method: bitsandbytes.", "can't quantise this model so"),
    ],
)
def test_a_log_is_read_for_its_reason(log: str, reason: str) -> None:
    fault = faults.diagnose(f"INFO starting\n{log}\nINFO stopped")
    assert fault is not None
    assert reason in fault.reason
    assert fault.fix


def test_a_log_of_nothing_known_has_no_reason() -> None:
    assert faults.diagnose("Segmentation fault") is None
    assert faults.last_lines("\n".join(map(str, range(100)))).split() == [str(i) for i in range(88, 100)]


# -- identities --------------------------------------------------------------------------------------------


def served(model: str = "Qwen/Qwen3-0.6B", dialect: str = "tgi") -> Served:
    return Served(dialect, model, model, "3", 4096)


def test_identities_are_known_for_stack_urls(folder: DockerFolder) -> None:
    place = (written(folder).path / "stack.json",)
    for url in ("http://127.0.0.1:8080", "http://localhost:8080"):
        found = declared(url, served(), place)
        assert (found.quantization, found.dtype) == ("none", "fp16")
        assert len(found.revision) == 40


def test_a_changed_server_gets_no_identity(folder: DockerFolder) -> None:
    place = (written(folder).path / "stack.json",)
    nothing = Declared()
    assert declared("http://gpu:8080", served(), place) == nothing
    assert declared("http://127.0.0.1:8080", served("Qwen/Qwen3-8B"), place) == nothing
    assert declared("http://127.0.0.1:8080", served(dialect="vllm"), place) == nothing
    place[0].write_text(json.dumps({"servers": [{"url": 3}]}))
    assert declared("http://127.0.0.1:8080", served(), place) == nothing
