"""The compose file as Compose itself renders it: its schema, each security property, each launch argument.

Debian's docker-compose renders it without an engine; it brings the schema of the Compose Specification.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml  # comes with huggingface-hub

from tests import nvidia_smi
from tests.conftest import ROOT
from tests.server_options import SGLANG_OPTIONS, TGI_OPTIONS, TGI_VARIABLES, VLLM_OPTIONS, VLLM_VARIABLES
from tgi_stack.errors import UsageError
from tgi_stack.stack.files.docker_folder import ALL_PROFILES, DockerFolder
from tgi_stack.stack.files.rendering import OTHER_IMAGES
from tgi_stack.stack.planning import gpus, plan
from tgi_stack.stack.planning.beside import Beside
from tgi_stack.stack.planning.engines import ENGINES
from tgi_stack.stack.planning.request import Request

pytestmark = pytest.mark.skipif(
    shutil.which("docker-compose") is None, reason="docker-compose is not installed"
)

FILE = ROOT / "docker" / "compose.yml"
SCHEMA = Path("/usr/lib/python3/dist-packages/compose/config/compose_spec.json")
SERVERS = ("text", "text-vllm", "text-sglang", "vision-vllm", "vision-tgi", "vision-sglang")
OPTIONS = {
    "vision-vllm": VLLM_OPTIONS,
    "text-vllm": VLLM_OPTIONS,
    "vision-sglang": SGLANG_OPTIONS,
    "text-sglang": SGLANG_OPTIONS,
}
SWITCHES = {
    f"{kind}-{engine}": switch
    for kind in ("text", "vision")
    for engine, switch in (("vllm", ("VLLM_NO_USAGE_STATS", "1")), ("sglang", ("DO_NOT_TRACK", "1")))
}
Services = dict[str, dict[str, Any]]


def rendered(folder: Path = FILE.parent) -> dict[str, Any]:
    """What Compose makes of the file; version 1 shows all services, whatever their profiles."""
    env = ["--env-file", str(folder / ".env")] if (folder / ".env").exists() else []
    command = ["docker-compose", *env, "--project-directory", str(folder), "-f", str(folder / "compose.yml")]
    done = subprocess.run([*command, "config"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return rendered()


@pytest.fixture(scope="module")
def services(document: dict[str, Any]) -> Services:
    found: Services = document["services"]
    return found


def planned(folder: Path, request: Request, table: str) -> Services:
    """The services as a plan's variables make them."""
    for name in ("compose.yml", "pins.json"):
        shutil.copy(FILE.parent / name, folder)
    DockerFolder(folder).write(plan.make(request, gpus.parse(table)), ("gateway", "observe"))
    found: Services = rendered(folder)["services"]
    return found


def words(service: dict[str, Any]) -> list[str]:
    command = service["command"]
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command]


def options(service: dict[str, Any]) -> dict[str, str | None]:
    """Each option with its value; None for a switch."""
    given = words(service)
    pairs = zip(given, [*given[1:], None], strict=True)
    return {
        word: value if value is not None and not value.startswith("--") else None
        for word, value in pairs
        if word.startswith("--")
    }


def kind_of(name: str) -> str | None:
    return next((kind for kind in SERVERS if name.rstrip("2345678").rstrip("-") == kind), None)


# -- the file --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SCHEMA.exists(), reason="this docker-compose brings no schema")
def test_the_file_is_valid_by_the_compose_specification() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load(FILE.read_text()))


def test_profiles_are_those_that_the_stack_knows(services: Services) -> None:
    found = {profile for service in services.values() for profile in service.get("profiles", [])}
    assert found == set(ALL_PROFILES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "profile",
    ["text", "vision-vllm", "vision-tgi", "vision-sglang", "gateway", "observe", "models", "text-8"],
)
def test_each_profile_stands_alone(profile: str) -> None:
    command = ["docker-compose", "-f", str(FILE), "--profile", profile, "config", "--services"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "front" in done.stdout.split()


def test_images_are_those_that_pin_asks_for(services: Services) -> None:
    named = {service["image"] for service in services.values()}
    assert named == {engine.image for engine in ENGINES.values()} | set(OTHER_IMAGES.values())


def test_bind_mounts_are_files_of_the_repository(services: Services) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("/") and "/secrets" not in source:
                assert Path(source).exists(), f"{name}: {source}"


# -- what keeps servers in ---------------------------------------------------------------------------------


def test_servers_are_isolated_and_hold_no_secret(document: dict[str, Any], services: Services) -> None:
    internal = {"servers", "inner"}
    assert all(document["networks"][network]["internal"] is True for network in internal)
    for name, service in services.items():
        if kind_of(name) or name in ("prometheus", "dcgm-exporter", "doorkeeper", "tier-exporter"):
            assert set(service["networks"]) <= ({"servers"} if kind_of(name) else internal), name
            assert "ports" not in service, name
            assert "secrets" not in service, name
    for name, service in services.items():
        if kind_of(name):
            told = {*service["environment"], *words(service)}
            assert not {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "API_KEY", "VLLM_API_KEY", "--api-key"} & told


def test_the_doorkeeper_sees_keys_alone(services: Services) -> None:
    """Of the folder of secrets, which it sees so that a file put in a file's place is seen too."""
    for name, service in services.items():
        of_secrets = [one for one in service.get("volumes", []) if one.split(":")[0].endswith("/secrets")]
        assert of_secrets == (
            ["/".join([str(FILE.parent), "secrets:/keys:ro"])] if name == "doorkeeper" else []
        )
    keeper = services["doorkeeper"]
    assert "/dev/null:/keys/hf_token:ro" in keeper["volumes"]
    assert [entry.split(":")[0] for entry in keeper["tmpfs"]] == ["/keys/tls"]
    assert keeper["user"] == "65534:65534"
    assert list(keeper["networks"]) == ["inner"]


def test_the_tier_is_bounded_and_has_users(tmp_path: Path, services: Services) -> None:
    given = options(services["tier"])
    assert given["--aclfile"] == "/run/tier/users.acl"
    assert given["--maxmemory-policy"] == "allkeys-lru"
    assert given["--maxmemory"] == "1gb"
    assert set(services["tier"]["networks"]) == {"inner", "outside"}
    assert services["tier"]["mem_limit"] == "2304m"
    for name in ("compose.yml", "pins.json"):
        shutil.copy(FILE.parent / name, tmp_path)
    made = plan.make(Request(), gpus.parse(nvidia_smi.L4))
    DockerFolder(tmp_path).write(made, ("tier",), Beside(tier_memory="3g", tier_port=7000))
    planned_so = rendered(tmp_path)["services"]["tier"]
    assert options(planned_so)["--maxmemory"] == "3gb"
    assert planned_so["mem_limit"] == "6400m"
    assert planned_so["ports"] == ["127.0.0.1:7000:6379/tcp"]


def test_a_relay_opens_no_port(services: Services) -> None:
    """It is in this host's network; a socket is all that leads to it."""
    for kind in ("text", "vision"):
        relay = services[f"{kind}-adopted"]
        assert relay["network_mode"] == "host"
        assert "ports" not in relay
        assert relay["environment"]["SOCKET"] == f"/run/adopted/{kind}.sock"
    for name, service in services.items():
        shares = [one for one in service.get("volumes", []) if one.startswith("adopted:")]
        assert bool(shares) == (name in ("front", "gateway", "text-adopted", "vision-adopted")), name
        assert "network_mode" not in service or name.endswith("-adopted")


def test_published_ports_need_an_ordinary_network(document: dict[str, Any], services: Services) -> None:
    """Docker publishes no port of a container that has internal networks only."""
    networks = document["networks"]
    publishing = {name: service for name, service in services.items() if service.get("ports")}
    assert set(publishing) == {"front", "gateway", "grafana", "tier"}
    for name, service in publishing.items():
        assert any(not (networks[network] or {}).get("internal") for network in service["networks"]), name


def test_only_the_gateway_listens_beyond_this_host(services: Services) -> None:
    for name, service in services.items():
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:") or name == "gateway"


@pytest.mark.parametrize(
    "setting", ["read_only", "cap_drop", "security_opt", "pids_limit", "mem_limit", "restart"]
)
def test_every_container_is_hardened(services: Services, setting: str) -> None:
    wanted: dict[str, list[Any]] = {
        "read_only": [True],
        "cap_drop": [["ALL"]],
        "security_opt": [["no-new-privileges:true"]],
        "restart": ["unless-stopped", "no"],
    }
    for name, service in services.items():
        assert setting in service, name
        if setting in wanted:
            assert service[setting] in wanted[setting], name
        assert service.get("cap_add") in (None, ["NET_BIND_SERVICE"]), name
        assert not service.get("privileged"), name
    assert services["models"]["restart"] == "no"


def test_servers_write_only_to_named_places(services: Services) -> None:
    for name, service in services.items():
        if kind_of(name):
            places = {volume.split(":")[1]: volume.split(":")[2] for volume in service["volumes"]}
            assert places["/models"] == "ro"
            writable = {place for place, mode in places.items() if mode == "rw"}
            assert writable == {"/compiled"}, name
            assert {entry.split(":")[0] for entry in service["tmpfs"]} == {"/tmp", "/home/server"}  # noqa: S108
            environment = service["environment"]
            assert environment["HOME"] == "/home/server"
            caches = ["TRITON_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"]
            caches += ["VLLM_CACHE_ROOT"] if str(kind_of(name)).endswith("vllm") else []
            assert all(environment[cache].startswith("/compiled/") for cache in caches)


def test_one_service_has_token_and_writable_weights(services: Services) -> None:
    models = services["models"]
    assert "models:/models:rw" in models["volumes"]
    assert [secret["source"] for secret in models["secrets"]] == ["hf_token"]
    for name, service in services.items():
        if name != "models":
            assert "hf_token" not in [secret["source"] for secret in service.get("secrets", [])]
            assert "models:/models:rw" not in service.get("volumes", []), name
    assert not [name for name in models["environment"] if "TOKEN" in name]


def test_servers_are_offline_and_report_nothing(services: Services) -> None:
    for name, service in services.items():
        if kind := kind_of(name):
            environment = service["environment"]
            assert environment["HF_HUB_OFFLINE"] == "1"
            switch = SWITCHES.get(kind, ("USAGE_STATS", "off"))
            assert environment[switch[0]] == switch[1]


def test_servers_have_grace_memory_and_health_checks(services: Services) -> None:
    for name, service in services.items():
        if kind_of(name):
            assert int(service["stop_grace_period"].rstrip("s").replace("1m40", "100")) > 90
            assert service["shm_size"]
            assert service["runtime"] == "nvidia"
            page = "/ready" if str(kind_of(name)).endswith("sglang") else "/health"  # whose /health generates
            assert page in " ".join(service["healthcheck"]["test"])


# -- launch arguments --------------------------------------------------------------------------------------


def test_every_option_is_one_of_its_engine(services: Services) -> None:
    for name, service in services.items():
        if kind := kind_of(name):
            vllm = kind.endswith("vllm")
            assert set(options(service)) <= OPTIONS.get(kind, TGI_OPTIONS), name
            own = {
                v
                for v in service["environment"]
                if v.isupper() and v.startswith(("VLLM_", "PREFIX", "USAGE"))
            }
            assert own <= (VLLM_VARIABLES if vllm else TGI_VARIABLES), name


@pytest.mark.parametrize("kind", ["text", "vision-tgi"])
def test_the_arguments_of_tgi(services: Services, kind: str) -> None:
    given = options(services[kind])
    assert given["--num-shard"] == "1"
    assert given["--max-top-n-tokens"] == "128"
    assert given["--payload-limit"] == "16000000"
    assert int(str(given["--max-batch-prefill-tokens"])) >= int(str(given["--max-input-tokens"]))
    assert int(str(given["--max-input-tokens"])) < int(str(given["--max-total-tokens"]))
    assert given["--port"] == "8000"
    # TGI's vision models refuse to load with a prefix cache.
    assert services[kind]["environment"].get("PREFIX_CACHING") == ("1" if kind == "text" else None)
    assert services[kind]["environment"]["MAX_IMAGE_FETCH_SIZE"] == "1"


def test_the_arguments_of_vllm(services: Services) -> None:
    given = options(services["vision-vllm"])
    assert words(services["vision-vllm"])[0] == "Qwen/Qwen3-VL-2B-Instruct"
    assert given["--generation-config"] == "vllm"
    assert json.loads(str(given["--hf-overrides"])) == {"head_dtype": "float32"}
    assert "--enable-prefix-caching" in given
    assert int(str(given["--max-num-queued-reqs"])) > 0
    assert 0 < int(str(given["--shutdown-timeout"])) < 100
    assert given["--allowed-media-domains"] == "blocked.invalid"
    assert json.loads(str(given["--limit-mm-per-prompt"])) == {"image": 1, "video": 0}
    assert json.loads(str(given["--mm-processor-kwargs"])) == {"max_pixels": 1048576}


def test_a_plan_reaches_the_servers(tmp_path: Path) -> None:
    request = Request(
        vision_model="Qwen/Qwen3-VL-8B-Instruct", vision_quantization="fp8", replicas=2, max_total_tokens=4096
    )
    services = planned(tmp_path, request, nvidia_smi.EIGHT_H100)
    vision, text = services["vision-vllm"], services["text"]
    assert words(vision)[0] == "Qwen/Qwen3-VL-8B-Instruct"
    assert options(vision)["--quantization"] == "fp8"
    assert options(vision)["--dtype"] == "bfloat16"
    assert options(vision)["--max-model-len"] == "4096"
    assert options(text)["--max-input-tokens"] == "4095"
    assert options(text)["--dtype"] == "float16"
    for service in (vision, text):
        revision = str(options(service)["--revision"])
        assert len(revision) == 40
    seen = [services[n]["environment"] for n in ("text", "text-2", "vision-vllm", "vision-vllm-2")]
    assert len({environment["NVIDIA_VISIBLE_DEVICES"] for environment in seen}) == 4
    assert all(int(environment["FASTQWEN_MEMORY_MIB"]) > 5000 for environment in seen)
    assert services["text-3"]["environment"]["NVIDIA_VISIBLE_DEVICES"] == "none"
    assert f"Qwen/Qwen3-VL-8B-Instruct@{options(vision)['--revision']}" in words(services["models"])


def test_a_server_over_several_gpus(tmp_path: Path) -> None:
    services = planned(tmp_path, Request(num_shard=4), nvidia_smi.EIGHT_H100)
    assert options(services["text"])["--num-shard"] == "4"
    assert options(services["vision-vllm"])["--tensor-parallel-size"] == "4"
    for name in ("text", "vision-vllm"):
        assert len(services[name]["environment"]["NVIDIA_VISIBLE_DEVICES"].split(",")) == 4
        assert services[name]["shm_size"] == "4g"


def test_vision_on_tgi(tmp_path: Path) -> None:
    services = planned(tmp_path, Request(vision="tgi", vision_quantization="none"), nvidia_smi.L4)
    given = options(services["vision-tgi"])
    assert given["--model-id"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert given["--dtype"] == "bfloat16"
    profiles = next(line for line in (tmp_path / ".env").read_text().splitlines() if "PROFILES" in line)
    assert profiles == "COMPOSE_PROFILES=vision-tgi,text,gateway,observe"


@pytest.mark.parametrize(("engine", "model"), [("vllm", None), ("sglang", "--model-path")])
def test_text_on_another_engine(tmp_path: Path, engine: str, model: str | None) -> None:
    asked = Request(text=engine, text_model="Qwen/Qwen3-1.7B", text_quantization="fp8")
    services = planned(tmp_path, asked, nvidia_smi.TWO_L4)
    server = services[f"text-{engine}"]
    assert (options(server)[model] if model else words(server)[0]) == "Qwen/Qwen3-1.7B"
    assert options(server)["--quantization"] == "fp8"
    assert list(server["networks"]["servers"]["aliases"]) == ["text-servers"]
    assert server["image"] == services["models"]["image"] == ENGINES[engine].image
    assert services[f"text-{engine}-2"]["environment"]["NVIDIA_VISIBLE_DEVICES"] == "none"
    written = DockerFolder(tmp_path).written
    assert written is not None
    assert f"text-{engine}" in [one["service"] for one in written["servers"]]


def test_a_picture_fits_the_limits_of_tgi(tmp_path: Path) -> None:
    """It counts one of a megapixel as 5,349 tokens, of which the model reads 1,337."""
    given = options(
        planned(tmp_path, Request(vision="tgi", max_total_tokens=4096), nvidia_smi.L4)["vision-tgi"]
    )
    assert int(str(given["--max-input-tokens"])) - 2**20 // 196 >= 4095 - 2**20 // 784 - 4
    assert given["--max-batch-prefill-tokens"] == given["--max-input-tokens"]


def test_vision_on_sglang(tmp_path: Path) -> None:
    asked = Request(vision="sglang", vision_quantization="fp8", repeatable="on")
    services = planned(tmp_path, asked, nvidia_smi.L4)
    given = options(services["vision-sglang"])
    assert given["--model-path"] == "Qwen/Qwen3-VL-2B-Instruct"
    assert (given["--dtype"], given["--quantization"]) == ("bfloat16", "fp8")
    assert {"--enable-fp32-lm-head", "--enable-deterministic-inference"} <= set(given)
    assert services["vision-sglang"]["image"] == "lmsysorg/sglang:v0.5.23"
    assert services["vision-sglang-2"]["environment"]["NVIDIA_VISIBLE_DEVICES"] == "none"
    with pytest.raises(UsageError, match="VISION=sglang"):
        Request(repeatable="on")


def test_a_named_image_is_the_one_run(tmp_path: Path) -> None:
    image = "registry.example/tgi:4.0.0"
    asked = Request(vision="tgi", vision_model="Qwen/Qwen3-VL-2B-Instruct", vision_image=image)
    services = planned(tmp_path, asked, nvidia_smi.L4)
    assert services["vision-tgi"]["image"] == image
    assert options(services["vision-tgi"])["--model-id"] == "Qwen/Qwen3-VL-2B-Instruct"
    assert services["text"]["image"] != image


def test_pinned_images_are_named_by_digest(tmp_path: Path) -> None:
    for name in ("compose.yml", "pins.json"):
        shutil.copy(FILE.parent / name, tmp_path)
    folder = DockerFolder(tmp_path)
    pins = folder.pins()
    digest = "sha256:" + "ab" * 32
    pins.images["vllm/vllm-openai:v0.33.0"] = digest
    folder.write_pins(pins)
    folder.write(plan.make(Request(), gpus.parse(nvidia_smi.L4)), ())
    services = rendered(tmp_path)["services"]
    assert services["vision-vllm"]["image"] == f"vllm/vllm-openai:v0.33.0@{digest}"
    assert folder.written is not None
    assert folder.written["servers"][0]["image"].endswith(digest)
