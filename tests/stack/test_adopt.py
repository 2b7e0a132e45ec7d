"""Servers that run already: recognised, put behind the front in place of ours, and never stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import nvidia_smi
from tests.conftest import ROOT
from tests.fake_programs import StandIn, programs
from tests.loopback import listening
from tests.probe_server import Obedient
from tests.stack.test_caddy import ask, caddy, free_port
from tests.stack.test_stack import Up, docker, folder, nvidia, running, servers, shown, up
from tgi_stack.errors import ServerError, UsageError
from tgi_stack.stack.files.docker_folder import DockerFolder
from tgi_stack.stack.planning import gpus, plan
from tgi_stack.stack.planning.adopted import parsed
from tgi_stack.stack.planning.request import Request
from tgi_stack.stack.running.adopting import recognised

__all__ = ["docker", "folder", "nvidia", "programs", "servers", "up"]

TEXT, VISION = "Qwen/Qwen3-0.6B", "Qwen/Qwen3-VL-2B-Instruct"


@pytest.fixture
def theirs() -> Iterator[dict[str, Obedient]]:
    """Servers that somebody else has started, under the names that `make up` asks for."""
    with ExitStack() as stack:
        yield {
            "vllm": stack.enter_context(listening(Obedient("vllm", model=TEXT))),
            "sglang": stack.enter_context(listening(Obedient("sglang", model=VISION))),
            "tgi": stack.enter_context(listening(Obedient("tgi", model=TEXT))),
        }


def asked(*found: Obedient, **fields: str | int) -> Request:
    return Request(adopt=",".join(server.url for server in found), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("engine", "kind"), [("vllm", "text"), ("sglang", "vision"), ("tgi", "text")])
def test_each_engine_is_recognised(theirs: dict[str, Obedient], engine: str, kind: str) -> None:
    (found,) = recognised(asked(theirs[engine]))
    assert (found.kind, found.engine, found.urls) == (kind, engine, (theirs[engine].url,))
    assert found.model == {"text": TEXT, "vision": VISION}[kind]


def test_another_model_is_refused_with_its_name(theirs: dict[str, Obedient]) -> None:
    with pytest.raises(UsageError, match=rf"it is vllm with {TEXT}; .*Qwen3-4B.*name it: TEXT_M"):
        recognised(asked(theirs["vllm"], text_model="Qwen/Qwen3-4B"))


def test_nothing_there_is_told_before_anything_starts(up: Up, docker: StandIn, nvidia: StandIn) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = up("--adopt", url, check=4).stderr
    assert f"ADOPT={url}: no server answers there" in said
    assert "start it first" in said
    assert docker.calls == []


def test_a_server_with_a_key_is_for_endpoint() -> None:
    with (
        listening(Obedient("vllm", model=TEXT, api_key="k" * 20)) as keyed,
        pytest.raises(ServerError, match="--endpoint"),
    ):
        recognised(asked(keyed))


def test_a_kind_may_be_told(theirs: dict[str, Obedient]) -> None:
    url = theirs["vllm"].url
    assert recognised(Request(adopt=f"text={url}"))[0].kind == "text"
    with pytest.raises(UsageError, match="asked is VISION_MODEL="):
        recognised(Request(adopt=f"vision={url}"))


def test_replicas_have_to_be_alike(theirs: dict[str, Obedient]) -> None:
    with listening(Obedient("vllm", model=TEXT)) as second:
        (found,) = recognised(asked(theirs["vllm"], second))
        assert found.upstreams == f"127.0.0.1:{theirs['vllm'].port} 127.0.0.1:{second.port}"
    with pytest.raises(UsageError, match="servers that differ"):
        recognised(asked(theirs["vllm"], theirs["tgi"]))


def test_the_fronts_own_place_is_refused(theirs: dict[str, Obedient]) -> None:
    with pytest.raises(UsageError, match=r"port \d+, where the front would listen for text; TEXT_PORT="):
        recognised(asked(theirs["vllm"], text_port=theirs["vllm"].port))


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "https://h:8000",
        "http://h",
        "http://h:1/v1",
        "http://u:p@h:80",
        "http://h:x",
        "http://a b:80",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="give http://HOST:PORT"):
        Request(adopt=url)


def test_urls_are_told_once() -> None:
    assert parsed(" http://h:1/,http://h:1 ,text=http://[::1]:2") == {
        "http://h:1": "",
        "http://[::1]:2": "text",
    }


def test_an_adopted_kind_needs_no_gpu(theirs: dict[str, Obedient]) -> None:
    request = asked(theirs["vllm"], theirs["sglang"])
    made = plan.make(request, gpus.GpuSurvey((), problem="none"), recognised(request))
    assert made.servers == ()
    only_text = asked(theirs["vllm"])
    placed = plan.make(only_text, gpus.parse(nvidia_smi.L4), recognised(only_text))
    assert [server.kind for server in placed.servers] == ["vision"]


def test_files_put_the_front_before_it(tmp_path: Path, theirs: dict[str, Obedient]) -> None:
    for name in ("compose.yml", "pins.json"):
        shutil.copy(ROOT / "docker" / name, tmp_path)
    made = DockerFolder(tmp_path)
    request = asked(theirs["vllm"])
    made.write(plan.make(request, gpus.parse(nvidia_smi.L4), recognised(request)), ())
    lines = made.env.read_text().splitlines()
    assert "TEXT_SERVERS=text_adopted" in lines
    assert f"TEXT_ADOPTED=127.0.0.1:{theirs['vllm'].port}" in lines
    assert not [line for line in lines if line.startswith(("VISION_SERVERS", f"MODELS={TEXT}"))]
    assert made.profiles == ("vision-vllm", "text-adopted")
    assert (tmp_path / "prometheus/adopted-text.json").read_text() == '[{"targets": ["front:8080"]}]\n'
    assert (tmp_path / "prometheus/adopted-vision.json").read_text() == "[]\n"


BOTH = running(("text-adopted", "running", ""), ("vision-adopted", "running", ""))


def test_up_adopts_and_other_commands_know(
    up: Up,
    docker: StandIn,
    programs: Path,
    theirs: dict[str, Obedient],
    servers: object,
) -> None:
    """On a host without a GPU or NVIDIA's toolkit: neither is needed."""
    docker.play("info", '{"ServerVersion": "28.2.2", "Runtimes": {"runc": {}}}')
    shown(docker, BOTH, after=" up --detach ")
    adopt = ("--adopt", f"{theirs['vllm'].url},{theirs['sglang'].url}")
    said = up(*adopt).stdout
    assert f"not ours, at {theirs['vllm'].url};" in said
    started = [call.partition("compose.yml ")[2] for call in docker.calls if "compose.yml " in call]
    assert [call for call in started if "models" in call] == []
    assert "up --detach --no-build" in started
    shown(docker, BOTH)
    up()  # whoever names none means those that were adopted
    up(*adopt)
    said = up("--adopt", theirs["tgi"].url, check=2).stderr
    assert "ADOPT is text=http" in said
    assert "make down, then make up" in said
    assert up("--gateway", check=2).stderr.count("keys can't be read") == 1


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")
def test_front_and_relay_lead_to_it(tmp_path: Path, theirs: dict[str, Obedient]) -> None:
    """The front knows a socket alone; what it refuses never comes to the relay."""
    port = free_port()
    for name in ("relay", "front"):
        (tmp_path / name).mkdir()
    relay = {"SOCKET": str(tmp_path / "text.sock"), "UPSTREAMS": f"127.0.0.1:{theirs['vllm'].port}"}
    front = {"TEXT_LISTEN": str(port), "VISION_LISTEN": str(free_port())}
    chosen = {"TEXT_SERVERS": "text_adopted", "VISION_SERVERS": "vision_adopted", "ADOPTED": str(tmp_path)}
    with (
        caddy(tmp_path / "relay", "adopted.Caddyfile", **relay),
        caddy(tmp_path / "front", "Caddyfile", **front, **chosen),
    ):
        url = f"http://127.0.0.1:{port}"
        status, _, body = ask(url, "GET", "/v1/models")
        assert (status, TEXT.encode() in body) == (200, True)
        assert ask(url, "POST", "/tokenize")[0] == 403
        theirs["vllm"].stop()
        try:
            assert ask(url, "GET", "/v1/models")[0] == 502
        finally:
            theirs["vllm"].start()
