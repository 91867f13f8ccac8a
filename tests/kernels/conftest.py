"""Kernel tests run on the CPU, through Triton's interpreter, where there is no GPU; with one they run
compiled on it.

The interpreter is chosen when a kernel is decorated, so this comes before any import of them. Compiling ahead
of time needs it off: tests that compile do so in processes of their own, without the variable.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

HAS_TRITON = all(importlib.util.find_spec(name) for name in ("torch", "triton"))
KERNEL_TESTS = ["attention", "attention_bench", "backward", "decode", "linear", "permute", "sparse"]
collect_ignore = [] if HAS_TRITON else [f"test_{name}.py" for name in KERNEL_TESTS]

if HAS_TRITON and "attncast.kernels.attention" not in sys.modules:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each kernel test runs on the CPU (interpreted) and on a GPU; one of the two is skipped."""
    import torch
    import triton

    from attncast.kernels.attention import attention_forward_kernel

    compiled = isinstance(attention_forward_kernel, triton.JITFunction)
    if request.param == "cpu" and compiled:
        pytest.skip("the kernels are compiled here, not interpreted")
    if request.param == "cuda" and not (compiled and torch.cuda.is_available()):
        pytest.skip("no CUDA GPU, or the interpreter is on")
    return str(request.param)
