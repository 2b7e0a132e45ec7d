"""A plan as the files say it: the variables of the compose file, and the identities of stack.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tgi_stack.stack.planning.adopted import KINDS, Adopted
from tgi_stack.stack.planning.plan import MIB, Plan, Server
from tgi_stack.stack.planning.request import Request

PROJECT = "fastqwen"
VERSION = 1
# What stands beside the servers; the compose file has the same defaults.
OTHER_IMAGES = {
    "CADDY_IMAGE": "caddy:2.8.4",
    "PYTHON_IMAGE": "python:3.13-slim",
    "VALKEY_IMAGE": "valkey/valkey:8.1.3",
    "REDIS_EXPORTER_IMAGE": "oliver006/redis_exporter:v1.74.0",
    "PROMETHEUS_IMAGE": "prom/prometheus:v2.53.4",
    "GRAFANA_IMAGE": "grafana/grafana:11.6.0",
    "DCGM_IMAGE": "nvcr.io/nvidia/k8s/dcgm-exporter:3.3.9-3.6.1-ubuntu22.04",
}
IMAGES = {
    "text": {"tgi": "TGI_IMAGE", "vllm": "TEXT_VLLM_IMAGE", "sglang": "TEXT_SGLANG_IMAGE"},
    "vision": {"tgi": "VISION_TGI_IMAGE", "vllm": "VLLM_IMAGE", "sglang": "SGLANG_IMAGE"},
}
HOST_MEMORY_MIB = 12 * 1024  # beside the weights, which pass through the host's memory


@dataclass(frozen=True, slots=True)
class Pins:
    """Commits of models and digests of images, by name."""

    models: dict[str, str]
    images: dict[str, str]

    def image(self, name: str) -> str:
        """An image by its tag and, where it is pinned, by its digest."""
        digest = self.images.get(name)
        return f"{name}@{digest}" if digest else name


def variables(plan: Plan, pins: Pins, extras: tuple[str, ...]) -> dict[str, str]:
    """What the compose file takes from .env."""
    firsts = [plan.of(kind)[0] for kind in KINDS if plan.of(kind)]
    counted = max([s.wanted.tokens(plan.request) for s in plan.of("vision")], default=12203)
    values = {
        "COMPOSE_PROJECT_NAME": PROJECT,
        "COMPOSE_PROFILES": ",".join(
            [*map(service, plan.servers), *(one.service for one in plan.adopted), *extras]
        ),
        "NUM_SHARD": str(plan.request.num_shard),
        "MAX_TOTAL_TOKENS": str(plan.request.max_total_tokens),
        "MAX_INPUT_TOKENS": str(plan.request.max_total_tokens - 1),
        "VISION_MAX_TOTAL_TOKENS": str(counted),
        "VISION_MAX_INPUT_TOKENS": str(counted - 1),
        "MAX_BATCH_PREFILL_TOKENS": str(plan.prefill),
        "MAX_TOP_N_TOKENS": "128",
        "PAYLOAD_LIMIT": "16000000",
        "SERVER_MEMORY": f"{_host_mib(plan)}m",
        "TEXT_PORT": str(plan.request.text_port),
        "VISION_PORT": str(plan.request.vision_port),
        "SERVER_SHM": f"{plan.request.num_shard}g",
    }
    values |= {variable: pins.image(name) for variable, name in OTHER_IMAGES.items()}
    if firsts:
        # Any engine's image can fetch weights; the first server's is on this host anyway.
        values["MODELS_IMAGE"] = pins.image(firsts[0].wanted.image)
        names = [first.wanted.name for first in firsts]
        values["MODELS"] = " ".join(f"{name}@{pins.models.get(name, 'main')}" for name in names)
    for one in plan.adopted:
        prefix = one.kind.upper()
        values |= {f"{prefix}_SERVERS": f"{one.kind}_adopted", f"{prefix}_ADOPTED": one.upstreams}
        values |= {f"{prefix}_WIRE": "tls" if one.is_tls else "plain"}
    for first in firsts:
        values[IMAGES[first.kind][first.wanted.engine.name]] = pins.image(first.wanted.image)
        prefix = first.kind.upper()
        values |= {
            f"{prefix}_MODEL": first.wanted.name,
            f"{prefix}_REVISION": pins.models.get(first.wanted.name, "main"),
            f"{prefix}_ARGUMENTS": " ".join(first.wanted.launch.arguments),
        }
    for server in plan.servers:
        prefix = server.name.upper().replace("-", "_")
        values[f"{prefix}_GPUS"] = ",".join(gpu.uuid for gpu in server.gpus)
        # An instance of MIG is its server's own, and is not measured in containers.
        divided = any(gpu.is_instance for gpu in server.gpus)
        values[f"{prefix}_MEMORY_MIB"] = "" if divided else str(server.share_mib)
    return values


def _host_mib(plan: Plan) -> int:
    largest = max([s.wanted.model.weight_bytes(16) for s in plan.servers], default=0)
    return HOST_MEMORY_MIB + 4096 * (plan.request.num_shard - 1) + largest // MIB


def service(server: Server) -> str:
    """A server's service in the compose file, and its profile."""
    engine = server.wanted.engine.name
    if server.kind == "text" and engine == "tgi":
        return server.name
    return server.name.replace(server.kind, f"{server.kind}-{engine}", 1)


def described(plan: Plan, pins: Pins, extras: tuple[str, ...]) -> dict[str, Any]:
    """stack.json: what was asked, and the identity of each server."""
    return {
        "version": VERSION,
        "request": plan.request.as_dict(),
        "extras": list(extras),
        "phases": [
            [service(server) for server in plan.servers if server.name in names] for names in plan.phases()
        ],
        "servers": [
            *(_described(server, pins, plan.request) for server in plan.servers),
            *(_adopted(one, plan.request) for one in plan.adopted),
        ],
    }


def _adopted(one: Adopted, request: Request) -> dict[str, Any]:
    return {
        "name": one.kind,
        "service": one.service,
        "kind": one.kind,
        "adopted": list(one.urls),
        "engine": one.engine,
        "engine_version": one.version,
        "model": one.model,
        "revision": one.revision or "main",
        "quantization": one.quantization or "unknown",
        "dtype": one.dtype or "unknown",
        "gpus": [],
        "url": f"http://127.0.0.1:{request.ports[one.kind]}",
    }


def _described(server: Server, pins: Pins, request: Request) -> dict[str, Any]:
    wanted = server.wanted
    return {
        "name": server.name,
        "service": service(server),
        "kind": server.kind,
        "engine": wanted.engine.name,
        "engine_version": wanted.engine.version if wanted.image == wanted.engine.image else "unknown",
        "image": pins.image(wanted.image),
        "model": wanted.name,
        "model_type": wanted.model.type,
        "revision": pins.models.get(wanted.name, "main"),
        "quantization": wanted.quantization,
        "dtype": wanted.launch.dtype,
        "gpus": [{"gpu": gpu.label, "name": gpu.name, "uuid": gpu.uuid} for gpu in server.gpus],
        "memory_mib": server.share_mib,
        "need_mib": server.need_mib,
        "url": f"http://127.0.0.1:{request.ports[server.kind]}",
    }
