"""`fastqwen bench`: a process for each row, refusals in the table, figures as JSON and as bars."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from tgi_stack.bench import chart, floor, show, workload
from tgi_stack.bench.run import Order, bench
from tgi_stack.bench.tasks import Sizes
from tgi_stack.engine.shapes import kind_of
from tgi_stack.errors import UsageError
from tgi_stack.settings import load

SMALL = Sizes(prompts=10, longest=80, images=2, new_tokens=4, checked=4)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    chosen = load({"engine": "torch", "model": "tiny", "device": "cpu"}, {})
    order = Order(only=("packed", "fp8 +"), repeats=2, sizes=SMALL, kinds=("text",))
    return bench(chosen, order, lambda line: None)


def test_rows_are_measured_beside_the_baseline(results: dict[str, Any]) -> None:
    lines = {line["name"]: line for line in results["lines"]}
    assert set(lines) == {
        "one at a time (the seed today)",
        "packed, continuous batches",
        "fp8 + torch.compile",
    }
    packed, base = lines["packed, continuous batches"], lines["one at a time (the seed today)"]
    assert base["speed_up"] == 1.0
    assert packed["range"][0] <= packed["rate"] <= packed["range"][1]
    assert packed["apart"] <= 1e-5
    assert packed["agreement"] == 1.0
    assert packed["right"] == base["right"] > 0.8
    assert packed["peak_mib"] > 0


def test_a_row_that_cannot_run_says_why(results: dict[str, Any]) -> None:
    refused = next(line for line in results["lines"] if line["name"] == "fp8 + torch.compile")
    assert "compute capability 9.0" in refused["reason"]
    assert "rate" not in refused


def test_the_table_and_the_bars(results: dict[str, Any], tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=250)
    for table in show.tables(results):
        console.print(table)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "packed, continuous batches" in printed
    assert "compute capability" in printed
    chart.plot(results, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("RGB").getcolors() or ()) > 2


def test_a_part_has_the_lengths_of_all() -> None:
    requests = workload.prompts(400, 100, 1000, vocabulary=50, labels=2)
    whole, part = workload.mean_length(requests), workload.mean_length(workload.part(requests, 1 / 20))
    assert part == pytest.approx(whole, rel=0.03)


def test_operations_are_counted_by_hand() -> None:
    class Config:
        hidden_size, head_dim, num_attention_heads, num_key_value_heads = 4, 2, 2, 1
        intermediate_size, num_hidden_layers, vocab_size = 8, 3, 10

    weights = 4 * 4 + 2 * (4 * 2) + 4 * 4 + 3 * 4 * 8  # queries, keys and values, output, MLP
    attention = 2 * 4 * (1 + 2 + 3 + 4 + 5)  # scores and sums, over the keys each of five rows sees
    assert floor.text_operations(Config, [5]) == 2 * (3 * (5 * weights + attention) + 4 * 10)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--random-weights llama: give one of qwen3-0\.6b"):
        kind_of("llama")
