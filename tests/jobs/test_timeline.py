"""How far a run had come, as `run.json` tells it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Fastqwen, write_rows
from tgi_stack.jobs.tally import MOST_POINTS, Timeline


@given(st.lists(st.floats(0, 400, allow_nan=False), max_size=1500))
def test_points_stay_few_and_in_order(pauses: list[float]) -> None:
    now = 0.0
    timeline = Timeline(clock=lambda: now)
    for done, pause in enumerate(pauses, 1):
        now += pause
        timeline.update(done, 0, 0, 0, 0)
    points = timeline.as_dict(len(pauses), 0, 0, 0, 0)["points"]
    assert len(points) <= MOST_POINTS
    assert points == sorted(points)
    assert points[-1][:2] == [round(now, 3), len(pauses)]


def test_points_are_evenly_spread() -> None:
    seconds = 0.0
    timeline = Timeline(clock=lambda: seconds)
    for step in range(10_000):
        seconds = float(step)
        timeline.update(step, 0, 0, 0, 0)
    times = [point.seconds for point in timeline.points]
    assert len(times) >= MOST_POINTS // 4
    gaps = {b - a for a, b in itertools.pairwise(times)}
    assert max(gaps) <= 2 * timeline.every_s


def test_run_json_tells_the_timeline(fastqwen: Fastqwen, tmp_path: Path) -> None:
    prompts = [{"id": str(n), "prompt": f"Which {n}?\n", "labels": ["A", "B"]} for n in range(3)]
    rows = write_rows(tmp_path / "p.jsonl", *prompts, {"id": "x", "prompt": ""})
    fastqwen(
        "probs",
        rows,
        "-o",
        tmp_path / "o.jsonl",
        "--engine",
        "scripted",
        "--no-cache",
        "--skip-bad-rows",
        check=1,
    )
    noted = json.loads((tmp_path / "o.jsonl.run.json").read_text())
    assert "timeline" not in noted["counts"]
    end = dict(zip(noted["timeline"]["fields"], noted["timeline"]["points"][-1], strict=True))
    assert (end["ok"], end["failed"], end["cached"]) == (3, 1, 0)
    assert end["prompt_tokens"] == noted["counts"]["prompt_tokens"] > 0
