"""Masks of partial blocks: Triton functions, given to the kernels as constexprs.

A mask is a ``@triton.jit`` function ``mask(batch, head, query, key, aux_ptr, ARGS: tl.constexpr)``. ``query``
and ``key`` are int32 positions (in the order the tokens lie in memory), shaped [M, 1] and [1, N] forward and
[1, M] and [N, 1] for the gradients of keys and values: let them broadcast. Positions past the ends occur;
what a mask says there is ignored. ``aux_ptr`` points at the ``aux`` tensor given to the call (None without
one); ``ARGS`` is a tuple of Python ints. The function returns a bool block, true where the pair counts. Users
may write their own.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def causal_mask(batch, head, query, key, aux_ptr, ARGS: tl.constexpr):
    """A key counts up to the query's own position."""
    return key <= query


@triton.jit
def document_mask(batch, head, query, key, aux_ptr, ARGS: tl.constexpr):
    """Query and key belong to the same document: aux holds an int32 document number per token, ARGS =
    (tokens,).
    """
    LENGTH: tl.constexpr = ARGS[0]
    of_query = tl.load(aux_ptr + query, mask=query < LENGTH, other=-1)
    of_key = tl.load(aux_ptr + key, mask=key < LENGTH, other=-2)
    return of_query == of_key


@triton.jit
def axis_position(
    token, STEPS_GROUP: tl.constexpr, GROUPS: tl.constexpr, STEPS_TILE: tl.constexpr, TILES: tl.constexpr,
    STEPS_INNER: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Split a permuted token number along one axis: (dilation group, index inside the group)."""
    group = token // STEPS_GROUP % GROUPS
    tile = token // STEPS_TILE % TILES
    inner = token // STEPS_INNER % TILE
    return group, tile * TILE + inner


@triton.jit
def axis_mask(
    q_group, q, k_group, k, LENGTH: tl.constexpr, WINDOW: tl.constexpr, STRIDE: tl.constexpr,
    DILATION: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Neighborhood attention along one axis, within dilation groups: facts/gna.md has the definition."""
    # Group g holds the tokens i with i % DILATION == g: floor(LENGTH / DILATION) of them, one more for the
    # first few.
    q_size = LENGTH // DILATION + (q_group < LENGTH % DILATION).to(tl.int32)
    k_size = LENGTH // DILATION + (k_group < LENGTH % DILATION).to(tl.int32)
    if CAUSAL:
        leader = tl.minimum(q // STRIDE * STRIDE + (STRIDE - 1), q_size - 1)
        low = tl.maximum(leader - (WINDOW - 1), 0)
        high = tl.minimum(q + 1, q_size)
    else:
        leader = tl.minimum(q // STRIDE * STRIDE + STRIDE // 2, q_size - 1)
        low = tl.minimum(tl.maximum(leader - WINDOW // 2, 0), q_size - WINDOW)
        high = low + WINDOW
    # Keys of the padding get -1, which no window holds: one comparison less on the [M, N] block.
    k = tl.where(k < k_size, k, -1)
    keep = (k >= low) & (k < high)
    if DILATION > 1:
        keep = keep & (q_group == k_group)
    return keep


@triton.jit
def neighborhood_mask(batch, head, query, key, aux_ptr, ARGS: tl.constexpr):
    """Neighborhood attention in up to three dimensions on tokens permuted into tiles.

    ARGS is ``layout.neighborhood_args``: for each of three axes (length, window, stride, dilation, causal),
    then for queries and for keys per axis (group step, tile step, tiles, inner step, tile). An axis of length
    1 costs nothing.
    """
    keep = key >= 0
    for axis in tl.static_range(3):
        if ARGS[5 * axis] > 1:
            q_group, q = axis_position(
                query, ARGS[15 + 5 * axis], ARGS[5 * axis + 3], ARGS[16 + 5 * axis], ARGS[17 + 5 * axis],
                ARGS[18 + 5 * axis], ARGS[19 + 5 * axis],
            )  # fmt: skip
            k_group, k = axis_position(
                key, ARGS[30 + 5 * axis], ARGS[5 * axis + 3], ARGS[31 + 5 * axis], ARGS[32 + 5 * axis],
                ARGS[33 + 5 * axis], ARGS[34 + 5 * axis],
            )  # fmt: skip
            keep = keep & axis_mask(
                q_group, q, k_group, k, ARGS[5 * axis], ARGS[5 * axis + 1], ARGS[5 * axis + 2],
                ARGS[5 * axis + 3], ARGS[5 * axis + 4],
            )  # fmt: skip
    return keep
