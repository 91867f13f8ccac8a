"""``linear_attention``: chunked, causal with optional decay, or not causal.

out_t = scale * sum_s exp(-decay (t - s)) (q_t . k_s) v_s. Inside a chunk the sum is two small matrix products
with a decay mask; what lies before it is a state, S = sum_s exp(-decay (t - s)) k_s^T v_s, of dim x v_dim in
float32 (the scheme of Lightning Attention-2). One pass over all chunks of a head would leave most of a GPU
idle when there are few heads, so tokens are cut into segments: one kernel makes every segment's own state, a
scan over the few segments gives the state each starts from, and the output kernel runs all segments at once.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from .arguments import FLOATS, check_qkv, check_tensor, fault, need_device
from .attention_launch import on_device, strides
from .attention_spec import padded
from .tiles import load_rows, mma

CHUNK = 64


@triton.jit
def linear_state_kernel(
    k_ptr, v_ptr, state_ptr, decay_ptr, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    heads, kv_len, segments, segment_chunks,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The state of one segment alone: [batch, head, segment, HEAD_DIM, V_HEAD_DIM], float32, contiguous.

    The grid is (segments, batch x heads, V_HEAD_DIM / BLOCK_DV). Decay is right for whole segments, which are
    all but the last; causally nobody reads the last one.
    """
    segment = tl.program_id(0)
    batch_head = tl.program_id(1)
    head = batch_head % heads
    batch = (batch_head // heads).to(tl.int64)
    kv_head = (head // GROUP).to(tl.int64)
    rows = tl.arange(0, CHUNK)
    columns = tl.arange(0, BLOCK_D)
    columns_v = tl.program_id(2) * BLOCK_DV + tl.arange(0, BLOCK_DV)
    k_at = k_ptr + batch * stride_kb + kv_head * stride_kh + rows[:, None] * stride_kn + columns[None, :]
    v_at = v_ptr + batch * stride_vb + kv_head * stride_vh + rows[:, None] * stride_vn + columns_v[None, :]
    state = tl.zeros([BLOCK_D, BLOCK_DV], tl.float32)
    if decay_ptr is not None:
        # Per token, in log2.
        fade = tl.load(decay_ptr + head) * 1.4426950408889634
        key_fade = tl.exp2(-fade * (CHUNK - 1 - rows))
        chunk_fade = tl.exp2(-fade * CHUNK)
    last = tl.minimum((segment + 1) * segment_chunks, tl.cdiv(kv_len, CHUNK))
    for chunk in tl.range(segment * segment_chunks, last):
        start = chunk * CHUNK
        k = load_rows(k_at, start, stride_kn, rows, columns, kv_len, True, HEAD_DIM, BLOCK_D)
        v = load_rows(v_at, start, stride_vn, rows, columns_v, kv_len, True, V_HEAD_DIM, -1)
        if decay_ptr is not None:
            k = (k * key_fade[:, None]).to(v.dtype)
            state = state * chunk_fade
        state = mma(tl.trans(k), v, state, PRECISION)
    at = (batch_head * segments + segment).to(tl.int64) * (HEAD_DIM * V_HEAD_DIM)
    keep = (columns < HEAD_DIM)[:, None] & (columns_v < V_HEAD_DIM)[None, :]
    tl.store(state_ptr + at + columns[:, None] * V_HEAD_DIM + columns_v[None, :], state, mask=keep)


@triton.jit
def linear_output_kernel(
    q_ptr, k_ptr, v_ptr, state_ptr, decay_ptr, out_ptr, stride_qb, stride_qh, stride_qm, stride_kb, stride_kh,
    stride_kn, stride_vb, stride_vh, stride_vn, stride_sb, stride_ss, heads, q_len, segments, segment_chunks,
    scale, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, V_HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, CHUNK: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The output of one segment, which starts from ``state`` (None: zeros). The grid is that of the state
    kernel.
    """
    segment = tl.program_id(0)
    batch_head = tl.program_id(1)
    head = batch_head % heads
    batch = (batch_head // heads).to(tl.int64)
    kv_head = (head // GROUP).to(tl.int64)
    rows = tl.arange(0, CHUNK)
    columns = tl.arange(0, BLOCK_D)
    columns_v = tl.program_id(2) * BLOCK_DV + tl.arange(0, BLOCK_DV)
    q_at = q_ptr + batch * stride_qb + head.to(tl.int64) * stride_qh + rows[:, None] * stride_qm + columns[None, :]
    k_at = k_ptr + batch * stride_kb + kv_head * stride_kh + rows[:, None] * stride_kn + columns[None, :]
    v_at = v_ptr + batch * stride_vb + kv_head * stride_vh + rows[:, None] * stride_vn + columns_v[None, :]
    state = tl.zeros([BLOCK_D, BLOCK_DV], tl.float32)
    if state_ptr is not None:
        at = state_ptr + batch_head.to(tl.int64) * stride_sb + segment.to(tl.int64) * stride_ss
        keep = (columns < HEAD_DIM)[:, None] & (columns_v < V_HEAD_DIM)[None, :]
        state = tl.load(at + columns[:, None] * V_HEAD_DIM + columns_v[None, :], mask=keep, other=0.0)
    if decay_ptr is not None:
        fade = tl.load(decay_ptr + head) * 1.4426950408889634
        query_fade = tl.exp2(-fade * (rows + 1))
        key_fade = tl.exp2(-fade * (CHUNK - 1 - rows))
        chunk_fade = tl.exp2(-fade * CHUNK)
    last = tl.minimum((segment + 1) * segment_chunks, tl.cdiv(q_len, CHUNK))
    for chunk in tl.range(segment * segment_chunks, last):
        start = chunk * CHUNK
        q = load_rows(q_at, start, stride_qm, rows, columns, q_len, True, HEAD_DIM, BLOCK_D)
        # The state stays float32 (tf32 in the product): rounding it to 16 bits would cost the sum its
        # accuracy.
        out = mma(q.to(tl.float32), state, None, PRECISION)
        if decay_ptr is not None:
            out = out * query_fade[:, None]
        if CAUSAL:
            k = load_rows(k_at, start, stride_kn, rows, columns, q_len, True, HEAD_DIM, BLOCK_D)
            v = load_rows(v_at, start, stride_vn, rows, columns_v, q_len, True, V_HEAD_DIM, -1)
            scores = mma(q, tl.trans(k), None, PRECISION)
            distance = rows[:, None] - rows[None, :]
            if decay_ptr is not None:
                # The exponent is clamped before the mask: exp2 of a large positive number would be inf, inf *
                # 0 NaN.
                scores = scores * tl.exp2(-fade * tl.maximum(distance, 0))
            scores = tl.where(distance >= 0, scores, 0.0)
            out = mma(scores.to(v.dtype), v, out, PRECISION)
            if decay_ptr is not None:
                k = (k * key_fade[:, None]).to(v.dtype)
                state = state * chunk_fade
            state = mma(tl.trans(k), v, state, PRECISION)
        out_at = ((batch_head.to(tl.int64) * q_len + start) + rows)[:, None] * V_HEAD_DIM + columns_v[None, :]
        inside = (start + rows < q_len)[:, None] & (columns_v < V_HEAD_DIM)[None, :]
        tl.store(out_ptr + out_at, (out * scale).to(out_ptr.dtype.element_ty), mask=inside)


def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = True,
    decay: torch.Tensor | None = None,
    scale: float = 1.0,
    segments: int | None = None,
) -> torch.Tensor:
    """Attention without softmax: out_t = scale * sum_s exp(-decay_h (t - s)) (q_t . k_s) v_s.

    ``q`` [batch, heads, queries, dim], ``k`` [batch, kv_heads, keys, dim], ``v`` [batch, kv_heads, keys,
    v_dim]; fp16, bf16 or fp32, unit stride along dim, dims multiples of 8 up to 256. Apply feature maps to q
    and k first; a column of ones in v gives the normaliser. ``causal`` sums over s <= t and needs as many
    keys as queries; otherwise over all keys. ``decay`` (float32 [heads], per token, 0 or more) needs
    ``causal``. ``segments`` cut the tokens for parallel work: default, enough to fill the GPU.

    Returns out [batch, heads, queries, v_dim] like q. Raises ValueError naming a bad argument, RuntimeError
    off a GPU unless interpreted.
    """
    check_qkv(q, k, v, dtypes=FLOATS)
    if causal and q.shape[2] != k.shape[2]:
        raise fault("k", f"{q.shape[2]} keys, as many as queries, when causal", k.shape[2])
    if decay is not None:
        if not causal:
            raise fault("decay", "None unless causal", "a decay with causal=False")
        check_tensor("decay", decay, "heads", dtypes=(torch.float32,), sizes={"heads": q.shape[1]})
        if decay.device != q.device:
            raise fault("decay", f"a tensor on {q.device}", decay.device)
    if segments is not None and segments < 1:
        raise fault("segments", "1 or more", segments)
    if not math.isfinite(scale):
        raise fault("scale", "a finite number", scale)
    need_device("q", q, linear_output_kernel)

    batch, heads, q_len, dim = q.shape
    kv_len, v_dim = v.shape[2:]
    block_d = padded(dim)
    block_dv = min(padded(v_dim), 64 if block_d <= 128 else 32)
    v_tiles = triton.cdiv(v_dim, block_dv)
    shape = (batch * heads, v_tiles)
    common = {
        "GROUP": heads // k.shape[1], "HEAD_DIM": dim, "V_HEAD_DIM": v_dim, "BLOCK_D": block_d,
        "BLOCK_DV": block_dv, "CHUNK": CHUNK, "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "num_warps": 4, "num_stages": 2 if block_d <= 128 else 1,
    }  # fmt: skip
    out = torch.empty((batch, heads, q_len, v_dim), dtype=q.dtype, device=q.device)
    steps = (*strides(k), *strides(v))
    state: torch.Tensor | None = None
    state_steps = (0, 0)
    chunks = triton.cdiv(kv_len, CHUNK)
    count, per_segment = _segments(segments, batch * heads * v_tiles, chunks, q)
    with on_device(q):
        if count > 1 or not causal:
            own = torch.empty((batch * heads, count, dim, v_dim), dtype=torch.float32, device=q.device)
            linear_state_kernel[(count, *shape)](k, v, own, decay, *steps, heads, kv_len, count, per_segment, **common)
            state = _scan(own, decay, batch, per_segment * CHUNK) if causal else own.sum(1, keepdim=True)
            state_steps = (state.stride(0), state.stride(1) if causal else 0)
        if not causal:
            count, per_segment = triton.cdiv(q_len, CHUNK), 1
        linear_output_kernel[(count, *shape)](
            q, k, v, state, decay, out, *strides(q), *steps, *state_steps, heads, q_len, count, per_segment,
            scale, CAUSAL=causal, **common,
        )  # fmt: skip
    return out


def _scan(own: torch.Tensor, decay: torch.Tensor | None, batch: int, tokens: int) -> torch.Tensor:
    """Return the state every segment starts from; each holds ``tokens`` tokens."""
    before = torch.zeros_like(own)
    fade = (
        torch.ones((), device=own.device) if decay is None else torch.exp(-decay * tokens).repeat(batch)[:, None, None]
    )
    for segment in range(1, own.shape[1]):
        before[:, segment] = before[:, segment - 1] * fade + own[:, segment - 1]
    return before


def _segments(asked: int | None, programs: int, chunks: int, q: torch.Tensor) -> tuple[int, int]:
    """Return (segments, chunks per segment): two programs per SM, eight chunks or more each, as asked
    otherwise.
    """
    if asked is None:
        processors = torch.cuda.get_device_properties(q.device).multi_processor_count if q.is_cuda else 1
        asked = min(max(1, 2 * processors // programs), max(1, chunks // 8))
    per_segment = triton.cdiv(chunks, min(asked, chunks))
    return triton.cdiv(chunks, per_segment), per_segment
