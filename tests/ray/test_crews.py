"""Who works, on how many cores and GPUs: all of them find room, and nobody is asked for what is not there."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen
from tgi_stack.errors import UsageError
from tgi_stack.settings import Settings, load

pytestmark = pytest.mark.ray


def crew(nodes: int, cpus: float, gpus: float, **flags: Any) -> Any:
    from tgi_stack.ray.cluster import Cluster

    return Cluster(nodes, cpus, gpus).crew(load(flags, {}))


@pytest.mark.parametrize("nodes", [1, 2, 7])
@pytest.mark.parametrize("cpus", [1, 2, 3, 64])
@pytest.mark.parametrize("workers", [None, "1", "5", "2-100"])
@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_all_workers_find_room(nodes: int, cpus: int, workers: str | None, engine: str) -> None:
    found = crew(nodes, cpus, 0, workers=workers, engine=engine)
    assert 1 <= found.least <= found.most
    assert found.most * found.cpus <= max(cpus, found.most * 0.01)
    assert found.cpus <= 1
    assert found.images >= 1
    assert found.gpus == 0
    assert (found.threads is None) == (engine != "torch")


@pytest.mark.parametrize(
    ("gpus", "each", "most", "flags"),
    [
        (2, 1, 2, {}),
        (8, 2, 4, {"gpus_per_worker": 2.0}),
        (2, 0.5, 4, {"gpus_per_worker": 0.5}),
        (8, 0, 2, {"device": "cpu"}),
        (8, 0, 2, {"gpus_per_worker": 0.0}),
        (0, 0, 2, {}),
    ],
)
def test_each_worker_of_torch_has_its_gpus(gpus: int, each: float, most: int, flags: dict[str, Any]) -> None:
    found = crew(2, 16, gpus, engine="torch", **flags)
    assert (found.gpus, found.least, found.most) == (each, most, most)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"engine": "vllm", "gpus_per_worker": 1.0}, "leave it out"),
        ({"engine": "torch", "device": "cpu", "gpus_per_worker": 1.0}, "leave it out"),
        ({"engine": "torch", "gpus_per_worker": 4.0}, "knows of 2 GPUs"),
    ],
)
def test_gpus_that_are_not_there_are_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        crew(1, 2, 2, **flags)


def test_telemetry_is_off_whatever_the_environment() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "1"
    import importlib

    import tgi_stack.ray

    importlib.reload(tgi_stack.ray)
    from ray._common.usage import usage_lib

    assert not usage_lib.usage_stats_enabled()


def test_what_a_worker_is_told_shows_nothing() -> None:
    from tgi_stack.ray.worker import Told

    settings = Settings().model_dump(mode="json") | {"instruction": "a secret"}
    told = Told("probs", settings, ".", ".", "a secret", "a secret", None, {}, b"a secret", 1, None)
    assert "a secret" not in repr(told)
    assert pickle.loads(pickle.dumps(told)) == told  # noqa: S301  # our own


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give -o DIR"),
        (("-o", "out.jsonl"), "writes a folder of parts"),
        (("-o", "out", "--unordered"), "leave out --unordered"),
        (("-o", "out", "--offline"), "leave out --runner ray"),
        (("-o", "out", "--engine", "auto"), "give --endpoint, or --engine torch"),
        (("-o", "out", "--ray-address", "127.0.0.1:1"), "--ray-address 127.0.0.1:1: "),
    ],
)
def test_options_that_mean_nothing_are_refused(
    options: tuple[str, ...], said: str, tmp_path: Any, fastqwen: Fastqwen
) -> None:
    status = 3 if "--ray-address" in options else 2
    job = ("rerank", str(CATALOGUE / "sessions.jsonl"), "--items", str(CATALOGUE / "items.jsonl"))
    assert said in fastqwen(*job, "--runner", "ray", "--engine", "scripted", *options, check=status).stderr
    assert not list(tmp_path.glob("out*"))
