"""Pieces that several kernels share: bands cut into blocks, rows of a matrix, and the matrix product."""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

# Triton's interpreter multiplies bf16 operands as the integers that hold their bits, so there they become
# fp32 first, which is exact. A compiled kernel never sees that branch.
INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))


@triton.jit
def mma(a, b, acc, PRECISION: tl.constexpr):
    """Return a @ b (+ acc) with float32 accumulation."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def band_blocks(
    first, last, other_len, shift, left, right,
    HAS_LEFT: tl.constexpr, HAS_RIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return blocks [low, high) that rows [first, last] touch, and [full_low, full_high) wholly inside the
    band.
    """
    low_key = 0
    full_low_key = 0
    high_key = other_len
    full_high_key = other_len
    if HAS_LEFT:
        low_key = tl.maximum(first + shift - left, 0)
        full_low_key = tl.maximum(last + shift - left, 0)
    if HAS_RIGHT:
        high_key = tl.minimum(tl.maximum(last + shift + right + 1, 0), other_len)
        full_high_key = tl.minimum(tl.maximum(first + shift + right + 1, 0), other_len)
    low = low_key // BLOCK
    high = tl.maximum((high_key + BLOCK - 1) // BLOCK, low)
    # Blocks past the other end exist only when a window lies wholly beyond it: then nothing is visited.
    high = tl.where(high_key > low_key, high, low)
    full_low = tl.minimum((full_low_key + BLOCK - 1) // BLOCK, high)
    full_low = tl.maximum(full_low, low)
    full_high = tl.minimum(tl.maximum(full_high_key // BLOCK, full_low), high)
    return low, high, full_low, full_high


@triton.jit
def load_rows(
    pointers, start, stride, rows, columns, length,
    CHECK: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """Load rows start..start+BLOCK of a matrix; rows past ``length`` (with CHECK) and padding are zero."""
    # Only the scalar part needs 64 bits: a tile spans less than 2**31 elements, a tensor may not.
    at = pointers + start.to(tl.int64) * stride
    if CHECK:
        keep = (start + rows < length)[:, None]
        if DIM != BLOCK_DIM:
            keep = keep & (columns < DIM)[None, :]
        return tl.load(at, mask=keep, other=0.0)
    else:
        if DIM != BLOCK_DIM:
            return tl.load(at, mask=(columns < DIM)[None, :], other=0.0)
        else:
            return tl.load(at)
