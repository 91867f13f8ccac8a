"""The forward attention kernel, ``attention_forward_kernel``: one kernel for every pattern.

A program computes one Q tile of one head. The KV blocks it visits come in two runs: *full* blocks, where
every pair counts and no mask is evaluated, and *partial* blocks, where one is. Where the runs come from is a
constexpr:

- ``LISTS=False``: a band ``row + shift - left <= key <= row + shift + right`` (dense, causal and windows).
  The bounds of both runs are computed here, so nothing is materialised.
- ``LISTS=True``: per Q tile a count and a row of block numbers, for full and for partial blocks apart, as
  FlexAttention's BlockMask has them. Their blocks (``SPARSE_Q`` x ``SPARSE_KV`` tokens) may be multiples of
  the tile.

The mask of a partial block is the conjunction of what is switched on: the end of the keys (always), the band
(``HAS_LEFT``, ``HAS_RIGHT``), a Triton function (``MASK``, see masks.py) and packed bits (``BITS``).

Arguments, in order (pointers that a configuration does not use are None, that is constexpr)::

    q, k, v, out        [batch, head, token, dim]; unit stride along dim, any other strides
    lse                 float32 [batch, head, token], contiguous, natural logarithm; or None
    full_count, full_index, part_count, part_index   int32 block lists; None without LISTS
    part_bits           int32, beside part_index: which packed mask; None without BITS
    bits                int32 [mask, SPARSE_Q, SPARSE_KV / 32]; None without BITS
    order               int32, beside full_count: Q tiles, most work first; None for none
    aux                 any tensor that MASK reads; or None
    stride_{q,k,v,o}{b,h,m|n}   element strides
    stride_lb, stride_lh        of the counts over batch and head (0 to share a list)
    full_width, part_width      columns of full_index and part_index
    batch_heads, heads, q_len, kv_len, shift, left, right      int32
    scale_log2          float32: softmax scale x log2(e), positive
    GROUP               query heads per KV head
    HEAD_DIM, V_HEAD_DIM, BLOCK_D, BLOCK_DV    dims, and dims padded to a power of two (at least 16)
    BLOCK_M, BLOCK_N, SPARSE_Q, SPARSE_KV, HEAD_GROUP      tiles; heads whose tiles are dealt out together
    LISTS, HAS_FULL, HAS_PARTIAL, HAS_LEFT, HAS_RIGHT, BITS, USE_TMA, WARP_SPECIALIZE    flags
    MASK, MASK_ARGS     mask function or None, and the tuple of ints it is given
    PRECISION           of tl.dot on float32 operands ("ieee" or "tf32")

The grid is one-dimensional: Q tiles (rounded up to whole SPARSE_Q blocks) x batch x heads.
attention_launch.py holds the function that users call and ``forward_spec``, which gives the signature for
compilation ahead of time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiles import band_blocks, load_rows, mma


@triton.jit
def partial_mask(
    batch, head, query, key, kv_len, shift, left, right, bits_at, bit_row, bit_col, aux_ptr,
    HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, BITS: tl.constexpr, SPARSE_KV: tl.constexpr,
    MASK: tl.constexpr, MASK_ARGS: tl.constexpr,
):  # fmt: skip
    """Return which pairs of ``query`` and ``key`` count; the two broadcast against each other."""
    keep = key < kv_len
    if HAS_LEFT:
        keep = keep & (key >= query + (shift - left))
    if HAS_RIGHT:
        keep = keep & (key <= query + (shift + right))
    if MASK is not None:
        keep = keep & MASK(batch, head, query, key, aux_ptr, MASK_ARGS)
    if BITS:
        words = tl.load(bits_at + bit_row * (SPARSE_KV // 32) + bit_col // 32)
        keep = keep & (((words >> (bit_col % 32)) & 1) != 0)
    return keep


@triton.jit
def _attend(
    acc, total, top, q, k_src, v_src, index_ptr, bits_index_ptr, bits_ptr, aux_ptr, count, first, gap_at, gap,
    batch, head, queries, bit_rows, stride_kn, stride_vn, kv_len, shift, left, right, scale_log2,
    HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr, SPARSE_Q: tl.constexpr, SPARSE_KV: tl.constexpr, LISTS: tl.constexpr,
    MASKED: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, BITS: tl.constexpr,
    USE_TMA: tl.constexpr, WARP_SPECIALIZE: tl.constexpr, MASK: tl.constexpr, MASK_ARGS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Run the online softmax over ``count`` blocks; scores are kept in units of log2."""
    rows = tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_D)
    columns_v = tl.arange(0, BLOCK_DV)
    PER_BLOCK: tl.constexpr = SPARSE_KV // BLOCK_N
    if LISTS:
        following = tl.load(index_ptr, mask=count > 0, other=0)
    for step in tl.range(0, count * PER_BLOCK, warp_specialize=WARP_SPECIALIZE):
        if LISTS:
            # The block number is loaded one step ahead, so its latency hides behind a whole tile of work.
            block = following * PER_BLOCK + step % PER_BLOCK
            following = tl.load(index_ptr + tl.minimum(step + 1, count * PER_BLOCK - 1) // PER_BLOCK)
        else:
            block = first + step
            if MASKED:
                block += tl.where(step >= gap_at, gap, 0)
        start = block * BLOCK_N
        if USE_TMA:
            k = k_src.load([start, 0])
        else:
            k = load_rows(k_src, start, stride_kn, rows, columns, kv_len, MASKED, HEAD_DIM, BLOCK_D)
        scores = mma(q, tl.trans(k), None, PRECISION)
        if MASKED:
            bits_at = bits_ptr
            if BITS:
                bits_at += tl.load(bits_index_ptr + step // PER_BLOCK).to(tl.int64) * (SPARSE_Q * SPARSE_KV // 32)
            keep = partial_mask(
                batch, head, queries[:, None], (start + rows)[None, :], kv_len, shift, left, right, bits_at,
                bit_rows[:, None], (step % PER_BLOCK * BLOCK_N + rows)[None, :], aux_ptr,
                HAS_LEFT, HAS_RIGHT, BITS, SPARSE_KV, MASK, MASK_ARGS,
            )  # fmt: skip
            scores = tl.where(keep, scores, float("-inf"))
        top_new = tl.maximum(top, tl.max(scores, 1) * scale_log2)
        # Until a row has seen a key its maximum is -inf; a finite stand-in keeps inf - inf out of the
        # exponents. A full block gives every row a key, so only masked blocks pay for this.
        anchor = top_new
        if MASKED:
            anchor = tl.where(top_new == float("-inf"), 0.0, top_new)
        weights = tl.exp2(scores * scale_log2 - anchor[:, None])
        rescale = tl.exp2(top - anchor)
        total = total * rescale + tl.sum(weights, 1)
        acc = acc * rescale[:, None]
        if USE_TMA:
            v = v_src.load([start, 0])
        else:
            v = load_rows(v_src, start, stride_vn, rows, columns_v, kv_len, MASKED, V_HEAD_DIM, BLOCK_DV)
        acc = mma(weights.to(v.dtype), v, acc, PRECISION)
        top = top_new
    return acc, total, top


@triton.jit
def attention_forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, full_count_ptr, full_index_ptr, part_count_ptr, part_index_ptr,
    part_bits_ptr, bits_ptr, order_ptr, aux_ptr, stride_qb, stride_qh, stride_qm, stride_kb, stride_kh,
    stride_kn, stride_vb, stride_vh, stride_vn, stride_ob, stride_oh, stride_om, stride_lb, stride_lh,
    full_width, part_width, batch_heads, heads, q_len, kv_len, shift, left, right, scale_log2,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPARSE_Q: tl.constexpr,
    SPARSE_KV: tl.constexpr, HEAD_GROUP: tl.constexpr, LISTS: tl.constexpr, HAS_FULL: tl.constexpr,
    HAS_PARTIAL: tl.constexpr, HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, BITS: tl.constexpr,
    USE_TMA: tl.constexpr, WARP_SPECIALIZE: tl.constexpr, MASK: tl.constexpr, MASK_ARGS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of one Q tile of one head; the module's docstring explains every argument."""
    # Deal out the tiles of HEAD_GROUP heads at a time, those with most work first: the tail of the launch is
    # then made of short programs, and the heads that share the L2 at any moment stay few.
    PER_SPARSE: tl.constexpr = SPARSE_Q // BLOCK_M
    tiles = tl.cdiv(q_len, SPARSE_Q) * PER_SPARSE
    program = tl.program_id(0)
    group = program // (tiles * HEAD_GROUP)
    in_group = tl.minimum(batch_heads - group * HEAD_GROUP, HEAD_GROUP)
    within = program - group * tiles * HEAD_GROUP
    slot = within // in_group
    batch_head = group * HEAD_GROUP + within % in_group
    batch = batch_head // heads
    head = batch_head % heads

    lists = batch * stride_lb + head * stride_lh
    if order_ptr is not None:
        sparse_row = tl.load(order_ptr + lists + slot // PER_SPARSE)
        tile = sparse_row * PER_SPARSE + slot % PER_SPARSE
    elif HAS_RIGHT:
        tile = tiles - 1 - slot
    else:
        tile = slot

    kv_head = (head // GROUP).to(tl.int64)
    batch = batch.to(tl.int64)
    q_start = tile * BLOCK_M
    rows = tl.arange(0, BLOCK_M)
    queries = q_start + rows
    columns = tl.arange(0, BLOCK_D)
    columns_v = tl.arange(0, BLOCK_DV)
    q_at = q_ptr + batch * stride_qb + head.to(tl.int64) * stride_qh
    q_at += rows[:, None] * stride_qm + columns[None, :]
    q = load_rows(q_at, q_start, stride_qm, rows, columns, q_len, True, HEAD_DIM, BLOCK_D)
    k_base = k_ptr + batch * stride_kb + kv_head * stride_kh
    v_base = v_ptr + batch * stride_vb + kv_head * stride_vh
    if USE_TMA:
        k_src = tl.make_tensor_descriptor(k_base, [kv_len, HEAD_DIM], [stride_kn, 1], [BLOCK_N, BLOCK_D])
        v_src = tl.make_tensor_descriptor(v_base, [kv_len, V_HEAD_DIM], [stride_vn, 1], [BLOCK_N, BLOCK_DV])
    else:
        kv_rows = tl.arange(0, BLOCK_N)
        k_src = k_base + kv_rows[:, None] * stride_kn + columns[None, :]
        v_src = v_base + kv_rows[:, None] * stride_vn + columns_v[None, :]

    bit_rows = q_start % SPARSE_Q + rows
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

    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    if HAS_FULL:
        acc, total, top = _attend(
            acc, total, top, q, k_src, v_src, full_at, None, None, None, full_count, full_first, 0, 0,
            batch, head, queries, bit_rows, stride_kn, stride_vn, kv_len, shift, left, right, scale_log2,
            HEAD_DIM, V_HEAD_DIM, BLOCK_D, BLOCK_DV, BLOCK_N, SPARSE_Q, SPARSE_KV, LISTS,
            False, False, False, False, USE_TMA, WARP_SPECIALIZE, None, None, PRECISION,
        )  # fmt: skip
    if HAS_PARTIAL:
        acc, total, top = _attend(
            acc, total, top, q, k_src, v_src, part_at, part_bits_at, bits_ptr, aux_ptr, part_count,
            part_first, gap_at, gap, batch, head, queries, bit_rows, stride_kn, stride_vn, kv_len, shift,
            left, right, scale_log2, HEAD_DIM, V_HEAD_DIM, BLOCK_D, BLOCK_DV, BLOCK_N, SPARSE_Q, SPARSE_KV,
            LISTS, True, HAS_LEFT, HAS_RIGHT, BITS, USE_TMA, WARP_SPECIALIZE, MASK, MASK_ARGS, PRECISION,
        )  # fmt: skip

    # A row without a key has total 0, acc 0 and top -inf: with a total of 1 instead its output is 0, its lse
    # -inf.
    total = tl.where(total == 0.0, 1.0, total)
    acc = acc / total[:, None]
    inside = queries < q_len
    keep = inside[:, None]
    if V_HEAD_DIM != BLOCK_DV:
        keep = keep & (columns_v < V_HEAD_DIM)[None, :]
    out_at = out_ptr + batch * stride_ob + head.to(tl.int64) * stride_oh + q_start.to(tl.int64) * stride_om
    out_at += rows[:, None] * stride_om + columns_v[None, :]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=keep)
    if lse_ptr is not None:
        # 0.6931... is ln 2: inside, logarithms are binary; the caller's are natural.
        lse = (top + tl.log2(total)) * 0.6931471805599453
        tl.store(lse_ptr + batch_head.to(tl.int64) * q_len + queries, lse, mask=inside)
