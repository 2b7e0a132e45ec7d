"""Servers that run already: recognised, put behind the front in place of ours, and never stopped."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import nvidia_smi
from tests.certificates import authority
from tests.conftest import ROOT
from tests.fake_programs import StandIn, programs
from tests.loopback import listening
from tests.probe_server import ProbeServer
from tests.stack.test_caddy import ask, caddy, free_port
from tests.stack.test_stack import Up, docker, folder, nvidia, running, servers, shown, up
from tgi_stack.errors import ServerError, UsageError
from tgi_stack.stack.files.adopted import keep
from tgi_stack.stack.files.docker_folder import DockerFolder
from tgi_stack.stack.planning import gpus, plan
from tgi_stack.stack.planning.adopted import Adopted, parsed
from tgi_stack.stack.planning.request import Request
from tgi_stack.stack.running.adopting import recognised

__all__ = ["docker", "folder", "nvidia", "programs", "servers", "up"]

TEXT, VISION = "Qwen/Qwen3-0.6B", "Qwen/Qwen3-VL-2B-Instruct"


@pytest.fixture
def theirs() -> Iterator[dict[str, ProbeServer]]:
    """Servers that somebody else has started, under the names that `make up` asks for."""
    with ExitStack() as stack:
        yield {
            "vllm": stack.enter_context(listening(ProbeServer("vllm", model=TEXT))),
            "sglang": stack.enter_context(listening(ProbeServer("sglang", model=VISION))),
            "tgi": stack.enter_context(listening(ProbeServer("tgi", model=TEXT))),
        }


def asked(*found: ProbeServer, **fields: str | int) -> Request:
    return Request(adopt=",".join(server.url for server in found), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("engine", "kind"), [("vllm", "text"), ("sglang", "vision"), ("tgi", "text")])
def test_each_engine_is_recognised(theirs: dict[str, ProbeServer], engine: str, kind: str) -> None:
    (found,) = recognised(asked(theirs[engine]))
    assert (found.kind, found.engine, found.urls) == (kind, engine, (theirs[engine].url,))
    assert found.model == {"text": TEXT, "vision": VISION}[kind]


def test_another_model_is_refused_with_its_name(theirs: dict[str, ProbeServer]) -> None:
    with pytest.raises(UsageError, match=rf"it is vllm with {TEXT}; .*Qwen3-4B.*name it: TEXT_M"):
        recognised(asked(theirs["vllm"], text_model="Qwen/Qwen3-4B"))


def test_nothing_there_is_told_before_anything_starts(up: Up, docker: StandIn, nvidia: StandIn) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    said = up("--adopt", url, check=4).stderr
    assert f"ADOPT={url}: no server answers there" in said
    assert "start it first" in said
    assert docker.calls == []


OWN = "own-key-of-their-server"


@pytest.mark.parametrize("given", ["file", "variable", "wrong", "none"])
def test_a_servers_own_key_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """In a file or a variable; a missing or a wrong one is told, and never shown."""
    fields = {}
    if given in ("file", "wrong"):
        (tmp_path / "key").write_text(OWN + ("-not" if given == "wrong" else "") + "\n")
        fields["adopt_key_file"] = str(tmp_path / "key")
    elif given == "variable":
        monkeypatch.setenv("FASTQWEN_ADOPT_KEY", OWN)
    with listening(ProbeServer("vllm", model=TEXT, api_key=OWN)) as keyed:
        if given in ("file", "variable"):
            assert recognised(asked(keyed, **fields))[0].kind == "text"
            return
        with pytest.raises(
            ServerError, match="it wants a key, or another one: ADOPT_KEY_FILE=FILE"
        ) as refused:
            recognised(asked(keyed, **fields))
    assert OWN not in str(refused.value)


@dataclass
class OverTls(ProbeServer):
    """Speaks TLS on 127.0.0.1, by a certificate of the tests' authority."""

    folder: Path = Path()

    async def _start(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.folder / "own.pem", self.folder / "own.key")
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("certificates"), own="IP:127.0.0.1")


def test_one_of_tls_needs_its_authority(certificates: Path) -> None:
    with listening(OverTls("vllm", model=TEXT, folder=certificates)) as secured:
        with pytest.raises(ServerError, match=r"certificate can't be verified.*ADOPT_CA_FILE=FILE"):
            recognised(asked(secured))
        (found,) = recognised(asked(secured, adopt_ca_file=str(certificates / "ca.pem")))
        assert (found.is_tls, found.upstreams) == (True, secured.url)


def test_a_key_without_a_server_is_refused() -> None:
    with pytest.raises(UsageError, match="are for the servers of ADOPT=URL"):
        Request(adopt_key_file="key")


def test_a_kind_may_be_told(theirs: dict[str, ProbeServer]) -> None:
    url = theirs["vllm"].url
    assert recognised(Request(adopt=f"text={url}"))[0].kind == "text"
    with pytest.raises(UsageError, match="asked is VISION_MODEL="):
        recognised(Request(adopt=f"vision={url}"))


def test_replicas_have_to_be_alike(theirs: dict[str, ProbeServer]) -> None:
    with listening(ProbeServer("vllm", model=TEXT)) as second:
        (found,) = recognised(asked(theirs["vllm"], second))
        assert found.upstreams == f"127.0.0.1:{theirs['vllm'].port} 127.0.0.1:{second.port}"
    with pytest.raises(UsageError, match="servers that differ"):
        recognised(asked(theirs["vllm"], theirs["tgi"]))


def test_the_fronts_own_place_is_refused(theirs: dict[str, ProbeServer]) -> None:
    with pytest.raises(UsageError, match=r"port \d+, where the front would listen for text; TEXT_PORT="):
        recognised(asked(theirs["vllm"], text_port=theirs["vllm"].port))


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "https://h:8000/v1",
        "https://",
        "https://u:p@h",
        "ftp://h:1",
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
    assert parsed(" http://h:1/,http://h:1 ,text=http://[::1]:2,https://h/") == {
        "http://h:1": "",
        "http://[::1]:2": "text",
        "https://h": "",
    }
    one = Adopted("text", ("https://h", "https://[::1]:2"), "vllm", "1", "m")
    assert one.upstreams == "https://h:443 https://[::1]:2"


def test_an_adopted_kind_needs_no_gpu(theirs: dict[str, ProbeServer]) -> None:
    request = asked(theirs["vllm"], theirs["sglang"])
    made = plan.make(request, gpus.GpuSurvey((), problem="none"), recognised(request))
    assert made.servers == ()
    only_text = asked(theirs["vllm"])
    placed = plan.make(only_text, gpus.parse(nvidia_smi.L4), recognised(only_text))
    assert [server.kind for server in placed.servers] == ["vision"]


def test_files_put_the_front_before_it(tmp_path: Path, theirs: dict[str, ProbeServer]) -> None:
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
    theirs: dict[str, ProbeServer],
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


@pytest.mark.slow
def test_the_key_goes_to_the_relay_alone(
    up: Up,
    docker: StandIn,
    folder: DockerFolder,
    servers: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Into a file of docker/secrets; a plan without one takes it away."""
    docker.play("info", '{"ServerVersion": "28.2.2", "Runtimes": {"runc": {}}}')
    shown(docker, BOTH, after=" up --detach ")
    (tmp_path / "key").write_text(OWN + "\n")
    with (
        listening(ProbeServer("vllm", model=TEXT, api_key=OWN)) as text,
        listening(ProbeServer("sglang", model=VISION, api_key=OWN)) as vision,
    ):
        adopt = ("--adopt", f"{text.url},{vision.url}")
        said = up(*adopt, "--adopt-key-file", str(tmp_path / "key"))
        assert (folder.secrets / "adopted" / "key").read_text() == OWN
        outside = [
            path for path in folder.path.rglob("*") if path.is_file() and path.parent.name != "adopted"
        ]
        texts = [said.stdout, said.stderr, *(path.read_text(errors="replace") for path in outside)]
        assert not any(OWN in text for text in [*texts, *docker.calls])
        lines = folder.env.read_text().splitlines()
        assert "ADOPTED_AUTH=key" in lines
        before = [line for line in lines if line.startswith("ADOPTED_OF=")]
        shown(docker, BOTH)
        up()  # whoever names none means those that were adopted, with their key
        assert (folder.secrets / "adopted" / "key").read_text() == OWN
        text.api_key = vision.api_key = OWN[::-1]
        (tmp_path / "key").write_text(OWN[::-1])
        up()
        assert (folder.secrets / "adopted" / "key").read_text() == OWN[::-1]
        assert [line for line in folder.env.read_text().splitlines() if line in before] == []
        (tmp_path / "key").unlink()
        up()  # what the relay has stays
        assert (folder.secrets / "adopted" / "key").read_text() == OWN[::-1]


def test_a_key_of_before_is_not_given_on(
    up: Up, docker: StandIn, folder: DockerFolder, servers: object, theirs: dict[str, ProbeServer]
) -> None:
    docker.play("info", '{"ServerVersion": "28.2.2", "Runtimes": {"runc": {}}}')
    shown(docker, BOTH, after=" up --detach ")
    keep(folder.path, OWN, None)
    up("--adopt", f"{theirs['vllm'].url},{theirs['sglang'].url}")
    assert not (folder.secrets / "adopted" / "key").exists()
    assert "ADOPTED_AUTH=no_key" in folder.env.read_text().splitlines()


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")
@pytest.mark.slow
def test_front_and_relay_lead_to_it(tmp_path: Path, theirs: dict[str, ProbeServer]) -> None:
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


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")
def test_the_relay_speaks_tls_and_gives_the_key(tmp_path: Path, certificates: Path) -> None:
    """A user's own key, had it come so far, is none of the server's business."""
    with listening(OverTls("vllm", model=TEXT, api_key=OWN, folder=certificates)) as secured:
        given = {"SOCKET": str(tmp_path / "text.sock"), "UPSTREAMS": secured.url, "WIRE": "tls"}
        given |= {"ADOPTED_ROOTS": "own_roots", "ADOPTED_SECRETS": str(certificates)}
        for key, status in ((OWN, 200), ("another", 401), ("{env.HOME}", 401)):
            keyed = {"ADOPTED_AUTH": "key", "ADOPTED_KEY": key}
            with caddy(tmp_path, "adopted.Caddyfile", **given, **keyed):
                heads = b"Host: x\r\nAuthorization: Bearer user\r\nConnection: close\r\n\r\n"
                with socket.socket(socket.AF_UNIX) as wire:
                    wire.connect(given["SOCKET"])
                    wire.sendall(b"GET /v1/models HTTP/1.1\r\n" + heads)
                    assert wire.recv(64).startswith(f"HTTP/1.1 {status}".encode())
            Path(given["SOCKET"]).unlink(missing_ok=True)
