"""`fastqwen bench`: a process for each row, refusals in the table, figures as JSON and as bars."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.conftest import ROOT
from tests.loopback import serve
from tgi_stack.bench import child, roofline, show, workload
from tgi_stack.bench.checkpoint import Checkpoint
from tgi_stack.bench.run import ON_CPU, ON_GPU, Order, bench, sizes_on
from tgi_stack.bench.tasks import Sizes
from tgi_stack.engine.models import shapes
from tgi_stack.engine.models.shapes import kind_of
from tgi_stack.errors import UsageError
from tgi_stack.plots import bars
from tgi_stack.settings import load

SMALL = Sizes(prompts=10, longest=80, images=2, new_tokens=4, checked=4, labelled=8)
BASELINE = "one at a time (the optimisation guide today)"


def measured(only: str, kinds: tuple[str, ...], **flags: Any) -> dict[str, dict[str, Any]]:
    """The lines of a small benchmark by kind and name."""
    weights = flags.pop("random_weights", None)
    chosen = load({"model": None if weights else "tiny", "device": "cpu"} | flags, {})
    order = Order(weights, only=(only,), repeats=2, sizes=SMALL, kinds=kinds)
    *_, found = bench(chosen, order)
    return {f"{line['kind']}: {line['name']}": line for line in found["lines"]}


class Urls(NamedTuple):
    """Servers of the benchmark: two that answer, one of another model, one that wants a key, none."""

    tgi: str
    vllm: str
    other: str
    locked: str
    none: str = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def urls(text_model: Any) -> Iterator[Urls]:
    def logits(ids: Sequence[int]) -> Any:
        with torch.inference_mode():
            return text_model(torch.tensor([list(ids)])).logits[0, -1].double().numpy()

    with (
        serve("tgi", logits=logits) as tgi,
        serve("vllm", logits=logits) as vllm,
        serve("vllm", model="huge") as other,
        serve("vllm", api_key="secret") as locked,
    ):
        yield Urls(tgi.url, vllm.url, other.url, locked.url)


@pytest.fixture(scope="module")
def steps(urls: Urls) -> list[dict[str, Any]]:
    """What is known after each row."""
    chosen = load({"model": "tiny", "device": "cpu", "endpoint": tuple(urls), "startup_timeout": 3}, {})
    order = Order(only=("packed", "fp8 +", "server"), repeats=2, sizes=SMALL, kinds=("text",))
    return list(bench(chosen, order))


@pytest.fixture(scope="module")
def results(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return steps[-1]


@pytest.mark.slow
def test_rows_are_measured_beside_the_baseline(results: dict[str, Any]) -> None:
    lines = {line["name"]: line for line in results["lines"] if not line["name"].startswith("server")}
    assert set(lines) == {
        BASELINE,
        "packed, continuous batches",
        "fp8 + torch.compile",
    }
    packed, base = lines["packed, continuous batches"], lines[BASELINE]
    assert base["speed_up"] == 1.0
    assert packed["range"][0] <= packed["rate"] <= packed["range"][1]
    assert packed["apart"] <= 1e-5
    assert packed["agreement"] == 1.0
    assert packed["right"] == base["right"] > 0.8
    assert packed["peak_mib"] > 0
    assert packed["floor"] == base["floor"] > 0  # a loaded machine may measure it below what it reaches
    assert packed["of_floor"] == packed["rate"] / packed["floor"]
    assert (packed["requests"], packed["passes"], packed["checked"]) == (10, 2, 4)


@pytest.mark.slow
def test_figures_appear_row_by_row_baseline_first(steps: list[dict[str, Any]], urls: Urls) -> None:
    assert [len(step["lines"]) for step in steps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert steps[0]["lines"][0]["name"] == BASELINE
    others = ["fp8 + torch.compile", "packed, continuous batches", *(f"server {url}" for url in urls)]
    assert sorted(steps[0]["missing"]) == sorted(f"text: {name}" for name in others)
    assert steps[-1]["missing"] == []
    assert "packed, continuous batches" in show.missing(steps[0])
    assert show.missing(steps[-1]) == ""


@pytest.mark.slow
def test_a_benchmark_that_is_stopped_keeps_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "b.json"
    code = f"import cli\nfrom tgi_stack.bench import run, tasks\nrun.ON_CPU = tasks.{SMALL!r}\ncli.app()"
    command = [sys.executable, "-c", code, "bench", "--model", "tiny", "--device", "cpu", "-o", str(out)]
    run = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not out.exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    killed = json.loads(out.read_text())  # what a kill would leave now
    assert killed["lines"][0]["rate"] > 0
    assert len(killed["missing"]) == 28 - len(killed["lines"])
    run.send_signal(signal.SIGTERM)
    stdout, stderr = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert BASELINE in stdout.decode()
    assert "stopped; not measured: text:" in stderr.decode()
    assert json.loads(out.read_text())["lines"]
    until = time.monotonic() + 30
    while time.monotonic() < until and _lives(run.pid):
        time.sleep(0.1)
    assert not _lives(run.pid)


def _lives(session: int) -> bool:
    """Whether any process of a session is there."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_unwritable_place_for_figures_is_refused_early(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no file"):
        Checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        Checkpoint(tmp_path / "missing" / "b.json")


def test_a_row_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="--only warp: no row's name contains it; there are: bigger padded"):
        measured("warp", ("text",))


# -- servers -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_servers_stand_in_the_same_table(results: dict[str, Any], urls: Urls) -> None:
    lines = {line["name"]: line for line in results["lines"]}
    for url in (urls.tgi, urls.vllm):
        line = lines[f"server {url}"]
        assert line["reason"] == ""
        assert line["apart"] <= 1e-4
        assert line["agreement"] == 1.0
        assert line["right"] == lines[BASELINE]["right"] > 0.8
        assert line["peak_mib"] is line["floor"] is None


@pytest.mark.slow
def test_a_server_that_will_not_do_says_why(results: dict[str, Any], urls: Urls) -> None:
    reasons = {line["name"]: line["reason"] for line in results["lines"]}
    assert "does not hold tiny; it has huge" in reasons[f"server {urls.other}"]
    assert "wants a key" in reasons[f"server {urls.locked}"]
    assert "did not answer" in reasons[f"server {urls.none}"]


@pytest.mark.slow
def test_servers_write_summaries_too() -> None:
    with serve("vllm") as vllm:
        line = measured("server", ("vision",), endpoint=(vllm.url,))[f"vision: server {vllm.url}"]
    assert line["reason"] == ""
    assert line["requests"] == 2
    assert line["agreement"] == 0.0  # it writes numbers


@pytest.mark.slow
def test_random_weights_beside_a_server_of_any_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.TEXT, "qwen3-small", (64, 128, 2, 2, 1, True))
    with serve("vllm") as vllm:
        lines = measured("server", ("text",), endpoint=(vllm.url,), random_weights="qwen3-small")
    line = lines[f"text: server {vllm.url}"]
    assert line["rate"] > 0
    assert line["speed_up"] > 0
    assert line["apart"] is line["agreement"] is line["right"] is None
    assert lines[f"text: {BASELINE}"]["apart"] == 0.0


@pytest.mark.slow
def test_random_weights_of_a_vision_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.VISION, "qwen3-vl-small", (64, 128, 4, 2, 1, True))
    monkeypatch.setattr(
        shapes, "TOWER", shapes.TOWER | {"hidden_size": 64, "num_heads": 4, "intermediate_size": 128}
    )
    lines = measured("packed", ("vision",), random_weights="qwen3-vl-small")
    for name in (BASELINE, "packed, continuous batches"):
        line = lines[f"vision: {name}"]
        assert line["reason"] == ""
        assert line["requests"] == line["checked"] == 2
        assert line["floor"] > 0
        assert line["agreement"] == 1.0


# -- how much is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "batch_s", "compiling_s", "asked", "timed"),
    [
        (1, 2.0, 0.0, [1, 4, 4, 8], (4, [0.5])),
        (1, 0.5, 0.0, [1, 8, 8, 16], (8, [2.0])),
        (1, 0.001, 0.0, [1, 8, 64, 100], (100, [])),
        (1, 0.001, 10.0, [1, 8, 8, 64, 100], (100, [])),
        (32, 6.0, 0.0, [1, 4, 4, 8, 16, 32, 64], (32, [32 / 6])),
        (256, 6.0, 0.0, [1, 4, 4, 8, 16, 32, 64, 100], (100, [100 / 6])),
    ],
    ids=["slow", "a pass of some", "all at once", "the second compiles", "batches of 32", "one batch"],
)
def test_warming_up_finds_passes_that_can_be_timed(
    batch: int, batch_s: float, compiling_s: float, asked: list[int], timed: tuple[int, list[float]]
) -> None:
    now, seen = [0.0], []

    async def ask(requests: Sequence[Any]) -> list[Any]:
        seen.append(len(requests))
        now[0] += batch_s * -(-len(requests) // batch) + (compiling_s if len(seen) == 2 else 0.0)
        return list(requests)

    warm = asyncio.run(child.warm_up(ask, list(range(100)), clock=lambda: now[0]))
    assert seen == asked
    assert warm.count == timed[0]
    assert list(warm.rates) == pytest.approx(timed[1])
    assert warm.answers == list(range(timed[0]))


@pytest.mark.slow
def test_a_row_that_cannot_run_says_why(results: dict[str, Any]) -> None:
    refused = next(line for line in results["lines"] if line["name"] == "fp8 + torch.compile")
    assert "compute capability 9.0" in refused["reason"]
    assert "rate" not in refused


@pytest.mark.slow
def test_the_table_and_the_bars(results: dict[str, Any], tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=250)
    missing = {
        "kind": "text",
        "name": "Unsloth",
        "reason": "install it with: pip install 'fastqwen[unsloth]'",
    }
    for table in show.tables(results | {"lines": [*results["lines"], missing]}):
        console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "packed, continuous batches" in printed
    assert "compute capability" in printed
    assert "'fastqwen[unsloth]'" in printed  # no markup
    assert "2 x 10" in printed
    bars.plot(results, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors() or ()) > 2


def test_a_part_has_the_lengths_of_all() -> None:
    requests = workload.prompts(400, 100, 1000, vocabulary=50, labels=2)
    whole, part = workload.mean_length(requests), workload.mean_length(workload.part(requests, 1 / 20))
    assert part == pytest.approx(whole, rel=0.03)
    spread = workload.spread(requests)
    assert {id(one) for one in spread} == {id(one) for one in requests}
    for count in (8, 30, 100, 333):
        assert workload.mean_length(spread[:count]) == pytest.approx(whole, rel=0.1)


def test_operations_are_counted_by_hand() -> None:
    class Config:
        hidden_size, head_dim, num_attention_heads, num_key_value_heads = 4, 2, 2, 1
        intermediate_size, num_hidden_layers, vocab_size = 8, 3, 10

    weights = 4 * 4 + 2 * (4 * 2) + 4 * 4 + 3 * 4 * 8  # queries, keys and values, output, MLP
    attention = 2 * 4 * (1 + 2 + 3 + 4 + 5)  # scores and sums, over the keys each of five rows sees
    assert roofline.text_operations(Config, [5]) == 2 * (3 * (5 * weights + attention) + 4 * 10)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--random-weights llama: give one of qwen3-0\.6b"):
        kind_of("llama")


@pytest.mark.parametrize(("gpus", "times"), [(0, 1), (1, 1), (2, 2), (8, 4)])
def test_several_gpus_are_asked_more(gpus: int, times: int) -> None:
    found = sizes_on(torch.device("cuda:0"), gpus)
    assert (found.prompts, found.images) == (times * ON_GPU.prompts, times * ON_GPU.images)
    assert sizes_on(torch.device("cpu"), gpus) == ON_CPU
