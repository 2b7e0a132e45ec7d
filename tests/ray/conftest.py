"""A cluster of two nodes of one core each, for all tests of Ray; and the command line in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FASTQWEN = str(Path(sys.executable).with_name("fastqwen"))
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
LONGEST_S = 150


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket of an S3 server on loopback, `shop`, which processes that start now may use."""
    import boto3
    from moto.server import ThreadedMotoServer

    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    own = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
        "AWS_REGION": "us-east-1",
    }
    own |= {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    os.environ |= own
    boto3.client("s3", endpoint_url=own["AWS_ENDPOINT_URL"]).create_bucket(Bucket="shop")
    yield "s3://shop"
    made.stop()
    for name in own:
        del os.environ[name]


@pytest.fixture(scope="session")
def cluster(bucket: str) -> Iterator[Any]:
    """Two nodes; a test that takes one away gives another one back."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    made.add_node(**NODE)
    yield made
    made.shutdown()
    del os.environ["RAY_AUTH_MODE"]


def started(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The command line, running."""
    return subprocess.Popen(
        [FASTQWEN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )


def ran(*arguments: str, status: int = 0, environment: dict[str, str] | None = None) -> str:
    """What the command line says until it ends, with the status that it has then."""
    process = started(*arguments, environment=environment)
    out, error = process.communicate(timeout=LONGEST_S)
    assert process.returncode == status, out + error
    return out + error


def write_prompts(path: Path, rows: int) -> Path:
    """Rows of `probs`."""
    with path.open("w") as file:
        for number in range(1, rows + 1):
            row = {"id": f"r{number}", "prompt": f"Is {number} even?\n", "labels": ["A", "B"]}
            file.write(json.dumps(row) + "\n")
    return path


def records_of(out: Path) -> list[dict[str, Any]]:
    """The records of an output, a file or a folder of parts, without what tells how they came about."""
    paths = sorted(out.glob("part-*")) if out.is_dir() else [out]
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [{k: v for k, v in one.items() if k not in ("attempts", "from_cache")} for one in found]
