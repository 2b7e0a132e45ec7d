"""What a checkpoint says of its image processor is understood or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CATALOGUE, Fastqwen
from tgi_stack.errors import CheckpointError
from tgi_stack.images import processor
from tgi_stack.images.grid import Grid
from tgi_stack.tiny import TINY

OWN = TINY / "vision" / processor.OWN
FIELDS: dict[str, Any] = json.loads(OWN.read_text())
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("patch_size", "merge_size") for value in (None, 0, "16", 1.5, True, -2)),
        ("min_pixels", 70_000),
        ("max_pixels", "65536"),
        ("patch_size", 14),  # config.json has 16
        ("merge_size", 3),
        ("temporal_patch_size", 1),
        ("do_normalize", False),
        ("do_rescale", False),
        ("rescale_factor", 1 / 127.5),
        ("rescale_factor", "1/255"),
        ("image_mean", None),
        ("image_mean", [0.5]),
        ("image_mean", [0.5, 0.5, float("nan")]),
        ("image_mean", [0.5, 0.5, 10**400]),
        ("image_std", [0.5, 0.5, 0]),
        ("image_std", ["0.5"] * 3),
    ],
)
def test_a_field_not_understood_is_named(tmp_path: Path, name: str, value: object) -> None:
    shutil.copy(TINY / "vision" / "config.json", tmp_path)
    (tmp_path / processor.OWN).write_text(json.dumps(FIELDS | {name: value}))
    with pytest.raises(CheckpointError, match=name):
        Grid.from_checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '"16"', "[" * 100_000, POINTER])
def test_what_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / processor.OWN).write_text(content)
    with pytest.raises(CheckpointError, match="Git LFS" if content == POINTER else processor.OWN):
        Grid.from_checkpoint(tmp_path)


def test_both_places_give_one_grid(tmp_path: Path) -> None:
    assert not processor.is_told(tmp_path)
    with pytest.raises(CheckpointError, match=processor.OWN):
        Grid.from_checkpoint(tmp_path)
    fields = {name: value for name, value in FIELDS.items() if not name.endswith("_pixels")}
    (tmp_path / processor.SHARED).write_text(json.dumps({processor.INSIDE: fields}))
    assert processor.is_told(tmp_path)
    assert Grid.from_checkpoint(tmp_path) == Grid.from_checkpoint(TINY / "vision")


@pytest.mark.parametrize(
    "spoil",
    [lambda fields: [], lambda fields: fields | {"patch_size": 14}, lambda fields: fields | {"size": 1}],
)
def test_a_run_is_refused_first(
    fastqwen: Fastqwen, tmp_path: Path, spoil: Callable[[dict[str, Any]], object]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY / "vision", folder)
    changed = spoil({name: value for name, value in FIELDS.items() if name != "min_pixels"})
    (folder / processor.OWN).write_text(json.dumps(changed))
    job = ("summarize", CATALOGUE / "images", "--engine", "torch", "--model", folder, "--no-cache")
    done = fastqwen(*job, check=3)
    assert processor.OWN in done.stderr
    assert "unexpected" not in done.stderr
