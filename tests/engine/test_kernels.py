"""The Triton programs, run by Triton's interpreter where there is no GPU; `tests/gpu` runs them compiled."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SCRIPT = """
import torch
from tgi_stack.engine.kernels.kernel_check import trial
for shape in ((4, 2, 64), (6, 2, 32)):
    print(trial(torch.device("cpu"), torch.float32, shape, 192))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")
def test_the_programs_compute_what_torch_computes() -> None:
    environ = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environ, capture_output=True, text=True)
    assert run.stdout.split() == ["None", "None"], run.stdout + run.stderr
