"""Under Ray a job's records are those of one process, whatever dies meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import CATALOGUE, ROOT, Fastqwen
from tests.loopback import serve
from tests.ray.conftest import LONGEST_S, NODE, ran, records_of, started, write_prompts

pytestmark = pytest.mark.ray

TINY = ("--engine", "torch", "--model", "tiny")
SESSIONS, ITEMS = str(CATALOGUE / "sessions.jsonl"), str(CATALOGUE / "items.jsonl")
ONE_BY_ONE = ("--engine", "vllm", "--model", "tiny", "--llm-batch-size", "1")


def until(holds: Callable[[], Any], what: str, seconds: float = LONGEST_S) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        time.sleep(0.1)


def parts(out: Path) -> list[Path]:
    return sorted(out.glob("part-*"))


def test_two_nodes_answer_as_one_process(cluster: Any, tmp_path: Path, fastqwen: Fastqwen) -> None:
    plain, out = tmp_path / "plain.jsonl", tmp_path / "out"
    job = ("rerank", SESSIONS, "--items", ITEMS, *TINY)
    fastqwen(*job, "-o", plain)
    ray = ("--runner", "ray", "--ray-address", cluster.address, "--workers", "2", "--rows-per-block", "9")
    said = ran(*job, "-o", str(out), *ray)
    assert "24 rows: 24 ok (0 from cache), 0 failed, 0 pending" in said
    assert parts(out)[0].name == "part-000000000001-000000000009.jsonl"
    fastqwen("compare", plain, out, "--limit", "1e-5")
    assert [one["id"] for one in records_of(out)] == [one["id"] for one in records_of(plain)]
    fastqwen("verify", out)
    fastqwen("eval", out)
    fastqwen("report", out, "--input", SESSIONS, "-o", tmp_path / "report.html")
    assert "is finished" in ran(*job, "-o", str(out), *ray)


def test_dead_node_and_server_cost_no_row(cluster: Any, tmp_path: Path, fastqwen: Fastqwen) -> None:
    source, out = write_prompts(tmp_path / "in.jsonl", 1200), tmp_path / "out"
    with serve("vllm", delay_s=0.05) as first, serve("vllm", delay_s=0.05) as second:
        job = ("probs", str(source), *ONE_BY_ONE, "--endpoint", first.url, "--endpoint", second.url)
        ray = ("--runner", "ray", "--ray-address", cluster.address, "--workers", "2", "--concurrency", "16")
        run = started(*job, "-o", str(out), *ray, "--rows-per-block", "50")
        until(lambda: len(parts(out)) > 1 or run.poll() is not None, "two parts")
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        second.stop()
        cluster.add_node(**NODE)
        _, said = run.communicate(timeout=LONGEST_S)
        second.start()
        assert run.returncode == 0, said
        fastqwen(*job, "-o", tmp_path / "plain.jsonl")
        assert first.posts + second.posts <= 2 * 1200 + 2 * 2 * 50 + 50
    assert records_of(out) == records_of(tmp_path / "plain.jsonl")
    fastqwen("verify", out)


def test_parts_go_into_a_store(cluster: Any, bucket: str, tmp_path: Path) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.upload_file(str(write_prompts(tmp_path / "in.jsonl", 50)), "shop", "in/rows.jsonl")
    job = ("probs", f"{bucket}/in/*.jsonl", "--engine", "scripted", "-o", f"{bucket}/out")
    ray = ("--runner", "ray", "--ray-address", cluster.address, "--workers", "1", "--rows-per-block", "20")
    place = {"XDG_STATE_HOME": str(tmp_path / "state")}
    said = ran(*job, *ray, environment=place)
    assert "50 rows: 50 ok" in said
    assert "a-secret-of-tests" not in said
    found = [one["Key"] for one in client.list_objects_v2(Bucket="shop", Prefix="out/")["Contents"]]
    assert [key.removeprefix("out/") for key in found] == [
        "_SUCCESS",
        *(f"part-{first:012d}-{last:012d}.jsonl" for first, last in ((1, 20), (21, 40), (41, 50))),
        "run.json",
    ]
    assert "every row once (50 rows" in ran("verify", f"{bucket}/out")
    assert "is finished" in ran(*job, *ray, environment={"XDG_STATE_HOME": str(tmp_path / "another")})


def test_a_stalled_run_ends_and_goes_on_later(cluster: Any, tmp_path: Path, fastqwen: Fastqwen) -> None:
    source, out = write_prompts(tmp_path / "in.jsonl", 30), tmp_path / "out"
    with serve("vllm") as server:
        job = ("probs", str(source), *ONE_BY_ONE, "--endpoint", server.url, "-o", str(out))
        ray = (
            "--runner",
            "ray",
            "--ray-address",
            cluster.address,
            "--workers",
            "1",
            "--rows-per-block",
            "10",
        )
        server.delay_s = 3600.0
        said = ran(*job, *ray, "--stall-timeout", "8", status=3)
        assert "no row was answered for 8 seconds (--stall-timeout); Ray has 2 nodes" in said
        assert "30 rows: 0 ok (0 from cache), 0 failed, 30 pending" in said
        server.delay_s = 0.0
        assert "30 rows: 30 ok" in ran(*job, *ray)
    fastqwen("verify", out)


def test_killed_run_leaves_nothing_and_goes_on(tmp_path: Path, fastqwen: Fastqwen) -> None:
    source, out = write_prompts(tmp_path / "in.jsonl", 600), tmp_path / "out"
    place = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    with serve("vllm", delay_s=0.05) as server:
        job = ("probs", str(source), *ONE_BY_ONE, "--endpoint", server.url, "-o", str(out))
        ray = ("--runner", "ray", "--workers", "1", "--rows-per-block", "30", "--concurrency", "8")
        before = clusters()
        run = started(*job, *ray, environment=place)
        until(lambda: len(parts(out)) > 1 or run.poll() is not None, "two parts")
        own = clusters() - before
        assert len(own) == 1
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
        until(lambda: not holders(own), "the cluster's processes have ended", 20)
        kept = {path.name: path.read_bytes() for path in parts(out)}
        asked = server.posts
        server.delay_s = 0.0
        assert "600 rows: 600 ok" in ran(*job, *ray, environment=place)
        assert server.posts - asked <= 600 - 30 * len(kept) + 5  # and what a server is asked to begin with
    assert kept.items() <= {path.name: path.read_bytes() for path in parts(out)}.items()
    fastqwen("verify", out)
    until(lambda: not holders(own | clusters() - before), "the second cluster has ended", 20)
    assert not (tmp_path / ".ray").exists()


def clusters() -> set[str]:
    """Folders of clusters that runs have started for themselves."""
    found = set()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found |= set(re.findall(rb"/[^ \0=,]*/fastqwen-ray-[^/ \0]+", process.read_bytes()))
        except OSError:
            continue
    return {one.decode() for one in found}


def holders(folders: set[str]) -> list[str]:
    """Processes with files in one of them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [str(one.readlink()) for one in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(file.startswith(folder) for file in files for folder in folders):
            found.append(process.name)
    return found


def test_batches_in_a_pipeline_of_ones_own(tmp_path: Path, fastqwen: Fastqwen) -> None:
    command = [sys.executable, str(ROOT / "examples/ray_pipeline.py"), str(tmp_path / "out")]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"HOME": str(tmp_path)}
    )
    assert "24 rankings, 24 ok" in done.stdout
    fastqwen("rerank", SESSIONS, "--items", ITEMS, *TINY, "-o", tmp_path / "plain.jsonl")
    found = {row["id"]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    for record in records_of(tmp_path / "plain.jsonl"):
        ranked = [one["id"] for one in found[record["id"]]["ranking"]]
        assert ranked == [one["id"] for one in record["ranking"]]
