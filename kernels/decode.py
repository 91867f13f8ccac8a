"""``decode``: a few new queries per sequence against long, maybe paged, keys and values.

The queries of one KV head (query heads of its group x new tokens) are the rows of one tile, so K and V are
read once per KV head. The keys are split over programs to fill the GPU; each writes its own softmax state
(normalised output and log-sum-exp) and ``merge_states`` joins them. A prefix that all sequences share is one
more set of splits, whose tile has the rows of every sequence: the prefix is read once for the batch, and the
same merge joins it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .arguments import FLOATS, check_head_dim, check_scale, check_tensor, fault, need_device
from .attention_launch import LOG2_E, on_device
from .attention_spec import padded
from .decode_spec import NUM_STAGES, NUM_WARPS
from .tiles import mma

BLOCK_N = 64


@triton.jit
def decode_split_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, lengths_ptr, table_ptr, stride_qb, stride_qh, stride_qt, stride_kb,
    stride_kh, stride_kn, stride_vb, stride_vh, stride_vn, stride_table, rows, heads, tokens, kv_len,
    prefix_len, splits, first_slot, batches, left, scale_log2, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr,
    V_HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, PAGE: tl.constexpr, SHARED: tl.constexpr, CAUSAL: tl.constexpr,
    HAS_LEFT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One split of one KV head: softmax state of ``rows`` queries over a run of keys.

    Row r is batch r // (GROUP * tokens), query head r // tokens % GROUP, token r % tokens; with SHARED the
    rows span all batches and the keys are the prefix, otherwise they belong to the program's batch. PAGE > 0
    looks keys up in ``table`` [batch, pages]. The grid is (splits, KV heads x row tiles, batches or 1);
    states go to out [slot, batch, head, token, V dim] and lse [slot, batch, head, token], both contiguous.
    """
    split = tl.program_id(0)
    row_tiles = tl.cdiv(rows, BLOCK_M)
    kv_head = (tl.program_id(1) // row_tiles).to(tl.int64)
    batch = tl.program_id(2)
    row = tl.program_id(1) % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = row < rows
    q_batch = (batch + row // (GROUP * tokens)).to(tl.int64)
    q_head = kv_head * GROUP + row // tokens % GROUP
    token = row % tokens
    columns = tl.arange(0, BLOCK_D)
    columns_v = tl.arange(0, BLOCK_DV)
    q_at = q_ptr + q_batch * stride_qb + q_head * stride_qh + token * stride_qt
    q = tl.load(q_at[:, None] + columns[None, :], mask=inside[:, None] & (columns < HEAD_DIM)[None, :], other=0.0)

    # Positions count from the start of the prefix; the last of a sequence's tokens is its newest query.
    if lengths_ptr is None:
        own = tl.full([BLOCK_M], 0, tl.int32) + kv_len
    else:
        own = tl.load(lengths_ptr + q_batch, mask=inside, other=0)
    position = prefix_len + own - tokens + token
    if SHARED:
        end = prefix_len
        key_shift = 0
    else:
        end = tl.max(own, 0)
        key_shift = prefix_len
    first = 0
    if HAS_LEFT:
        # Padding rows must not widen the window.
        lowest = tl.min(tl.where(inside, position - left, 2147483647), 0)
        first = tl.maximum(lowest - key_shift, 0) // BLOCK_N
    per_split = tl.cdiv(tl.maximum(tl.cdiv(end, BLOCK_N) - first, 0), splits)
    low = first + split * per_split
    high = tl.minimum(low + per_split, tl.cdiv(end, BLOCK_N))

    k_base = k_ptr + kv_head * stride_kh
    v_base = v_ptr + kv_head * stride_vh
    if PAGE == 0:
        k_base += batch.to(tl.int64) * stride_kb
        v_base += batch.to(tl.int64) * stride_vb
    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    for block in tl.range(low, high):
        keys = block * BLOCK_N + tl.arange(0, BLOCK_N)
        held = keys < end
        if PAGE == 0:
            k_rows = keys.to(tl.int64) * stride_kn
            v_rows = keys.to(tl.int64) * stride_vn
        else:
            pages = tl.load(table_ptr + batch.to(tl.int64) * stride_table + keys // PAGE, mask=held, other=0)
            k_rows = pages.to(tl.int64) * stride_kb + keys % PAGE * stride_kn
            v_rows = pages.to(tl.int64) * stride_vb + keys % PAGE * stride_vn
        k_at = k_base + k_rows[:, None] + columns[None, :]
        k = tl.load(k_at, mask=held[:, None] & (columns < HEAD_DIM)[None, :], other=0.0)
        scores = mma(q, tl.trans(k), None, PRECISION)
        keep = held[None, :]
        if CAUSAL:
            keep = keep & ((keys + key_shift)[None, :] <= position[:, None])
        if HAS_LEFT:
            keep = keep & ((keys + key_shift)[None, :] >= (position - left)[:, None])
        scores = tl.where(keep, scores, float("-inf"))
        top_new = tl.maximum(top, tl.max(scores, 1) * scale_log2)
        anchor = tl.where(top_new == float("-inf"), 0.0, top_new)
        weights = tl.exp2(scores * scale_log2 - anchor[:, None])
        rescale = tl.exp2(top - anchor)
        total = total * rescale + tl.sum(weights, 1)
        v_at = v_base + v_rows[:, None] + columns_v[None, :]
        v = tl.load(v_at, mask=held[:, None] & (columns_v < V_HEAD_DIM)[None, :], other=0.0)
        acc = mma(weights.to(v.dtype), v, acc * rescale[:, None], PRECISION)
        top = top_new

    total = tl.where(total == 0.0, 1.0, total)
    acc = acc / total[:, None]
    lse = (top + tl.log2(total)) * 0.6931471805599453
    slot = (first_slot + split).to(tl.int64)
    state = ((slot * batches + q_batch) * heads + q_head) * tokens + token
    out_at = out_ptr + state[:, None] * V_HEAD_DIM + columns_v[None, :]
    keep = inside[:, None] & (columns_v < V_HEAD_DIM)[None, :]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=keep)
    tl.store(lse_ptr + state, lse, mask=inside)


@triton.jit
def merge_states_kernel(
    states_ptr, state_lse_ptr, out_ptr, lse_ptr, rows, slots, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Join ``slots`` softmax states [slot, row, DIM] with lse [slot, row]; one program per row, two passes
    over lse.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK_S)
    columns = tl.arange(0, BLOCK_DIM)
    top = float("-inf")
    for start in tl.range(0, slots, BLOCK_S):
        at = state_lse_ptr + (start + slot).to(tl.int64) * rows + row
        top = tl.maximum(top, tl.max(tl.load(at, mask=start + slot < slots, other=float("-inf")), 0))
    anchor = tl.where(top == float("-inf"), 0.0, top)
    acc = tl.zeros([BLOCK_DIM], tl.float32)
    total = 0.0
    for start in tl.range(0, slots, BLOCK_S):
        at = (start + slot).to(tl.int64) * rows + row
        lse = tl.load(state_lse_ptr + at, mask=start + slot < slots, other=float("-inf"))
        weight = tl.exp2((lse - anchor) * 1.4426950408889634)
        keep = (start + slot < slots)[:, None] & (columns < DIM)[None, :]
        state = tl.load(states_ptr + at[:, None] * DIM + columns[None, :], mask=keep, other=0.0).to(tl.float32)
        acc += tl.sum(state * weight[:, None], 0)
        total += tl.sum(weight, 0)
    total = tl.where(total == 0.0, 1.0, total)
    acc = acc / total
    tl.store(out_ptr + row * DIM + columns, acc.to(out_ptr.dtype.element_ty), mask=columns < DIM)
    tl.store(lse_ptr + row, top + tl.log2(total) * 0.6931471805599453)


def merge_states(
    states: torch.Tensor, lse: torch.Tensor, out_dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Join softmax states over disjoint sets of keys: the attention over their union.

    ``states`` [slots, ..., dim], each normalised by itself; ``lse`` float32 [slots, ...], natural, -inf for
    no keys. Returns (out [..., dim] in ``out_dtype``, default that of states; lse [...]).
    """
    if states.dim() < 2 or states.shape[:-1] != lse.shape:
        raise fault("lse", f"shape {tuple(states.shape[:-1])} as states without dim", tuple(lse.shape))
    if lse.dtype != torch.float32:
        raise fault("lse", "dtype float32", lse.dtype)
    if states.dtype not in FLOATS or states.numel() == 0:
        raise fault("states", "float16, bfloat16 or float32, and at least one state", states.dtype)
    need_device("states", states, merge_states_kernel)
    states, lse = states.contiguous(), lse.contiguous()
    out = torch.empty(states.shape[1:], dtype=out_dtype or states.dtype, device=states.device)
    merged = torch.empty(lse.shape[1:], dtype=torch.float32, device=states.device)
    dim, rows = states.shape[-1], merged.numel()
    with on_device(states):
        merge_states_kernel[(rows,)](
            states, lse, out, merged, rows, states.shape[0], DIM=dim, BLOCK_DIM=triton.next_power_of_2(dim),
            BLOCK_S=min(16, triton.next_power_of_2(states.shape[0])), num_warps=2,
        )  # fmt: skip
    return out, merged


def decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    lengths: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    prefix: tuple[torch.Tensor, torch.Tensor] | None = None,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    splits: int | None = None,
    return_lse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attention of the newest tokens of every sequence over its whole cache.

    ``q`` [batch, heads, tokens, dim]: the last ``tokens`` positions of each sequence (1 in plain decoding).
    Keys and values include them: ``k`` [batch, kv_heads, keys, dim] and ``v`` [batch, kv_heads, keys, v_dim];
    or, with ``block_table`` (int32 [batch, pages per sequence]), pages ``k`` [pages, page size, kv_heads,
    dim] and ``v`` alike. ``lengths`` (int32 [batch]) says how many keys of each sequence are real; needed
    with pages, default all. ``prefix`` (k [kv_heads, prefix, dim], v [kv_heads, prefix, v_dim]) goes before
    every sequence and is read once for the batch. ``causal`` hides later tokens of the same call; ``window``
    keeps the query's own key and that many before it. fp16, bf16 or fp32, all alike; dims multiples of 8 up
    to 256; unit stride along dim. ``splits`` over the keys: default, enough to fill the GPU.

    Returns out [batch, heads, tokens, v_dim], and with ``return_lse`` the natural log-sum-exp, float32
    [batch, heads, tokens]. No keys: 0 and -inf. Raises ValueError naming a bad argument, RuntimeError off a
    GPU unless interpreted.
    """
    check_tensor("q", q, "batch heads tokens dim", dtypes=FLOATS)
    batch, heads, tokens, dim = q.shape
    paged = block_table is not None
    dims = "pages page_size kv_heads dim" if paged else "batch kv_heads keys dim"
    sizes = {"dim": dim} if paged else {"dim": dim, "batch": batch}
    check_tensor("k", k, dims, like=q, sizes=sizes)
    named = dict(zip(dims.split(), k.shape, strict=True))
    del named["dim"]
    check_tensor("v", v, dims, like=q, sizes=named)
    check_head_dim("q", q)
    check_head_dim("v", v)
    kv_heads, v_dim = named["kv_heads"], v.shape[-1]
    if heads % kv_heads:
        raise fault("k", f"a number of heads that divides the {heads} of q", kv_heads)
    if block_table is not None:
        check_tensor("block_table", block_table, "batch pages", dtypes=(torch.int32,), sizes={"batch": batch})
        if lengths is None:
            raise fault("lengths", "the number of keys of each sequence, with a block_table", None)
    if lengths is not None:
        check_tensor("lengths", lengths, "batch", dtypes=(torch.int32,), sizes={"batch": batch})
    for name, table in (("block_table", block_table), ("lengths", lengths)):
        if table is not None and table.device != q.device:
            raise fault(name, f"a tensor on {q.device}", table.device)
    if prefix is not None:
        check_tensor("prefix[0]", prefix[0], "kv_heads prefix dim", like=q, sizes={"kv_heads": kv_heads, "dim": dim})
        sizes = {"kv_heads": kv_heads, "prefix": prefix[0].shape[1], "v_dim": v_dim}
        check_tensor("prefix[1]", prefix[1], "kv_heads prefix v_dim", like=q, sizes=sizes)
    if window is not None and window < 0:
        raise fault("window", "a number of tokens, 0 or more", window)
    if splits is not None and splits < 1:
        raise fault("splits", "1 or more", splits)
    scale = check_scale(scale, dim)
    need_device("q", q, decode_split_kernel)

    group = heads // kv_heads
    prefix_len = prefix[0].shape[1] if prefix else 0
    keys = block_table.shape[1] * named["page_size"] if block_table is not None else k.shape[2]
    passes = []
    if prefix is not None:
        steps = [(0, *t.stride()[:2]) for t in prefix]
        passes.append(_Pass(*prefix, steps[0], steps[1], batch * group * tokens, prefix_len, 1, True))
    steps = [(t.stride(0), t.stride(2), t.stride(1)) if paged else t.stride()[:3] for t in (k, v)]
    passes.append(_Pass(k, v, steps[0], steps[1], group * tokens, keys, batch, False))

    counts = []
    for one in passes:
        tiles = kv_heads * triton.cdiv(one.rows, _block_m(one.rows)) * one.batches
        counts.append(_splits(splits, tiles, one.keys, q))
    slots = sum(counts)
    state_dtype = q.dtype if slots == 1 else torch.float32
    states = torch.empty((slots, batch, heads, tokens, v_dim), dtype=state_dtype, device=q.device)
    lses = torch.empty((slots, batch, heads, tokens), dtype=torch.float32, device=q.device)
    first_slot = 0
    with on_device(q):
        for one, count in zip(passes, counts, strict=True):
            block_m = _block_m(one.rows)
            decode_split_kernel[(count, kv_heads * triton.cdiv(one.rows, block_m), one.batches)](
                q, one.k, one.v, states, lses, lengths, None if one.shared else block_table, *q.stride()[:3],
                *one.k_strides, *one.v_strides, block_table.stride(0) if block_table is not None else 0,
                one.rows, heads, tokens, keys, prefix_len, count, first_slot, batch, window or 0,
                scale * LOG2_E, GROUP=group,
                HEAD_DIM=dim, V_HEAD_DIM=v_dim, BLOCK_D=padded(dim), BLOCK_DV=padded(v_dim), BLOCK_M=block_m,
                BLOCK_N=BLOCK_N if dim <= 128 else BLOCK_N // 2,
                PAGE=named["page_size"] if paged and not one.shared else 0, SHARED=one.shared, CAUSAL=causal,
                HAS_LEFT=window is not None, PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
                num_warps=NUM_WARPS, num_stages=NUM_STAGES,
            )  # fmt: skip
            first_slot += count
    out, lse = (states[0], lses[0]) if slots == 1 else merge_states(states, lses, q.dtype)
    return (out, lse) if return_lse else out


class _Pass(NamedTuple):
    """One launch of the split kernel; the strides are those of batch (or page), head and token."""

    k: torch.Tensor
    v: torch.Tensor
    k_strides: tuple[int, ...]
    v_strides: tuple[int, ...]
    rows: int
    keys: int
    batches: int
    shared: bool


def _block_m(rows: int) -> int:
    return min(64, padded(rows))


def _splits(asked: int | None, tiles: int, keys: int, q: torch.Tensor) -> int:
    """Return how many programs share one tile's keys: two per SM in all, each with four blocks of keys or
    more.
    """
    if asked is not None:
        return asked
    processors = torch.cuda.get_device_properties(q.device).multi_processor_count if q.is_cuda else 4
    return max(1, min(2 * processors // max(tiles, 1), math.ceil(keys / (4 * BLOCK_N)), 128))
