"""`fastqwen stack`, with stand-ins for docker and nvidia-smi, and loopback servers in the servers' place."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests import nvidia_smi
from tests.conftest import CATALOGUE, ROOT, Fastqwen, read_records, write_rows
from tests.fake_programs import StandIn, programs
from tests.loopback import listening
from tests.probe_server import ProbeServer
from tgi_stack.stack.files.docker_folder import DockerFolder

__all__ = ["programs"]

INFO = json.dumps({"ServerVersion": "28.2.2", "Runtimes": {"runc": {}, "nvidia": {}}})
NO_DAEMON = (
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"
)


@pytest.fixture
def docker(programs: Path) -> StandIn:
    """A Docker that works; its servers are those that the test has listening."""
    made = StandIn("docker", programs)
    made.play("info", INFO).play("compose version", "2.36.2\n").play("ps --all", "")
    return shown(made, UP, after=" up --detach ")


@pytest.fixture
def nvidia(programs: Path) -> StandIn:
    return StandIn("nvidia-smi", programs).play("--query-gpu", nvidia_smi.TWO_L4)


@pytest.fixture
def folder(tmp_path: Path) -> DockerFolder:
    shutil.copytree(
        ROOT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns(".env", "stack.json", "secrets")
    )
    return DockerFolder(tmp_path / "docker")


@pytest.fixture
def servers(folder: DockerFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ProbeServer]]:
    """Both servers, and plans that name them and the model they hold, so that `up` finds them there."""
    write = DockerFolder.write

    def naming(self: DockerFolder, plan: Any, extras: tuple[str, ...], beside: Any = None) -> None:
        write(self, plan, extras, beside)
        rename(self, made)

    with ExitStack() as stack:
        made = {
            "text": stack.enter_context(listening(ProbeServer("tgi"))),
            "vision": stack.enter_context(listening(ProbeServer("vllm"))),
        }
        monkeypatch.setattr(DockerFolder, "write", naming)
        yield made


def rename(folder: DockerFolder, servers: dict[str, ProbeServer]) -> None:
    written = folder.written
    assert written is not None
    for server in written["servers"]:
        server |= {"url": servers[server["kind"]].url, "model": "tiny", "revision": "main"}
    (folder.path / "stack.json").write_text(json.dumps(written))


def last_up(docker: StandIn) -> str:
    """The last call that started something."""
    return [call for call in docker.calls if " up " in call][-1]


FRONT = ("front", "running", "")


def running(*states: tuple[str, str, str], restarts: int = 0, file: str = "") -> str:
    """What `docker inspect` prints of containers: of each its service, status and health."""
    labels = {"com.docker.compose.project.config_files": file}
    return json.dumps(
        [
            {
                "Id": service,
                "RestartCount": restarts,
                "State": {
                    "Status": status,
                    "ExitCode": 7,
                    "Health": {"Status": health} if health else None,
                    "StartedAt": "2026-01-02T03:04:05.123456789Z",
                },
                "Config": {"Labels": labels | {"com.docker.compose.service": service}},
            }
            for service, status, health in (*states, FRONT)
        ]
    )


def shown(docker: StandIn, containers: str, after: str = "") -> StandIn:
    """Docker has these containers from now on, or once it was asked something."""
    return docker.play("ps --all", "one\n", after=after).play("inspect", containers, after=after)


UP = running(("text", "running", "healthy"), ("vision-vllm", "running", "healthy"))
Up = Callable[..., Any]


@pytest.fixture
def up(fastqwen: Fastqwen, folder: DockerFolder) -> Up:
    """`fastqwen stack up` on ports that nobody is likely to hold."""

    def run(*arguments: str, check: int = 0) -> Any:
        ports = ("--text-port", "47080", "--vision-port", "47081")
        return fastqwen("stack", "up", "--docker-dir", folder.path, *ports, *arguments, check=check)

    return run


# -- what is missing -----------------------------------------------------------------------------------------


def test_a_bare_machine_hears_all_it_lacks(up: Up, programs: Path) -> None:
    done = up(check=3)
    assert "Docker: docker is not on PATH; install Docker Engine" in done.stderr
    assert "GPU: nvidia-smi is not on PATH" in done.stderr
    assert "--engine torch" in done.stderr
    assert done.stdout == ""


NO_RUNTIME = json.dumps({"ServerVersion": "28.2.2", "Runtimes": {"runc": {}}})
REFUSED = "permission denied while trying to connect to the Docker daemon socket"


@pytest.mark.parametrize(
    ("part", "status", "stdout", "stderr", "said"),
    [
        ("info", 1, "{}", NO_DAEMON, "no Docker daemon answers; start it: sudo systemctl start docker"),
        ("info", 1, "", REFUSED, "usermod -aG docker"),
        ("compose version", 1, "", "unknown command: docker compose", "docker-compose-plugin"),
        ("info", 0, NO_RUNTIME, "", "nvidia-ctk runtime configure"),
    ],
)
def test_an_unfit_docker_is_told_its_fix(
    up: Up, docker: StandIn, nvidia: StandIn, part: str, status: int, stdout: str, stderr: str, said: str
) -> None:
    docker.play(part, stdout, status=status, stderr=stderr)
    done = up(check=3)
    assert said in done.stderr
    assert not [call for call in docker.calls if " up " in call]


@pytest.mark.parametrize(
    ("table", "status", "said"),
    [
        (nvidia_smi.NO_DRIVER, 9, "couldn't communicate with the NVIDIA driver"),
        (nvidia_smi.NO_DEVICES, 6, "No devices were found"),
        (nvidia_smi.OLD, 0, "compute capability 7.0"),
    ],
)
def test_a_host_without_a_usable_gpu_is_told(
    up: Up, docker: StandIn, programs: Path, table: str, status: int, said: str
) -> None:
    StandIn("nvidia-smi", programs).play("--query-gpu", table, status=status)
    assert said in up(check=3).stderr


def test_models_too_large_are_refused_before_starting(up: Up, docker: StandIn, nvidia: StandIn) -> None:
    done = up("--vision-model", "Qwen/Qwen3-VL-32B-Instruct", "--text-model", "Qwen/Qwen3-8B", check=3)
    assert "MiB too few" in done.stderr
    assert not [call for call in docker.calls if " up " in call or " run " in call]


def test_unservable_models_are_refused_with_the_reason(up: Up, docker: StandIn, nvidia: StandIn) -> None:
    asked = ("--vision", "tgi", "--vision-model", "Qwen/Qwen3-VL-2B-Instruct")
    assert "Unsupported model type qwen3_vl" in up(*asked, check=2).stderr
    assert "VISION=vllm" in up(*asked, check=2).stderr
    assert docker.calls == []


def test_a_port_that_another_program_holds_is_told(
    fastqwen: Fastqwen, folder: DockerFolder, docker: StandIn, nvidia: StandIn
) -> None:
    with listening(ProbeServer("tgi")) as other:
        asked = ("--docker-dir", folder.path, "--text-port", str(other.port), "--vision-port", "47081")
        done = fastqwen("stack", "up", *asked, check=3)
    assert (
        f"port {other.port} of 127.0.0.1 is taken by another program; free it, or give TEXT_PORT"
        in done.stderr
    )


# -- coming up -----------------------------------------------------------------------------------------------


def test_up_starts_both_and_twice_is_harmless(
    up: Up, docker: StandIn, nvidia: StandIn, servers: dict[str, ProbeServer], folder: DockerFolder
) -> None:
    done = up()
    assert "text: tiny on tgi 3.3.7, GPU 1, http://127.0.0.1:" in done.stdout
    assert "vision: tiny on vllm 0.33.0, GPU 0, http://127.0.0.1:" in done.stdout
    asked = [call.partition("compose.yml ")[2] for call in docker.calls]
    assert "run --rm -T --no-deps models" in asked
    assert "up --detach --no-build vision-vllm text front" in asked
    assert all(server.posts >= 2 for server in servers.values())
    before = folder.written

    shown(docker, UP)
    nvidia.play("--query-gpu", nvidia_smi.row(0, "NVIDIA L4", 23034, 500, "8.9"))  # full of our own servers
    up()
    assert folder.written == before
    assert len([call for call in docker.calls if "run --rm" in call]) == 1  # servers that run have weights


def test_servers_on_one_gpu_start_in_turn(
    up: Up, docker: StandIn, nvidia: StandIn, servers: dict[str, ProbeServer]
) -> None:
    nvidia.play("--query-gpu", nvidia_smi.L4)
    up()
    asked = [call.partition("compose.yml ")[2] for call in docker.calls]
    starts = [call for call in asked if call.startswith("up ")]
    assert starts == [
        "up --detach --no-build vision-vllm front",
        "up --detach --no-build text front",
        "up --detach --no-build",
    ]


def test_a_running_stack_is_not_changed_silently(
    up: Up, docker: StandIn, nvidia: StandIn, servers: dict[str, ProbeServer]
) -> None:
    up()
    shown(docker, UP)
    done = up("--text-model", "Qwen/Qwen3-8B", check=2)
    assert "TEXT_MODEL is Qwen/Qwen3-0.6B, asked is Qwen/Qwen3-8B; make down, then make up" in done.stderr


@pytest.mark.slow
def test_the_gateway_comes_beside_what_runs(
    up: Up, docker: StandIn, nvidia: StandIn, servers: dict[str, ProbeServer], folder: DockerFolder
) -> None:
    up()
    shown(docker, UP)
    assert "keys can't be read; a user and a key a line" in up("--gateway", check=2).stderr
    up()
    assert "--profile gateway" not in last_up(docker)
    (folder.secrets / "keys").write_text("alice 0123456789abcdef0123\n")
    # Here no gateway comes up, which is told; what it would be started with is written.
    done = up("--gateway", "--gateway-name", "gpu.example", check=4)
    assert "gateway (https://gpu.example:8443) has no container" in done.stderr
    assert "gateway: keys for 1 users" in done.stderr
    assert "GATEWAY_NAME=gpu.example" in folder.env.read_text().splitlines()
    assert "0123456789abcdef0123" not in done.stderr + done.stdout + "".join(docker.calls)
    assert "--profile gateway" in last_up(docker)
    # Once it is on it stays, also for a plain `make up`; a certificate of one's own is taken.
    for name in ("cert.pem", "key.pem"):
        (folder.secrets / "tls" / name).write_text("-")
    up("--observe", check=4)
    lines = folder.env.read_text().splitlines()
    assert "GATEWAY_NAME=gpu.example" in lines
    assert "GATEWAY_TLS='/run/tls/cert.pem /run/tls/key.pem'" in lines
    assert "--profile gateway" in last_up(docker)


@pytest.mark.parametrize(
    ("part", "log", "said"),
    [
        ("models", "Qwen/Qwen3-0.6B is gated: accept its terms on its page", "the model is gated"),
        ("models", "Error response from daemon: pull access denied for x", "an image can't be pulled"),
        ("up --detach", "Bind for 127.0.0.1:8080 failed: port is already allocated", "a port is taken"),
        ("up --detach", "requirement error: unsatisfied condition: cuda>=12.9", "too old"),
        ("up --detach", "something new went wrong", "it failed; make logs shows more"),
    ],
)  # fmt: skip
def test_dockers_refusal_is_told_in_one_line(
    up: Up, docker: StandIn, nvidia: StandIn, servers: dict[str, ProbeServer], part: str, log: str, said: str
) -> None:
    docker.play(part, stderr=log + "\n", status=1)
    done = up(check=4)
    assert "did not come up" in done.stderr
    assert said in done.stderr
    assert log in done.stderr.partition("the end of its log")[2]


# -- wait ----------------------------------------------------------------------------------------------------


@pytest.fixture
def planned(
    folder: DockerFolder,
    docker: StandIn,
    nvidia: StandIn,
    servers: dict[str, ProbeServer],
    fastqwen: Fastqwen,
) -> DockerFolder:
    fastqwen("stack", "plan", "--docker-dir", folder.path)
    shown(docker, UP)
    return folder


def test_wait_ends_when_both_answer(fastqwen: Fastqwen, planned: DockerFolder) -> None:
    done = fastqwen("stack", "wait", "--docker-dir", planned.path, "--timeout", "20")
    assert done.stderr.count("answers in") == 2


def test_wait_names_server_reason_and_last_lines(
    fastqwen: Fastqwen, planned: DockerFolder, servers: dict[str, ProbeServer], docker: StandIn
) -> None:
    servers["vision"].stop()
    shown(docker, running(("text", "running", "healthy"), ("vision-vllm", "restarting", "starting")))
    docker.play("logs", "INFO starting\nValueError: Unsupported model type qwen3_vl\n")
    done = fastqwen("stack", "wait", "--docker-dir", planned.path, "--timeout", "20", check=4)
    assert "vision (tiny on vllm) did not come up" in done.stderr
    assert "the engine does not know this model type: qwen3_vl" in done.stderr
    assert "ValueError: Unsupported model type" in done.stderr.partition("the end of its log")[2]
    servers["vision"].start()


@pytest.mark.slow
def test_a_lack_of_memory_gets_several_starts(
    fastqwen: Fastqwen,
    planned: DockerFolder,
    servers: dict[str, ProbeServer],
    docker: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tgi_stack.stack.running.waiting.LOOK_EVERY_S", 0.01)
    servers["text"].stop()
    shown(docker, running(("text", "restarting", "starting"), ("vision-vllm", "running", "healthy")))
    docker.play("logs", "torch.OutOfMemoryError: CUDA out of memory.\n")
    done = fastqwen("stack", "wait", "--docker-dir", planned.path, "--timeout", "20", check=4)
    assert "text (tiny on tgi) did not come up: out of GPU memory" in done.stderr
    assert len([call for call in docker.calls if call.startswith("inspect")]) >= 1
    servers["text"].start()


def test_a_server_that_answers_wrongly_is_not_up(
    fastqwen: Fastqwen, planned: DockerFolder, servers: dict[str, ProbeServer]
) -> None:
    servers["text"].contrary = True
    done = fastqwen("stack", "wait", "--docker-dir", planned.path, "--timeout", "0.5", check=4)
    assert "asked to write C, it would write A" in done.stderr


def test_a_server_not_yet_healthy_is_awaited(
    fastqwen: Fastqwen, planned: DockerFolder, docker: StandIn
) -> None:
    shown(docker, running(("text", "running", "starting"), ("vision-vllm", "running", "healthy")))
    done = fastqwen("stack", "wait", "--docker-dir", planned.path, "--timeout", "0.3", check=4)
    assert "its health check has not passed yet" in done.stderr


# -- afterwards ----------------------------------------------------------------------------------------------


def test_jobs_work_without_a_further_setting(
    fastqwen: Fastqwen, tmp_path: Path, planned: DockerFolder, servers: dict[str, ProbeServer]
) -> None:
    """`docker/` lies in the current folder, so the identity comes from its stack.json."""
    endpoints = {
        "FASTQWEN_TEXT_ENDPOINTS": servers["text"].url,
        "FASTQWEN_VISION_ENDPOINTS": servers["vision"].url,
    }
    fastqwen("summarize", CATALOGUE / "images", "--limit", "2", "-o", tmp_path / "s.jsonl", **endpoints)
    rows = write_rows(tmp_path / "p.jsonl", {"prompt": "x", "labels": ["A", "B"]})
    fastqwen("probs", rows, "-o", tmp_path / "o.jsonl")
    assert read_records(tmp_path / "s.jsonl")[0]["engine"] == "vllm"
    identity = json.loads((tmp_path / "o.jsonl.run.json").read_text())["identity"]
    assert (identity["quantization"], identity["dtype"]) == ("none", "fp16")
    refused = fastqwen("probs", rows, "--quantization", "8bit", check=4)
    assert "quantisation none, not 8bit" in refused.stderr


def test_status_says_of_each_server_whether_it_answers(
    fastqwen: Fastqwen, planned: DockerFolder, servers: dict[str, ProbeServer]
) -> None:
    done = fastqwen("stack", "status", "--docker-dir", planned.path)
    assert done.stdout.count("ok: ") == 2
    servers["vision"].stop()
    done = fastqwen("stack", "status", "--docker-dir", planned.path, check=4)
    assert "failure: vision" in done.stdout
    servers["vision"].start()


def test_down_removes_containers_and_leaves_volumes(
    fastqwen: Fastqwen, planned: DockerFolder, docker: StandIn
) -> None:
    fastqwen("stack", "down", "--docker-dir", planned.path)
    call = docker.calls[-1]
    assert call.endswith(" down --remove-orphans")
    assert "--profile vision-tgi-8 " in call
    assert "--volumes" not in call
    assert " -v" not in call


def test_down_without_docker_is_told(fastqwen: Fastqwen, folder: DockerFolder, programs: Path) -> None:
    assert "docker is not on PATH" in fastqwen("stack", "down", "--docker-dir", folder.path, check=3).stderr


@pytest.mark.parametrize("command", ["wait", "status"])
def test_without_a_plan_wait_refuses(
    fastqwen: Fastqwen, folder: DockerFolder, programs: Path, command: str
) -> None:
    done = fastqwen("stack", command, "--docker-dir", folder.path, check=2)
    assert "nothing is planned yet; make up" in done.stderr


# -- plan ----------------------------------------------------------------------------------------------------


def test_a_plan_for_assumed_gpus_writes_nothing(
    fastqwen: Fastqwen, folder: DockerFolder, programs: Path
) -> None:
    done = fastqwen("stack", "plan", "--docker-dir", folder.path, "--assume-gpus", "24,24", "--replicas", "2")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "vision",
        "text",
        "vision-2",
        "text-2",
    ]
    assert folder.written is None


def test_settings_and_stack_name_the_same_models(
    fastqwen: Fastqwen, folder: DockerFolder, programs: Path
) -> None:
    done = fastqwen(
        "stack",
        "plan",
        "--docker-dir",
        folder.path,
        "--assume-gpus",
        "80",
        FASTQWEN_TEXT_MODEL="Qwen/Qwen3-8B",
    )
    assert "tgi 3.3.7, Qwen/Qwen3-8B (none, fp16)" in done.stdout


def test_pin_writes_what_hub_and_registry_say(
    fastqwen: Fastqwen,
    folder: DockerFolder,
    docker: StandIn,
    nvidia: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest = "sha256:" + "cd" * 32
    docker.play("imagetools inspect", f"{digest}\n")
    monkeypatch.setattr("tgi_stack.stack.running.pinning.commit", lambda name: "f" * 40)
    fastqwen("stack", "plan", "--docker-dir", folder.path, "--pin")
    assert folder.pins().models["Qwen/Qwen3-0.6B"] == "f" * 40
    assert folder.pins().images["vllm/vllm-openai:v0.33.0"] == digest
    assert f"CADDY_IMAGE=caddy:2.8.4@{digest}" in folder.env.read_text().splitlines()
    written = folder.written
    assert written is not None
    assert {server["revision"] for server in written["servers"]} == {"f" * 40}


def test_pin_without_buildx_names_it(
    fastqwen: Fastqwen,
    folder: DockerFolder,
    docker: StandIn,
    nvidia: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = folder.pins()
    docker.play("buildx version", stderr="docker: 'buildx' is not a docker command.\n", status=1)
    monkeypatch.setattr("tgi_stack.stack.running.pinning.commit", lambda name: "f" * 40)
    done = fastqwen("stack", "plan", "--docker-dir", folder.path, "--pin", check=3)
    assert "its digest is asked with docker buildx, which is not there; install its plugin" in done.stderr
    assert "tag right" not in done.stderr
    assert folder.pins() == before
    told = fastqwen("doctor", check=None).stderr
    assert "warning: Docker buildx (docker buildx is not there); for make pin: install its plugin" in told


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--text-port", "9001", "--vision-port", "9001"), "TEXT_PORT and VISION_PORT are both 9001"),
        (("--gateway", "--gateway-port", "47081"), "VISION_PORT and GATEWAY_PORT are both 47081"),
        (("--observe", "--grafana-port", "47080"), "TEXT_PORT and GRAFANA_PORT are both 47080"),
    ],
)
def test_equal_ports_are_refused_before_anything_starts(
    up: Up, docker: StandIn, nvidia: StandIn, given: tuple[str, ...], said: str
) -> None:
    assert said in up(*given, check=2).stderr
    assert not [call for call in docker.calls if " up " in call or " run " in call]


@pytest.mark.parametrize(("ran_s", "well"), [(20, False), (300, True)])
def test_status_and_wait_agree_on_restarts(
    fastqwen: Fastqwen, planned: DockerFolder, docker: StandIn, ran_s: int, well: bool
) -> None:
    """A server that was started again three times has to stay up for a while; then it is well for both."""
    since = datetime.fromtimestamp(time.time() - ran_s, UTC).isoformat()
    told = running(("text", "running", "healthy"), ("vision-vllm", "running", "healthy"), restarts=3)
    shown(docker, told.replace("2026-01-02T03:04:05.123456789Z", since))
    where = ("--docker-dir", planned.path)
    waited = fastqwen("stack", "wait", *where, "--timeout", "20" if well else "0.3", check=0 if well else 4)
    status = fastqwen("stack", "status", *where, check=0 if well else 4)
    if not well:
        assert "not up after 0.3 s: it ended and was started again 3 times, 2" in waited.stderr
        assert " s ago; it has to stay up for 60" in waited.stderr
        assert "failure: text" in status.stdout


def test_a_registry_without_digests_leaves_the_pins(
    fastqwen: Fastqwen,
    folder: DockerFolder,
    docker: StandIn,
    nvidia: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = folder.pins()
    docker.play("imagetools inspect", stderr="ERROR: vllm/x: not found, manifest unknown\n", status=1)
    monkeypatch.setattr("tgi_stack.stack.running.pinning.commit", lambda name: "f" * 40)
    done = fastqwen("stack", "plan", "--docker-dir", folder.path, "--pin", check=3)
    assert "an image can't be pulled; is its tag right?" in done.stderr
    assert folder.pins() == before


def test_wait_works_without_docker(fastqwen: Fastqwen, planned: DockerFolder, docker: StandIn) -> None:
    docker.play("", stderr=NO_DAEMON, status=1)
    done = fastqwen("stack", "wait", "--docker-dir", planned.path, "--timeout", "20")
    assert done.stderr.count("answers in") == 2
