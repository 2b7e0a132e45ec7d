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


COMPILING = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tgi_stack.engine.kernels import triton_kernels
from tgi_stack.engine.layers import attention
for arch in map(int, sys.argv[1:]):
    pointers = {name: "*bf16" for name in ("q", "k", "v", "out")} | {"tiles": "*i32"}
    numbers = {name: "i32" for name in ("q_row", "k_row", "v_row")} | {"scale": "fp32"}
    constants = {"GROUP": 2, "HEADS": 16, "SIZE": 128, "BLOCK_M": attention.TILE, "BLOCK_N": attention.KEYS}
    constants["CAUSAL"] = True
    kinds = pointers | numbers | dict.fromkeys(constants, "constexpr")
    names = triton_kernels.attend.arg_names
    even = (*pointers, "q_row", "k_row", "v_row")
    whole = {(names.index(name),): [["tt.divisibility", 16]] for name in even}
    source = ASTSource(triton_kernels.attend, kinds, constants, whole)
    made = compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 8, "num_stages": 3})
    print(made.metadata.shared)
"""
# What a program may have of a processor's shared memory, by compute capability.
SHARED = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")
def test_attention_fits_other_gpus() -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-W", "ignore", "-c", COMPILING, *map(str, SHARED)]
    run = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = dict(zip(SHARED, map(int, run.stdout.split()), strict=True))
    assert all(found[arch] <= most for arch, most in SHARED.items()), found
