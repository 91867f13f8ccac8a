"""``attention_backward``: the gradients of ``attention``, over the same bands and block lists."""

from __future__ import annotations

from typing import Any

import torch
import triton

from .arguments import FLOATS, check_qkv, check_scale, check_tensor, check_window, fault, need_device
from .attention_launch import (
    LOG2_E,
    capability_of,
    check_lists,
    fit_to_blocks,
    list_arguments,
    on_device,
    strides,
)
from .attention_spec import ForwardConfig, padded
from .backward_kernels import attention_delta_kernel, attention_grad_kv_kernel, attention_grad_q_kernel
from .blocks import BlockLists


def default_configs(
    head_dim: int, capability: tuple[int, int] | None, dtype: torch.dtype
) -> tuple[ForwardConfig, ForwardConfig]:
    """Return the configurations of the dQ and of the dK, dV kernel."""
    if capability is None:
        return ForwardConfig(32, 32, 4, 1), ForwardConfig(32, 32, 4, 1)
    if dtype == torch.float32 or head_dim > 128:
        return ForwardConfig(32, 32, 4, 1), ForwardConfig(32, 32, 4, 1)
    if capability[0] in (9, 10):
        return ForwardConfig(128, 64, 8, 2), ForwardConfig(64, 128, 8, 2)
    return ForwardConfig(64, 64, 4, 2), ForwardConfig(32, 64, 4, 2)


def attention_backward(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    *,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    blocks: BlockLists | None = None,
    mask: Any = None,
    mask_args: tuple[int, ...] = (),
    aux: torch.Tensor | None = None,
    scale: float | None = None,
    transposed: BlockLists | None = None,
    configs: tuple[ForwardConfig, ForwardConfig] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (dq, dk, dv), shaped and typed like q, k and v, contiguous.

    ``grad_out`` and ``out`` are [batch, heads, queries, v_dim], ``lse`` float32 [batch, heads, queries] as
    ``attention`` returned it for the same arguments (shapes and masks are described there; fp16, bf16 or
    fp32). ``transposed`` is ``blocks.transposed()``; computed when left out, which costs more than a small
    call. ``configs`` are the tiles of the dQ and of the dK, dV kernel. Results repeat bit for bit: there are
    no atomics.

    Raises ValueError naming a bad argument, RuntimeError off a GPU unless interpreted.
    """
    check_qkv(q, k, v, dtypes=FLOATS)
    scale = check_scale(scale, q.shape[-1])
    left, right = check_window(window, causal)
    need_device("q", q, attention_grad_q_kernel)
    check_lists(blocks, q, k)
    if blocks is None and mask is not None:
        raise fault("mask", "block lists too (blocks=...), to say where it applies", "a mask without them")
    batch, heads, q_len, dim = q.shape
    kv_heads, kv_len, v_dim = v.shape[1:]
    sizes = {"batch": batch, "heads": heads, "queries": q_len}
    for name, tensor in (("grad_out", grad_out), ("out", out)):
        check_tensor(name, tensor, "batch heads queries v_dim", like=q, sizes={**sizes, "v_dim": v_dim})
    check_tensor("lse", lse, "batch heads queries", dtypes=(torch.float32,), sizes=sizes)
    lse = lse.contiguous()
    if blocks is not None and transposed is None:
        transposed = blocks.transposed()
    if transposed is not None and not transposed.by_key:
        raise fault("transposed", "blocks.transposed()", "lists per Q block")

    capability = capability_of(q)
    configs = configs or default_configs(max(dim, v_dim), capability, q.dtype)
    config_q, config_kv = (fit_to_blocks(c, blocks) for c in configs)
    delta = torch.empty_like(lse)
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    dv = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    band = left is not None or right is not None
    inputs = (q, k, v, grad_out, lse, delta)
    steps = (*strides(q), *strides(k), *strides(v), *strides(grad_out))
    numbers = (q_len, kv_len, kv_len - q_len, left or 0, right or 0, scale, scale * LOG2_E)
    common: dict[str, Any] = {
        "GROUP": heads // kv_heads, "HEAD_DIM": dim, "V_HEAD_DIM": v_dim, "BLOCK_D": padded(dim),
        "BLOCK_DV": padded(v_dim), "LISTS": blocks is not None, "HAS_FULL": blocks is None or blocks.has_full,
        "HAS_LEFT": left is not None, "HAS_RIGHT": right is not None,
        "BITS": blocks is not None and blocks.bits is not None, "MASK": mask, "MASK_ARGS": tuple(mask_args),
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
    }  # fmt: skip

    def tiling(config: ForwardConfig, ragged: bool) -> dict[str, Any]:
        sparse = blocks.block if blocks else (config.block_m, config.block_n)
        return common | {
            "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "SPARSE_Q": sparse[0],
            "SPARSE_KV": sparse[1], "HAS_PARTIAL": blocks.has_partial if blocks else band or ragged,
            "num_warps": config.num_warps, "num_stages": config.num_stages,
        }  # fmt: skip

    with on_device(q):
        rows = 64
        row_blocks = triton.cdiv(q_len, rows)
        attention_delta_kernel[(row_blocks * batch * heads,)](
            out, grad_out, delta, *strides(out), *strides(grad_out), heads, q_len, row_blocks,
            V_HEAD_DIM=v_dim, BLOCK_DV=padded(v_dim), BLOCK=rows, num_warps=4,
        )  # fmt: skip
        lists = list_arguments(blocks, q)
        settings = tiling(config_q, kv_len % config_q.block_n != 0)
        tiles = triton.cdiv(q_len, settings["SPARSE_Q"]) * (settings["SPARSE_Q"] // config_q.block_m)
        attention_grad_q_kernel[(tiles, batch * heads)](
            *inputs, dq, *lists[:7], aux, *steps, *lists[7:], heads, *numbers, **settings
        )
        lists = list_arguments(transposed, q)
        settings = tiling(config_kv, q_len % config_kv.block_m != 0)
        tiles = triton.cdiv(kv_len, settings["SPARSE_KV"]) * (settings["SPARSE_KV"] // config_kv.block_n)
        attention_grad_kv_kernel[(tiles, batch * kv_heads)](
            *inputs, dk, dv, *lists[:7], aux, *steps, *lists[7:], kv_heads, *numbers, **settings
        )
    return dq, dk, dv
