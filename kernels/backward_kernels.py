"""Triton kernels of ``attention_backward``: one for dQ over the forward lists, one for dK and dV over their
transpose.

With P = exp(scale Q K^T - lse) and delta = rowsum(dO * O):  dV = P^T dO,  dS = P * (dO V^T - delta),  dQ =
scale dS K, dK = scale dS^T Q. Every gradient tile belongs to one program, so there are no atomics and results
repeat bit for bit. Arguments are those of attention.py; ``lse`` and ``delta`` are float32 [batch, head,
query], contiguous.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .attention import partial_mask
from .tiles import band_blocks, load_rows, mma


@triton.jit
def attention_delta_kernel(
    out_ptr, grad_ptr, delta_ptr, stride_ob, stride_oh, stride_om, stride_gb, stride_gh, stride_gm, heads,
    q_len, blocks, V_HEAD_DIM: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """delta = rowsum(dO * O), in float32."""
    program = tl.program_id(0)
    batch_head = program // blocks
    batch = (batch_head // heads).to(tl.int64)
    head = (batch_head % heads).to(tl.int64)
    rows = tl.arange(0, BLOCK)
    columns = tl.arange(0, BLOCK_DV)
    start = program % blocks * BLOCK
    out_at = out_ptr + batch * stride_ob + head * stride_oh + rows[:, None] * stride_om + columns[None, :]
    grad_at = grad_ptr + batch * stride_gb + head * stride_gh + rows[:, None] * stride_gm + columns[None, :]
    out = load_rows(out_at, start, stride_om, rows, columns, q_len, True, V_HEAD_DIM, BLOCK_DV).to(tl.float32)
    grad = load_rows(grad_at, start, stride_gm, rows, columns, q_len, True, V_HEAD_DIM, BLOCK_DV).to(tl.float32)
    at = delta_ptr + batch_head.to(tl.int64) * q_len + start + rows
    tl.store(at, tl.sum(out * grad, 1), mask=start + rows < q_len)


@triton.jit
def _grad_q_run(
    dq, q, grad, lse, delta, k_at, v_at, index_ptr, bits_index_ptr, bits_ptr, aux_ptr, count, first, gap_at,
    gap, batch, head, queries, bit_rows, stride_kn, stride_vn, kv_len, shift, left, right, scale_log2,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr, SPARSE_Q: tl.constexpr, SPARSE_KV: tl.constexpr, LISTS: tl.constexpr,
    MASKED: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, BITS: tl.constexpr,
    MASK: tl.constexpr, MASK_ARGS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what ``count`` KV blocks give to the gradient of one Q tile."""
    rows = tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_D)
    columns_v = tl.arange(0, BLOCK_DV)
    PER_BLOCK: tl.constexpr = SPARSE_KV // BLOCK_N
    if LISTS:
        following = tl.load(index_ptr, mask=count > 0, other=0)
    for step in tl.range(0, count * PER_BLOCK):
        if LISTS:
            block = following * PER_BLOCK + step % PER_BLOCK
            following = tl.load(index_ptr + tl.minimum(step + 1, count * PER_BLOCK - 1) // PER_BLOCK)
        else:
            block = first + step
            if MASKED:
                block += tl.where(step >= gap_at, gap, 0)
        start = block * BLOCK_N
        k = load_rows(k_at, start, stride_kn, rows, columns, kv_len, MASKED, HEAD_DIM, BLOCK_D)
        v = load_rows(v_at, start, stride_vn, rows, columns_v, kv_len, MASKED, V_HEAD_DIM, BLOCK_DV)
        weights = tl.exp2(mma(q, tl.trans(k), None, PRECISION) * scale_log2 - lse[:, None])
        if MASKED:
            bits_at = bits_ptr
            if BITS:
                bits_at += tl.load(bits_index_ptr + step // PER_BLOCK).to(tl.int64) * (SPARSE_Q * SPARSE_KV // 32)
            keep = partial_mask(
                batch, head, queries[:, None], (start + rows)[None, :], kv_len, shift, left, right, bits_at,
                bit_rows[:, None], (step % PER_BLOCK * BLOCK_N + rows)[None, :], aux_ptr,
                HAS_LEFT, HAS_RIGHT, BITS, SPARSE_KV, MASK, MASK_ARGS,
            )  # fmt: skip
            weights = tl.where(keep, weights, 0.0)
        grad_scores = weights * (mma(grad, tl.trans(v), None, PRECISION) - delta[:, None])
        dq = mma(grad_scores.to(k.dtype), k, dq, PRECISION)
    return dq


@triton.jit
def attention_grad_q_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dq_ptr, full_count_ptr, full_index_ptr, part_count_ptr,
    part_index_ptr, part_bits_ptr, bits_ptr, order_ptr, aux_ptr, stride_qb, stride_qh, stride_qm, stride_kb,
    stride_kh, stride_kn, stride_vb, stride_vh, stride_vn, stride_gb, stride_gh, stride_gm, stride_lb,
    stride_lh, full_width, part_width, heads, q_len, kv_len, shift, left, right, scale, scale_log2,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPARSE_Q: tl.constexpr,
    SPARSE_KV: tl.constexpr, LISTS: tl.constexpr, HAS_FULL: tl.constexpr, HAS_PARTIAL: tl.constexpr,
    HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, BITS: tl.constexpr, MASK: tl.constexpr,
    MASK_ARGS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of one Q tile of one head. ``dq`` is contiguous; the grid is (Q tiles, batch x heads)."""
    PER_SPARSE: tl.constexpr = SPARSE_Q // BLOCK_M
    slot = tl.program_id(0)
    batch_head = tl.program_id(1)
    head = batch_head % heads
    lists = (batch_head // heads) * stride_lb + head * stride_lh
    tile = slot
    if order_ptr is not None:
        tile = tl.load(order_ptr + lists + slot // PER_SPARSE) * PER_SPARSE + slot % PER_SPARSE
    elif HAS_RIGHT:
        tile = tl.num_programs(0) - 1 - slot
    batch = (batch_head // heads).to(tl.int64)
    kv_head = (head // GROUP).to(tl.int64)
    q_start = tile * BLOCK_M
    rows = tl.arange(0, BLOCK_M)
    queries = q_start + rows
    columns = tl.arange(0, BLOCK_D)
    columns_v = tl.arange(0, BLOCK_DV)
    kv_rows = tl.arange(0, BLOCK_N)
    q_at = q_ptr + batch * stride_qb + head.to(tl.int64) * stride_qh + rows[:, None] * stride_qm + columns[None, :]
    grad_at = grad_ptr + batch * stride_gb + head.to(tl.int64) * stride_gh
    grad_at += rows[:, None] * stride_gm + columns_v[None, :]
    q = load_rows(q_at, q_start, stride_qm, rows, columns, q_len, True, HEAD_DIM, BLOCK_D)
    grad = load_rows(grad_at, q_start, stride_gm, rows, columns_v, q_len, True, V_HEAD_DIM, BLOCK_DV)
    k_at = k_ptr + batch * stride_kb + kv_head * stride_kh + kv_rows[:, None] * stride_kn + columns[None, :]
    v_at = v_ptr + batch * stride_vb + kv_head * stride_vh + kv_rows[:, None] * stride_vn + columns_v[None, :]
    row_at = batch_head.to(tl.int64) * q_len + queries
    lse = tl.load(lse_ptr + row_at, mask=queries < q_len, other=0.0) * 1.4426950408889634
    # A row without a key has lse -inf; +inf makes its weights 0 instead of inf.
    lse = tl.where(lse == float("-inf"), float("inf"), lse)
    delta = tl.load(delta_ptr + row_at, mask=queries < q_len, other=0.0)

    full_at = full_index_ptr
    part_at = part_index_ptr
    part_bits_at = part_bits_ptr
    full_first = 0
    part_first = 0
    gap_at = 0
    gap = 0
    if LISTS:
        row = tile // PER_SPARSE
        if HAS_FULL:
            full_count = tl.load(full_count_ptr + lists + row)
            full_at += (lists + row).to(tl.int64) * full_width
        if HAS_PARTIAL:
            part_count = tl.load(part_count_ptr + lists + row)
            part_at += (lists + row).to(tl.int64) * part_width
            if BITS:
                part_bits_at += (lists + row).to(tl.int64) * part_width
    else:
        q_last = tl.minimum(q_start + BLOCK_M, q_len) - 1
        part_first, high, full_first, full_high = band_blocks(
            q_start, q_last, kv_len, shift, left, right, HAS_LEFT, HAS_RIGHT, BLOCK_N
        )
        full_count = full_high - full_first
        gap_at = full_first - part_first
        gap = full_count
        part_count = high - part_first - full_count
    bit_rows = q_start % SPARSE_Q + rows
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if HAS_FULL:
        dq = _grad_q_run(
            dq, q, grad, lse, delta, k_at, v_at, full_at, None, None, None, full_count, full_first, 0, 0,
            batch, head, queries, bit_rows, stride_kn, stride_vn, kv_len, shift, left, right, scale_log2,
            HEAD_DIM, V_HEAD_DIM, BLOCK_D, BLOCK_DV, BLOCK_N, SPARSE_Q, SPARSE_KV, LISTS,
            False, False, False, False, None, None, PRECISION,
        )  # fmt: skip
    if HAS_PARTIAL:
        dq = _grad_q_run(
            dq, q, grad, lse, delta, k_at, v_at, part_at, part_bits_at, bits_ptr, aux_ptr, part_count,
            part_first, gap_at, gap, batch, head, queries, bit_rows, stride_kn, stride_vn, kv_len, shift,
            left, right, scale_log2, HEAD_DIM, V_HEAD_DIM, BLOCK_D, BLOCK_DV, BLOCK_N, SPARSE_Q, SPARSE_KV,
            LISTS, True, HAS_LEFT, HAS_RIGHT, BITS, MASK, MASK_ARGS, PRECISION,
        )  # fmt: skip
    dq_at = dq_ptr + row_at[:, None] * HEAD_DIM + columns[None, :]
    keep = (queries < q_len)[:, None] & (columns < HEAD_DIM)[None, :]
    tl.store(dq_at, (dq * scale).to(dq_ptr.dtype.element_ty), mask=keep)


@triton.jit
def _grad_kv_run(
    dk, dv, k, v, q_at, grad_at, lse_ptr, delta_ptr, index_ptr, bits_index_ptr, bits_ptr, aux_ptr, count,
    first, gap_at, gap, batch, head, keys, bit_cols, stride_qm, stride_gm, q_len, kv_len, shift, left, right,
    scale_log2, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr, SPARSE_Q: tl.constexpr, SPARSE_KV: tl.constexpr,
    LISTS: tl.constexpr, MASKED: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr,
    BITS: tl.constexpr, MASK: tl.constexpr, MASK_ARGS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what ``count`` Q blocks of one head give to the gradients of one KV tile; scores are [key, query]
    here.
    """
    rows = tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    columns_v = tl.arange(0, BLOCK_DV)
    PER_BLOCK: tl.constexpr = SPARSE_Q // BLOCK_M
    if LISTS:
        following = tl.load(index_ptr, mask=count > 0, other=0)
    for step in tl.range(0, count * PER_BLOCK):
        if LISTS:
            block = following * PER_BLOCK + step % PER_BLOCK
            following = tl.load(index_ptr + tl.minimum(step + 1, count * PER_BLOCK - 1) // PER_BLOCK)
        else:
            block = first + step
            if MASKED:
                block += tl.where(step >= gap_at, gap, 0)
        start = block * BLOCK_M
        queries = start + rows
        # Rows past the last query read as zeros: q, dO, delta and lse 0 add nothing to either gradient.
        q = load_rows(q_at, start, stride_qm, rows, columns, q_len, True, HEAD_DIM, BLOCK_D)
        grad = load_rows(grad_at, start, stride_gm, rows, columns_v, q_len, True, V_HEAD_DIM, BLOCK_DV)
        lse = tl.load(lse_ptr + queries, mask=queries < q_len, other=0.0) * 1.4426950408889634
        lse = tl.where(lse == float("-inf"), float("inf"), lse)
        delta = tl.load(delta_ptr + queries, mask=queries < q_len, other=0.0)
        weights = tl.exp2(mma(k, tl.trans(q), None, PRECISION) * scale_log2 - lse[None, :])
        if MASKED:
            bits_at = bits_ptr
            if BITS:
                bits_at += tl.load(bits_index_ptr + step // PER_BLOCK).to(tl.int64) * (SPARSE_Q * SPARSE_KV // 32)
            keep = partial_mask(
                batch, head, queries[None, :], keys[:, None], kv_len, shift, left, right, bits_at,
                (step % PER_BLOCK * BLOCK_M + rows)[None, :], bit_cols[:, None], aux_ptr,
                HAS_LEFT, HAS_RIGHT, BITS, SPARSE_KV, MASK, MASK_ARGS,
            )  # fmt: skip
            weights = tl.where(keep, weights, 0.0)
        dv = mma(weights.to(grad.dtype), grad, dv, PRECISION)
        grad_scores = weights * (mma(v, tl.trans(grad), None, PRECISION) - delta[None, :])
        dk = mma(grad_scores.to(q.dtype), q, dk, PRECISION)
    return dk, dv


@triton.jit
def attention_grad_kv_kernel(
    q_ptr, k_ptr, v_ptr, grad_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, full_count_ptr, full_index_ptr,
    part_count_ptr, part_index_ptr, part_bits_ptr, bits_ptr, order_ptr, aux_ptr, stride_qb, stride_qh,
    stride_qm, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn, stride_gb, stride_gh,
    stride_gm, stride_lb, stride_lh, full_width, part_width, kv_heads, q_len, kv_len, shift, left, right,
    scale, scale_log2, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SPARSE_Q: tl.constexpr, SPARSE_KV: tl.constexpr, LISTS: tl.constexpr, HAS_FULL: tl.constexpr,
    HAS_PARTIAL: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, BITS: tl.constexpr,
    MASK: tl.constexpr, MASK_ARGS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of one KV tile of one KV head, summed over its GROUP query heads; lists are ``by_key``.

    ``dk`` and ``dv`` are contiguous; the grid is (KV tiles, batch x KV heads).
    """
    PER_SPARSE: tl.constexpr = SPARSE_KV // BLOCK_N
    slot = tl.program_id(0)
    batch_head = tl.program_id(1)
    kv_head = batch_head % kv_heads
    lists = (batch_head // kv_heads) * stride_lb + kv_head * GROUP * stride_lh
    tile = slot
    if order_ptr is not None:
        tile = tl.load(order_ptr + lists + slot // PER_SPARSE) * PER_SPARSE + slot % PER_SPARSE
    batch = (batch_head // kv_heads).to(tl.int64)
    k_start = tile * BLOCK_N
    rows = tl.arange(0, BLOCK_N)
    q_rows = tl.arange(0, BLOCK_M)
    keys = k_start + rows
    columns = tl.arange(0, BLOCK_D)
    columns_v = tl.arange(0, BLOCK_DV)
    k_at = k_ptr + batch * stride_kb + kv_head.to(tl.int64) * stride_kh + rows[:, None] * stride_kn + columns[None, :]
    v_at = v_ptr + batch * stride_vb + kv_head.to(tl.int64) * stride_vh + rows[:, None] * stride_vn + columns_v[None, :]
    k = load_rows(k_at, k_start, stride_kn, rows, columns, kv_len, True, HEAD_DIM, BLOCK_D)
    v = load_rows(v_at, k_start, stride_vn, rows, columns_v, kv_len, True, V_HEAD_DIM, BLOCK_DV)
    bit_cols = k_start % SPARSE_KV + rows
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
    for member in range(GROUP):
        head = kv_head * GROUP + member
        head_rows = (batch * kv_heads * GROUP + head) * q_len
        q_at = q_ptr + batch * stride_qb + head.to(tl.int64) * stride_qh
        q_at += q_rows[:, None] * stride_qm + columns[None, :]
        grad_at = grad_ptr + batch * stride_gb + head.to(tl.int64) * stride_gh
        grad_at += q_rows[:, None] * stride_gm + columns_v[None, :]
        full_at = full_index_ptr
        part_at = part_index_ptr
        part_bits_at = part_bits_ptr
        full_first = 0
        part_first = 0
        gap_at = 0
        gap = 0
        if LISTS:
            row = lists + member * stride_lh + tile // PER_SPARSE
            if HAS_FULL:
                full_count = tl.load(full_count_ptr + row)
                full_at += row.to(tl.int64) * full_width
            if HAS_PARTIAL:
                part_count = tl.load(part_count_ptr + row)
                part_at += row.to(tl.int64) * part_width
                if BITS:
                    part_bits_at += row.to(tl.int64) * part_width
        else:
            # Seen from the keys the band has its sides swapped and its shift negated.
            k_last = tl.minimum(k_start + BLOCK_N, kv_len) - 1
            part_first, high, full_first, full_high = band_blocks(
                k_start, k_last, q_len, -shift, right, left, HAS_RIGHT, HAS_LEFT, BLOCK_M
            )
            full_count = full_high - full_first
            gap_at = full_first - part_first
            gap = full_count
            part_count = high - part_first - full_count
        if HAS_FULL:
            dk, dv = _grad_kv_run(
                dk, dv, k, v, q_at, grad_at, lse_ptr + head_rows, delta_ptr + head_rows, full_at, None, None,
                None, full_count, full_first, 0, 0, batch, head, keys, bit_cols, stride_qm, stride_gm, q_len,
                kv_len, shift, left, right, scale_log2, HEAD_DIM, V_HEAD_DIM, BLOCK_D, BLOCK_DV, BLOCK_M,
                SPARSE_Q, SPARSE_KV, LISTS, False, False, False, False, None, None, PRECISION,
            )  # fmt: skip
        if HAS_PARTIAL:
            dk, dv = _grad_kv_run(
                dk, dv, k, v, q_at, grad_at, lse_ptr + head_rows, delta_ptr + head_rows, part_at,
                part_bits_at, bits_ptr, aux_ptr, part_count, part_first, gap_at, gap, batch, head, keys,
                bit_cols, stride_qm, stride_gm, q_len, kv_len, shift, left, right, scale_log2, HEAD_DIM,
                V_HEAD_DIM, BLOCK_D, BLOCK_DV, BLOCK_M, SPARSE_Q, SPARSE_KV, LISTS, True, HAS_LEFT, HAS_RIGHT,
                BITS, MASK, MASK_ARGS, PRECISION,
            )  # fmt: skip
    row_at = (batch_head.to(tl.int64) * kv_len + keys)[:, None]
    inside = (keys < kv_len)[:, None]
    dk_at = dk_ptr + row_at * HEAD_DIM + columns[None, :]
    tl.store(dk_at, (dk * scale).to(dk_ptr.dtype.element_ty), mask=inside & (columns < HEAD_DIM)[None, :])
    dv_at = dv_ptr + row_at * V_HEAD_DIM + columns_v[None, :]
    tl.store(dv_at, dv.to(dv_ptr.dtype.element_ty), mask=inside & (columns_v < V_HEAD_DIM)[None, :])
