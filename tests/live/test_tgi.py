"""Against a real TGI, where FASTQWEN_TGI_URL names one (and FASTQWEN_TGI_MODEL its files, if others)."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from tests.conftest import Fastqwen, read_records, write_rows

URL = os.environ.get("FASTQWEN_TGI_URL", "")

pytestmark = [pytest.mark.live, pytest.mark.skipif(not URL, reason="FASTQWEN_TGI_URL names no server")]


def test_label_reads_are_distributions(fastqwen: Fastqwen, tmp_path: Path) -> None:
    prompts = (f"Is {i} even? Answer A for yes, B for no:\n" for i in range(50))
    rows = ({"prompt": prompt, "labels": ["A", "B"]} for prompt in prompts)
    path = write_rows(tmp_path / "p.jsonl", *rows)
    model = ("--model", os.environ["FASTQWEN_TGI_MODEL"]) if "FASTQWEN_TGI_MODEL" in os.environ else ()
    fastqwen("probs", path, "-o", tmp_path / "o.jsonl", "--endpoint", URL, *model)
    for record in read_records(tmp_path / "o.jsonl"):
        assert record["route"] == "tgi.grammar"
        assert math.fsum(record["probabilities"]) == pytest.approx(1.0, abs=1e-6)
        assert record["label_mass"] is None
