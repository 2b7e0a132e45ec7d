"""From what Docker and the servers print to the reason in a line, and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """A known way of not coming up. `transient`: the next start may go well."""

    reason: str
    fix: str
    transient: bool = False


CONFIGURE = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
_KNOWN: tuple[tuple[str, Fault], ...] = (
    (
        r"Cannot connect to the Docker daemon|Is the docker daemon running",
        Fault("no Docker daemon answers", "start it: sudo systemctl start docker"),
    ),
    (
        r"permission denied while trying to connect to the Docker",
        Fault("this user may not talk to Docker", "sudo usermod -aG docker $USER, then log in again"),
    ),
    (
        r"unsatisfied condition: cuda|driver on your system is too old|CUDA driver version is insufficient"
        r"|forward compatibility was attempted on non supported HW",
        Fault("the NVIDIA driver is too old for the image", "install a newer driver, then restart Docker"),
    ),
    (
        r"unknown or invalid runtime name: nvidia|[Uu]nknown runtime specified nvidia",
        Fault(
            "Docker does not know the NVIDIA runtime",
            CONFIGURE,
        ),
    ),
    (
        r"could not select device driver|nvidia-container-cli: initialization error"
        r"|No CUDA GPUs are available|no CUDA-capable device|GpuSurvey no NVIDIA driver|unknown device: GPU-",
        Fault("no GPU in the container", "fastqwen doctor says what this host has; then make up again"),
    ),
    (
        r"(?::(?P<detail>\d+)\b[^\n]*?)?"
        r"(?:port is already allocated|address already in use|Ports are not available)",
        Fault(
            "a port is taken by another program",
            "free it, or give another: TEXT_PORT, VISION_PORT, GATEWAY_PORT, GRAFANA_PORT",
        ),
    ),
    (
        r"Unsupported model type (?P<detail>\w+)"
        r"|model type `(?P<detail2>\w+)` but Transformers does not recognize"
        r"|architectures \[.*\] (?:failed to be inspected|are not supported)",
        Fault("the engine does not know this model type", "docs/servers.md lists what each engine serves"),
    ),
    (
        r"Unknown quantization method|quantization is not supported for AutoModel",
        Fault("the engine can't quantise this model so", "docs/servers.md lists what each engine serves"),
    ),
    (
        r"GatedRepoError|is gated|Access to model .* is restricted|Cannot access gated repo",
        Fault(
            "the model is gated",
            "accept its terms on its page and put a token into docker/secrets/hf_token, then make up",
        ),
    ),
    (
        r"RepositoryNotFoundError|no such model, or a private one|Repository Not Found",
        Fault("no such model on the hub, or a private one", "check TEXT_MODEL and VISION_MODEL"),
    ),
    (
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|Cannot find the requested files in the disk cache"
        r"|outgoing traffic has been disabled",
        Fault("the weights are not in the volume", "fetch them: make models"),
    ),
    (
        r"setting up custom log 'usage'",
        Fault(
            "the doorkeeper does not take the gateway's log yet", "make logs; make gateway", transient=True
        ),
    ),
    (
        # Go's words, of an engine that pulls an image.
        r"(?:dial tcp|lookup) \S+.*(?:no such host|i/o timeout|connection refused|network is unreachable"
        r"|no route to host|server misbehaving|connect: connection timed out|Temporary failure)"
        r"|TLS handshake timeout|Client\.Timeout exceeded while awaiting headers|proxyconnect tcp"
        r"|context deadline exceeded|request canceled while waiting for connection",
        Fault(
            "the registry of the images can't be reached",
            "check this host's network and Docker's proxy (docker info), or docker load the images",
        ),
    ),
    (
        r"x509: certificate|tls: failed to verify certificate",
        Fault(
            "the registry's certificate can't be verified",
            "put who signed it into /etc/docker/certs.d/HOST/ca.crt of this host",
        ),
    ),
    (
        r"toomanyrequests|429 Too Many Requests|pull rate limit",
        Fault("the registry lets this host pull no more for now", "docker login, or wait some hours"),
    ),
    (
        r"the hub can't be reached|MaxRetryError|Temporary failure in name resolution|Connection timed out",
        Fault("the hub can't be reached", "check this host's network, then make up again"),
    ),
    (
        r"pull access denied|manifest unknown|manifest for \S+ not found"
        r"|requested access to the resource is denied",
        Fault("an image can't be pulled", "is its tag right? docker login for a private one"),
    ),
    (
        r"failed to find any PEM data|private key does not match public key|failed to parse private key"
        r"|open /run/tls/\S+: ",
        Fault(
            "the certificate in docker/secrets/tls is none",
            "put cert.pem and its key.pem there, in PEM, or remove both",
        ),
    ),
    (
        r"[Nn]o space left on device",
        Fault("the disk is full", "docker system df shows by what; weights and images take tens of GB"),
    ),
    (
        r"CUDA out of memory|OutOfMemoryError|Not enough memory to handle"
        r"|No available memory for the cache blocks|less than desired GPU memory utilization"
        r"|larger than the maximum number of tokens that can be stored",
        Fault(
            "out of GPU memory",
            "make down, then make up: the plan is made anew for what is free; or a smaller model",
            transient=True,
        ),
    ),
    (
        r"exit code 137|OOMKilled",
        Fault("out of this host's memory", "SERVER_MEMORY in docker/.env is the limit", transient=True),
    ),
)
_COMPILED = tuple((re.compile(pattern), fault) for pattern, fault in _KNOWN)


def diagnose(said: str) -> Fault | None:
    """The known fault that a log or a program's output shows, or None."""
    for pattern, fault in _COMPILED:
        found = pattern.search(said)
        if found:
            detail = next((value for value in found.groupdict().values() if value), None)
            return Fault(f"{fault.reason}: {detail}", fault.fix, fault.transient) if detail else fault
    return None


def in_a_line(said: str) -> str:
    """What a program of Docker ended with: the known reason and its fix, else its own words."""
    known = diagnose(said)
    return f"{known.reason}; {known.fix}" if known else said[-400:].strip()


def last_lines(log: str, count: int = 12) -> str:
    """The end of a log, for showing; lines are cut where they are very long."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    return "\n".join(f"    {line[:400]}" for line in lines[-count:])
