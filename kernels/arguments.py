"""Checks of what users pass to the kernels: InputError names the argument and what was expected of it."""

from __future__ import annotations

from typing import Any

import torch
import triton

from ..errors import InputError
from .attention_spec import HEAD_DIM_MAX

HALF = (torch.float16, torch.bfloat16)
FLOATS = (*HALF, torch.float32)
ATTENTION_DTYPES = (*FLOATS, torch.float8_e4m3fn)


def fault(name: str, expected: str, got: object) -> InputError:
    """Return the error for a bad argument."""
    return InputError(f"{name}: expected {expected}, got {got}")


def need_device(name: str, tensor: torch.Tensor, kernel: Any) -> None:
    """Raise RuntimeError unless ``kernel`` can run on ``tensor``: on a GPU, or anywhere under the
    interpreter.
    """
    if tensor.is_cuda or not isinstance(kernel, triton.JITFunction):
        return
    raise RuntimeError(
        f"attncast's kernels need a CUDA GPU and {name} is on {tensor.device}: move it to one, or set "
        "TRITON_INTERPRET=1 before the first import to run on the CPU"
    )


def check_tensor(
    name: str,
    tensor: torch.Tensor,
    dims: str,
    *,
    dtypes: tuple[torch.dtype, ...] | None = None,
    like: torch.Tensor | None = None,
    sizes: dict[str, int] | None = None,
) -> None:
    """Check one tensor: its dims (``"batch head token dim"``), dtype, device, and the unit stride of its last
    dim.

    ``sizes`` says what named dims must measure; ``like`` is the tensor whose dtype and device it must share.
    """
    names = dims.split()
    if not isinstance(tensor, torch.Tensor):
        raise fault(name, "a torch tensor", type(tensor).__name__)
    if tensor.dim() != len(names):
        raise fault(name, f"{len(names)} dimensions [{', '.join(names)}]", f"shape {tuple(tensor.shape)}")
    if dtypes is not None and tensor.dtype not in dtypes:
        raise fault(name, f"dtype {' or '.join(_short(d) for d in dtypes)}", _short(tensor.dtype))
    if like is not None and tensor.dtype != like.dtype:
        raise fault(name, f"dtype {_short(like.dtype)} as the other operands", _short(tensor.dtype))
    if like is not None and tensor.device != like.device:
        raise fault(name, f"a tensor on {like.device} as the other operands", tensor.device)
    for dim, size in (sizes or {}).items():
        if tensor.shape[names.index(dim)] != size:
            raise fault(name, f"{size} along {dim} of [{', '.join(names)}]", f"shape {tuple(tensor.shape)}")
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise fault(name, f"unit stride along {names[-1]}", f"stride {tensor.stride()}")
    if tensor.numel() == 0:
        raise fault(name, "at least one element", f"shape {tuple(tensor.shape)}")


def check_head_dim(name: str, tensor: torch.Tensor) -> None:
    """Check the last dim: a multiple of 8 (rows of 16 bytes for copies) up to 256."""
    dim = tensor.shape[-1]
    if dim % 8 or not 8 <= dim <= HEAD_DIM_MAX:
        raise fault(name, f"a head dim that is a multiple of 8 from 8 to {HEAD_DIM_MAX}", dim)


def check_qkv(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dtypes: tuple[torch.dtype, ...] = ATTENTION_DTYPES
) -> None:
    """Check q [batch, heads, queries, dim], k [batch, KV heads, keys, dim] and v [batch, KV heads, keys, V
    dim].
    """
    check_tensor("q", q, "batch heads queries dim", dtypes=dtypes)
    check_tensor("k", k, "batch kv_heads keys dim", like=q, sizes={"batch": q.shape[0], "dim": q.shape[3]})
    sizes = {"batch": q.shape[0], "kv_heads": k.shape[1], "keys": k.shape[2]}
    check_tensor("v", v, "batch kv_heads keys v_dim", like=q, sizes=sizes)
    if q.shape[1] % k.shape[1]:
        raise fault("k", f"a number of heads that divides the {q.shape[1]} of q", k.shape[1])
    check_head_dim("q", q)
    check_head_dim("v", v)


def check_scale(scale: float | None, dim: int) -> float:
    """Return the softmax scale, ``dim ** -0.5`` for None. The running maximum is scaled with it, so it is
    positive.
    """
    scale = dim**-0.5 if scale is None else float(scale)
    if not 0.0 < scale < float("inf"):
        raise fault("scale", "a positive number", scale)
    return scale


def check_window(window: tuple[int | None, int | None] | None, causal: bool) -> tuple[int | None, int | None]:
    """Return (left, right) of the band, None for no limit; -1 counts as None, as in flash-attn."""
    left, right = (None, None) if window is None else (None if side in (None, -1) else side for side in window)
    for side in (left, right):
        if side is not None and (not isinstance(side, int) or side < 0):
            raise fault("window", "(left, right), each a number of tokens, or None or -1 for no limit", window)
    return left, 0 if causal else right


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
