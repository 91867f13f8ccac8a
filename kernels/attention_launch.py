"""``attention``: checks the tensors, picks a configuration and launches the forward kernel."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import torch
import triton

from . import tuned
from .arguments import check_qkv, check_scale, check_tensor, check_window, fault, need_device
from .attention import attention_forward_kernel
from .attention_spec import ForwardConfig, padded
from .blocks import BlockLists

LOG2_E = math.log2(math.e)
DTYPE_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float8_e4m3fn: "fp8"}


def default_config(head_dim: int, capability: tuple[int, int] | None, dtype: torch.dtype) -> ForwardConfig:
    """Return a configuration that fits; ``capability`` None (no GPU) gives the small tiles that interpret
    fast.
    """
    if capability is None:
        return ForwardConfig(32, 32, 4, 1)
    if dtype == torch.float32:
        return ForwardConfig(64, 32, 4, 2)
    major = capability[0]
    if major in (9, 10):
        if head_dim > 128:
            return ForwardConfig(128, 64, 8, 2)
        return ForwardConfig(128, 128, 8, 2) if major == 9 else ForwardConfig(128, 64, 8, 3)
    # 99 KiB of shared memory on sm_86, sm_89 and sm_120, 163 KiB on sm_80.
    if head_dim > 128:
        return ForwardConfig(64, 32, 4, 2)
    return ForwardConfig(128, 64, 4 if head_dim <= 64 else 8, 3)


def chosen_config(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, family: str) -> ForwardConfig:
    """Return the tuned configuration for a call of a pattern family (see tuned.py), or the default without one."""
    dim = max(q.shape[-1], v.shape[-1])
    device = device_name(q)
    found = tuned.lookup(device, DTYPE_NAMES[q.dtype], dim, family, math.prod(q.shape[:3])) if device else None
    if found is None:
        return default_config(dim, capability_of(q), q.dtype)
    if found.use_tma and any(misaligned(tensor) for tensor in (k, v)):
        # Whoever lays rows out so has not asked for tensor descriptors: the tuning did.
        # Addresses take registers too, so a cap that went with descriptors goes with them.
        return replace(found, use_tma=False, warp_specialize=False, maxnreg=0)
    return found


def device_name(tensor: torch.Tensor) -> str | None:
    """Return what torch calls the tensor's GPU, None on the CPU."""
    return torch.cuda.get_device_name(tensor.device) if tensor.is_cuda else None


def capability_of(tensor: torch.Tensor) -> tuple[int, int] | None:
    """Return the compute capability of the tensor's GPU, None on the CPU."""
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else None


def on_device(tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the tensor's GPU the current one: Triton launches on that, not on the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def fit_to_blocks(config: ForwardConfig, blocks: BlockLists | None) -> ForwardConfig:
    """Shrink the tile to the blocks of the lists: a tile must divide a block."""
    if blocks is None:
        return config
    sizes = (math.gcd(config.block_m, blocks.block[0]), math.gcd(config.block_n, blocks.block[1]))
    if min(sizes) < 16:
        raise fault("blocks", "blocks that are multiples of 16 tokens", blocks.block)
    # Which tiles Triton can specialise was found out for the size that was asked for, not for a smaller one.
    specialise = config.warp_specialize and sizes == (config.block_m, config.block_n)
    return replace(config, block_m=sizes[0], block_n=sizes[1], warp_specialize=specialise)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    blocks: BlockLists | None = None,
    mask: Any = None,
    mask_args: tuple[int, ...] = (),
    aux: torch.Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    out_dtype: torch.dtype | None = None,
    config: ForwardConfig | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention, forward, in one fused kernel.

    Shapes: ``q`` [batch, heads, queries, dim], ``k`` [batch, kv_heads, keys, dim], ``v`` [batch, kv_heads,
    keys, v_dim]; kv_heads divides heads (GQA, MQA). dim and v_dim are multiples of 8 up to 256. fp16, bf16,
    fp32, or float8_e4m3fn (sm_89 and newer); all three alike. Any strides with unit stride along dim.

    Which pairs count: all, or those of a band (``causal``, and ``window=(left, right)`` in tokens: key j
    counts for query i when i + keys - queries - left <= j <= i + keys - queries + right; None or -1 means no
    limit), or those of ``blocks``. On the partial blocks of ``blocks`` a mask decides: a Triton function
    ``mask`` (see masks.py) with ``mask_args`` and ``aux``, the packed masks of the lists, or both; ``causal``
    and ``window`` then apply to partial blocks too. ``scale`` multiplies the scores, default dim ** -0.5.

    Returns out [batch, heads, queries, v_dim] in ``out_dtype`` (default q's; bf16 for fp8), and with
    ``return_lse`` also the natural log-sum-exp, float32 [batch, heads, queries]. A query without a key gives
    0 and -inf.

    Gradients do not flow: see attention_backward. Raises ValueError naming a bad argument, RuntimeError off a
    GPU (unless TRITON_INTERPRET=1 was set).
    """
    check_qkv(q, k, v)
    scale = check_scale(scale, q.shape[-1])
    left, right = check_window(window, causal)
    need_device("q", q, attention_forward_kernel)
    check_lists(blocks, q, k)
    if blocks is None and mask is not None:
        raise fault("mask", "block lists too (blocks=...), to say where it applies", "a mask without them")
    if aux is not None:
        check_tensor("aux", aux, " ".join(f"d{i}" for i in range(aux.dim())))
        if aux.device != q.device:
            raise fault("aux", f"a tensor on {q.device}", aux.device)
    capability = capability_of(q)
    # Packed masks go through shared memory as well: a configuration tuned without them may not fit (rtx5090).
    bits = blocks is not None and blocks.bits is not None
    family = "bits" if bits else tuned.family_of(left, right, blocks is not None)
    config = config or chosen_config(q, k, v, family)
    config = fit_to_blocks(config, blocks)
    if config.use_tma:
        prepare_tma(q, k, v, capability)

    batch, heads, q_len, dim = q.shape
    kv_len, v_dim = v.shape[2:]
    out_dtype = out_dtype or (torch.bfloat16 if q.dtype == torch.float8_e4m3fn else q.dtype)
    out = torch.empty((batch, heads, q_len, v_dim), dtype=out_dtype, device=q.device)
    lse = torch.empty((batch, heads, q_len), dtype=torch.float32, device=q.device) if return_lse else None
    sparse_q, sparse_kv = blocks.block if blocks else (config.block_m, config.block_n)
    tiles = triton.cdiv(q_len, sparse_q) * (sparse_q // config.block_m)
    band = left is not None or right is not None
    lists = list_arguments(blocks, q)
    with on_device(q):
        attention_forward_kernel[(tiles * batch * heads,)](
            q, k, v, out, lse, *lists[:7], aux, *strides(q), *strides(k), *strides(v), *strides(out),
            *lists[7:], batch * heads, heads, q_len, kv_len, kv_len - q_len, left or 0, right or 0,
            scale * LOG2_E, GROUP=heads // k.shape[1], HEAD_DIM=dim, V_HEAD_DIM=v_dim, BLOCK_D=padded(dim),
            BLOCK_DV=padded(v_dim), BLOCK_M=config.block_m, BLOCK_N=config.block_n, SPARSE_Q=sparse_q,
            SPARSE_KV=sparse_kv, HEAD_GROUP=min(config.head_group, batch * heads), LISTS=blocks is not None,
            HAS_FULL=blocks is None or blocks.has_full,
            HAS_PARTIAL=blocks.has_partial if blocks else band or kv_len % config.block_n != 0,
            HAS_LEFT=left is not None, HAS_RIGHT=right is not None,
            BITS=blocks is not None and blocks.bits is not None, USE_TMA=config.use_tma,
            WARP_SPECIALIZE=config.warp_specialize, MASK=mask, MASK_ARGS=tuple(mask_args),
            PRECISION="ieee" if q.dtype == torch.float32 else "tf32", num_warps=config.num_warps,
            num_stages=config.num_stages, maxnreg=config.maxnreg or None,
        )  # fmt: skip
    return out if lse is None else (out, lse)


def strides(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Return the strides of batch, head and token."""
    return tensor.stride()[:3]  # type: ignore[return-value]


def check_lists(blocks: BlockLists | None, q: torch.Tensor, k: torch.Tensor) -> None:
    """Check that block lists belong to these queries and keys."""
    if blocks is None:
        return
    if blocks.by_key or blocks.lengths != (q.shape[2], k.shape[2]):
        raise fault("blocks", f"lists per Q block for ({q.shape[2]}, {k.shape[2]}) tokens", blocks.lengths)
    if blocks.full_count.device != q.device:
        raise fault("blocks", f"lists on {q.device}", blocks.full_count.device)
    b, h = blocks.full_count.shape[:2]
    if b not in (1, q.shape[0]) or h not in (1, q.shape[1]):
        raise fault("blocks", f"lists for 1 or {q.shape[0]} batches and 1 or {q.shape[1]} heads", (b, h))


def list_arguments(blocks: BlockLists | None, q: torch.Tensor) -> tuple[Any, ...]:
    """Return the list pointers (without aux), then stride_lb, stride_lh, full_width and part_width."""
    if blocks is None:
        return (None,) * 7 + (0, 0, 0, 0)
    b, h, rows = blocks.full_count.shape
    return (
        blocks.full_count, blocks.full_index, blocks.part_count, blocks.part_index, blocks.part_bits,
        blocks.bits, blocks.order, h * rows if b > 1 else 0, rows if h > 1 else 0,
        blocks.full_index.shape[-1], blocks.part_index.shape[-1],
    )  # fmt: skip


def misaligned(tensor: torch.Tensor) -> bool:
    """Return whether rows begin off the 16 bytes that tensor descriptors ask for."""
    return bool(tensor.data_ptr() % 16) or any(s * tensor.element_size() % 16 for s in strides(tensor))


def prepare_tma(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, capability: tuple[int, int] | None) -> None:
    """Check what tensor descriptors ask of k and v, and give Triton memory to build them in."""
    if capability is not None and capability[0] < 9:
        raise fault("config", "use_tma=False on a GPU before sm_90", "use_tma=True")
    for name, tensor in (("k", k), ("v", v)):
        if misaligned(tensor):
            raise fault(name, "16-byte aligned rows for use_tma=True", f"stride {tensor.stride()}")
    if q.is_cuda:
        device = q.device
        triton.set_allocator(lambda size, _align, _stream: torch.empty(size, dtype=torch.int8, device=device))
