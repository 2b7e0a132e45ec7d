"""What runs where: GPUs as nvidia-smi tells of them, placement, shares, and what would fit."""

from __future__ import annotations

import re

import pytest

from tests import nvidia_smi
from tgi_stack.errors import MachineError, UsageError
from tgi_stack.stack.planning import gpus, plan
from tgi_stack.stack.planning.plan import KEPT_FREE_MIB, DoesNotFitError
from tgi_stack.stack.planning.request import Request

LARGE = Request(text_model="Qwen/Qwen3-8B", vision_model="Qwen/Qwen3-VL-8B-Instruct")


def placed(made: plan.Plan) -> dict[str, list[str]]:
    return {server.name: [gpu.label for gpu in server.gpus] for server in made.servers}


@pytest.mark.parametrize(
    ("table", "labels"),
    [
        (nvidia_smi.L4, ["0"]),
        (nvidia_smi.TWO_L4, ["0", "1"]),
        (nvidia_smi.EIGHT_H100, [str(i) for i in range(8)]),
        (nvidia_smi.OLD + nvidia_smi.row(1, "NVIDIA L4", 23034, 22564, "8.9"), ["1"]),
    ],
)
def test_gpus_are_read(table: str, labels: list[str]) -> None:
    found = gpus.parse(table)
    assert [gpu.label for gpu in found.gpus] == labels
    assert all(gpu.uuid.startswith("GPU-") and gpu.driver == nvidia_smi.DRIVER for gpu in found.gpus)


def test_the_first_gpu_of_eight_in_full() -> None:
    gpu = gpus.parse(nvidia_smi.EIGHT_H100).gpus[0]
    assert gpu == gpus.Gpu(
        "0", nvidia_smi.uuid(0), "NVIDIA H100 80GB HBM3", 81559, 81079, 9.0, nvidia_smi.DRIVER
    )


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (nvidia_smi.OLD, "compute capability 7.0"),
        (nvidia_smi.UNMEASURED, "its memory is not told"),
        (nvidia_smi.MIG, "MIG is on and has no instance"),
        ("", "no GPU can be used"),
    ],
)
def test_an_unusable_gpu_is_excluded_with_reason(table: str, said: str) -> None:
    found = gpus.parse(table)
    assert found.gpus == ()
    assert said in str(found.problem)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "nvidia-smi tells of none"),
        ("0, GPU-x, A card\n", "a line of nvidia-smi that can't be read: 0, GPU-x, A card"),
    ],
)
def test_no_gpu_is_told_with_a_reason(table: str, said: str) -> None:
    assert gpus.parse(table).problem == f"no GPU can be used: {said}"


def test_instances_of_mig_are_gpus_of_their_own() -> None:
    first, _ = gpus.parse(nvidia_smi.MIG, nvidia_smi.MIG_LIST).gpus
    assert (first.label, first.uuid[:12], first.name) == (
        "0:0",
        "MIG-c6d4f1ef",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
    )
    assert first.total_mib == int(20 * 1024 * 0.85)
    assert first.is_instance
    made = plan.make(Request(), gpus.parse(nvidia_smi.MIG, nvidia_smi.MIG_LIST))
    assert placed(made) == {"vision": ["0:0"], "text": ["0:1"]}


def test_an_instance_takes_one_server_alone() -> None:
    one = nvidia_smi.MIG_LIST.rpartition("  MIG")[0]
    with pytest.raises(DoesNotFitError, match=r"text: .* no GPU is left for it"):
        plan.make(Request(), gpus.parse(nvidia_smi.MIG, one))
    with pytest.raises(DoesNotFitError):
        plan.make(Request(num_shard=2), gpus.parse(nvidia_smi.MIG, nvidia_smi.MIG_LIST))


def test_two_servers_fit_one_gpu_in_turn() -> None:
    found = gpus.parse(nvidia_smi.L4)
    made = plan.make(Request(), found)
    assert placed(made) == {"vision": ["0"], "text": ["0"]}
    assert all(server.share_mib >= server.need_mib for server in made.servers)
    assert sum(server.share_mib for server in made.servers) <= found.gpus[0].free_mib - KEPT_FREE_MIB
    assert made.phases() == [["vision"], ["text"]]


def test_what_already_runs_is_left_alone() -> None:
    made = plan.make(Request(), gpus.parse(nvidia_smi.FILLED))
    assert placed(made) == {"vision": ["1"], "text": ["1"]}
    half_full = gpus.parse(nvidia_smi.row(0, "NVIDIA L40S", 46068, 20000, "8.9"))
    made = plan.make(Request(), half_full)
    assert sum(server.share_mib for server in made.servers) <= 20000 - KEPT_FREE_MIB


def test_servers_get_own_gpus_where_possible() -> None:
    made = plan.make(Request(), gpus.parse(nvidia_smi.TWO_L4))
    assert placed(made) == {"vision": ["0"], "text": ["1"]}
    assert made.phases() == [["vision", "text"]]


def test_a_large_gpu_is_not_taken_whole() -> None:
    made = plan.make(Request(), gpus.parse(nvidia_smi.H200))
    assert sum(server.share_mib for server in made.servers) < 100_000


def test_replicas_have_a_gpu_each() -> None:
    made = plan.make(Request(replicas=4), gpus.parse(nvidia_smi.EIGHT_H100))
    used = [label for labels in placed(made).values() for label in labels]
    assert sorted(used) == [str(i) for i in range(8)]
    assert {"text-4", "vision-4"} <= placed(made).keys()
    made = plan.make(Request(replicas=8), gpus.parse(nvidia_smi.EIGHT_H100))
    for kind in ("text", "vision"):
        assert len({server.gpus[0].uuid for server in made.of(kind)}) == 8


def test_a_server_spread_over_gpus_takes_those_alike() -> None:
    mixed = nvidia_smi.L4 + "".join(nvidia_smi.row(i, "NVIDIA L40S", 46068, 45300, "8.9") for i in (1, 2))
    made = plan.make(Request(vision_model="Qwen/Qwen3-VL-32B-Instruct", num_shard=2), gpus.parse(mixed))
    assert placed(made)["vision"] == ["1", "2"]
    assert made.servers[0].need_mib < 33_357_390_064 * 2 / 2**20


def test_a_servers_gpus_are_of_one_name() -> None:
    rows = (("NVIDIA L4", 23034, 22564), ("NVIDIA L40S", 46068, 45300), ("NVIDIA L4", 23034, 22564))
    mixed = "".join(nvidia_smi.row(i, *row, "8.9") for i, row in enumerate(rows))
    made = plan.make(Request(num_shard=2), gpus.parse(mixed))
    assert placed(made)["vision"] == ["0", "2"]


def test_the_prefill_holds_the_longest_prompt() -> None:
    for tokens in (2048, 8192, 32768):
        made = plan.make(Request(max_total_tokens=tokens), gpus.parse(nvidia_smi.H200))
        assert made.prefill >= tokens - 1
    assert plan.make(Request(), gpus.assumed("16")).prefill == 8192
    assert plan.make(Request(), gpus.assumed("24")).prefill == 16384


def test_misfits_are_told_what_would_fit() -> None:
    found = gpus.parse(nvidia_smi.TWO_L4)
    with pytest.raises(DoesNotFitError) as caught:
        plan.make(LARGE, found)
    said = str(caught.value)
    need, have, missing = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) MiB", said)[:3])
    assert missing == need - have > 0
    assert "Qwen/Qwen3-VL-8B-Instruct" in said
    assert said.endswith("--engine torch")
    # What is said to fit does.
    offered = said.partition("what would fit: ")[2].partition("; or compute")[0].split("; ")
    assert offered
    names = {"NUM_SHARD": int, "MAX_TOTAL_TOKENS": int, "REPLICAS": int}
    for offer in offered:
        changed = dict(part.split("=") for part in offer.split())
        values = {name.lower(): names.get(name, str)(value) for name, value in changed.items()}
        asked = LARGE.as_dict() | values
        assert plan.make(Request(**asked), found).servers


def test_replicas_that_find_no_gpu_are_told() -> None:
    with pytest.raises(DoesNotFitError, match=r"no GPU is left for it; .*REPLICAS=1"):
        plan.make(Request(replicas=2), gpus.parse(nvidia_smi.L4))


def test_nothing_fits_next_to_what_fills_the_gpu() -> None:
    full = gpus.parse(nvidia_smi.row(0, "NVIDIA L4", 23034, 900, "8.9"))
    with pytest.raises(DoesNotFitError, match=r"has 0 MiB for it.*nothing smaller that is known would fit"):
        plan.make(Request(), full)


def test_no_gpu_is_a_matter_of_this_machine() -> None:
    with pytest.raises(MachineError, match=r"no driver; .*GPUS=24,24; .*--engine torch"):
        plan.make(Request(), gpus.GpuSurvey((), problem="no driver"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vision": "lmdeploy"}, "VISION=lmdeploy: one of tgi, vllm, sglang"),
        ({"text_quantization": "int3"}, "TEXT_QUANTIZATION=int3"),
        ({"replicas": 9}, "REPLICAS=9: from 1 to 8"),
        ({"num_shard": 3}, "NUM_SHARD=3"),
        ({"max_total_tokens": 100}, "MAX_TOTAL_TOKENS=100"),
        ({"text_port": 80}, "TEXT_PORT=80"),
        ({"text_model": "Qwen/Qwen3-0.6B $(id)"}, "is no model id"),
        ({"vision_model": "a'b"}, "is no model id"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        Request(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text_model": "Qwen/Qwen3-VL-2B-Instruct"}, "not one for text"),
        ({"vision_model": "Qwen/Qwen3-8B"}, "not one for vision"),
        ({"text_model": "nobody/unknown-model"}, "the size of nobody/unknown-model is not known"),
        (
            {"vision_model": "Qwen/Qwen3-VL-8B-Instruct-FP8", "vision_quantization": "fp8"},
            "quantised already",
        ),
    ],
)
def test_a_model_in_the_wrong_place_is_refused(values: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        plan.make(Request(**values), gpus.assumed("80"))  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", ["", "a", "0", "-4", "24,,24", "1e9"])
def test_assumed_gpus_that_make_no_sense_are_refused(sizes: str) -> None:
    with pytest.raises(UsageError, match="--assume-gpus"):
        gpus.assumed(sizes)
