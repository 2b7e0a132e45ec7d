"""The rate that a device could reach, of those dtypes that it has the room to measure."""

from __future__ import annotations

import json

import pytest
import torch

from tgi_stack.bench import roofline
from tgi_stack.bench.floor import floors
from tgi_stack.bench.tasks import Task
from tgi_stack.tiny import TINY
from tgi_stack.types import ScoreRequest

CONFIG = json.loads((TINY / "text" / "config.json").read_text())
TASK = Task("text", (ScoreRequest("a b", (5, 6, 7), ("A", "B"), (1, 2)),), checked=1)
CPU = torch.device("cpu")


def test_no_room_leaves_a_floor_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert floors(CONFIG, TASK, CPU, ["fp32"])["fp32"] > 0
    monkeypatch.setitem(roofline.SIDE, "cpu", 2**28)  # 2^58 bytes a matrix
    assert floors(CONFIG, TASK, CPU, ["fp32"]) == {}
