"""Servers that die early, late or while they load, as `make up` and `make status` tell; and full disks."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.docker import clone as clones
from tests.docker.conftest import Host

pytestmark = pytest.mark.docker


def test_an_early_death_is_told_at_once(host: Host) -> None:
    clone = host.down()
    clone.play("text", lives=0, says="ValueError: Unsupported model type qwen3_vl", status=1)
    said = clone.make("up", check=2).said
    assert "text (Qwen/Qwen3-0.6B on tgi) did not come up: the engine does not know this model type" in said
    assert "    ValueError: Unsupported model type qwen3_vl" in said
    assert "make up" not in said.partition("did not come up")[2].partition("the end of its log")[0]


def test_a_late_death_is_told_with_its_status(host: Host) -> None:
    """A server that serves for a while looks well at nearly every look."""
    clone = host.down()
    clone.play("vision", lives=3, says="\x1b[31mlast words\x1b[0m", status=3)
    said = clone.make("up", check=2).said
    assert "vision (Qwen/Qwen3-VL-2B-Instruct on vllm) did not come up: it ended with status 3" in said
    assert "was started again 3 times" in said
    assert "\n    last words\n" in said
    assert "\\x1b" not in said
    shown = clone.make("status", check=2).said
    assert "failure: vision" in shown
    assert "it ended with status 3" in shown
    clone.make("down")  # its container's restarts go with it, whoever comes next


def test_down_is_prompt_while_a_server_loads(host: Host) -> None:
    clone = host.down()
    clone.play("text", starts_in=300)
    said = clone.make("up", "TIMEOUT=20", check=2).said
    assert "text (Qwen/Qwen3-0.6B on tgi) did not come up: not up after 20 s" in said
    told = clone.fastqwen("doctor", check=4).said
    assert "8080 (text of make up: Qwen/Qwen3-0.6B on tgi, its container is running, health starting" in told
    began = time.monotonic()
    clone.make("down")
    assert time.monotonic() - began < 60  # the grace is 100 s


def test_a_registry_out_of_reach_is_recognised(host: Host) -> None:
    """In the words of the engine, for a name that nobody resolves and a port that nobody listens on."""
    clone = host.down()
    for image in ("registry.invalid/vllm:1", "127.0.0.1:9/vllm:1"):
        said = clone.make("up", f"VISION_IMAGE={image}", check=2).said
        assert "the registry of the images can't be reached; check this host's network" in said, said
        clone.make("down")


def test_a_full_disk_leaves_no_half_file(host: Host, tmp_path: Path) -> None:
    host.down()
    clone = clones.make(tmp_path / "clone", host.clone.engine, host.clone.hub)
    full = clone.path / "docker"
    aside = full.rename(tmp_path / "aside")
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", full], check=True)
    try:
        shutil.copytree(aside, full, dirs_exist_ok=True)
        with pytest.raises(OSError, match="No space left"):
            (full / "fill").write_bytes(bytes(10**6))
        before = {path.name for path in full.iterdir()}
        assert "No space left on device" in clone.make("up", check=2).said
        assert {path.name for path in full.iterdir()} <= before | {"secrets"}
    finally:
        subprocess.run(["umount", full], check=True)
