#!/usr/bin/env python3
"""A server of the tests under the name of an engine's launcher, with its flags; a name says which engine.

The flags are the engine's own: another one ends it, as does a revision that is not in the volume. A file of
the volume, `played/OWNER--NAME`, says how it fares: `{"starts_in": 60}`, `{"delay": 0.2}`,
`{"lives": 2, "says": "...", "status": 1}`. Where a real vLLM is mounted at /opt/vllm, vLLM's launcher starts
that one, on the processor.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENGINE = {"text-generation-launcher": "tgi", "vllm": "vllm"}.get(Path(sys.argv[0]).name, "sglang")
VOLUME = Path("/models")
REAL = Path("/opt/vllm/started")
# Beside what the compose file gives: no compiler is here, and few cores.
ON_A_CPU = ("--enforce-eager", "--max-num-seqs", "8")


def main() -> None:
    if ENGINE == "vllm" and REAL.exists():
        program = REAL.read_text().strip()
        print(f"INFO vllm: {program}", flush=True)
        environ = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environ["TORCHDYNAMO_DISABLE"] = "1"
        environ.pop("NVIDIA_VISIBLE_DEVICES")
        environ["PYTHONPATH"] = "/opt/fastqwen"  # not the tests' own libraries
        command = [program, "-m", "vllm.entrypoints.cli.main", *sys.argv[1:], *ON_A_CPU]
        os.execve(program, command, environ)  # noqa: S606  # in this one's place
    from tests.server_options import SGLANG_OPTIONS, TGI_OPTIONS, VLLM_OPTIONS

    known = {"tgi": TGI_OPTIONS, "vllm": VLLM_OPTIONS, "sglang": SGLANG_OPTIONS}[ENGINE]
    given = sys.argv[2:] if ENGINE == "vllm" else sys.argv[1:]
    name = given.pop(0) if ENGINE == "vllm" else ""
    flags = dict(_flags(given, known))
    name = name or flags["--model-id" if ENGINE == "tgi" else "--model-path"]
    reference = VOLUME / f"models--{name.replace('/', '--')}" / "refs" / flags["--revision"]
    if not reference.exists():
        sys.exit(f"{name}: Cannot find the requested files in the disk cache and traffic has been disabled")
    if os.environ.get("HF_HUB_OFFLINE") != "1" or not os.path.exists("/usr/bin/nvidia-smi"):
        sys.exit("started without what the compose file gives it")
    context = flags.get("--max-total-tokens") or flags.get("--max-model-len") or flags["--context-length"]
    least = flags.get("--max-input-tokens")
    asyncio.run(_serve(name, int(context), int(least or int(context) - 1)))


def _flags(given: list[str], known: set[str]) -> Any:
    for flag, value in zip(given, [*given[1:], "--"], strict=True):
        if flag.startswith("--"):
            if flag not in known:
                sys.exit(f"error: unexpected argument '{flag}' found")
            yield flag, value


async def _serve(name: str, context: int, most_input: int) -> None:
    began = time.monotonic()
    play = VOLUME / "played" / name.replace("/", "--")
    time.sleep(_played(play).get("starts_in", 0))
    server = _made(name, context, most_input)
    await server._start()
    print(f"INFO {ENGINE} serves {name}", flush=True)
    while True:
        played = _played(play)
        if "lives" in played and time.monotonic() - began >= played["lives"]:
            print(played.get("says", ""), flush=True)
            os._exit(played.get("status", 1))
        server.delay_s = played.get("delay", 0.0)
        await asyncio.sleep(0.1)


def _played(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _made(name: str, context: int, most_input: int) -> Any:
    from tests.probe_server import ProbeServer

    @dataclass
    class Contained(ProbeServer):
        """Listens for other containers too, and has the limits of its flags."""

        async def _start(self) -> None:
            everywhere = "0.0.0.0"  # noqa: S104  # inside a container
            self._server = await asyncio.start_server(
                self._serve, everywhere, 8000, backlog=2048, limit=2**26
            )

        def _described(self, path: str) -> dict[str, Any] | None:
            said = super()._described("/health" if path == "/ready" else path)
            if said and ENGINE == "tgi":
                said |= {"max_input_tokens": most_input, "max_total_tokens": context}
            if said and "data" in said:
                said["data"][0]["max_model_len"] = context
            return said

    return Contained(ENGINE, model=name)


if __name__ == "__main__":
    main()
