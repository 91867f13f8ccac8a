"""``permute_tokens`` and ``unpermute_tokens``: the tiles of a token grid made contiguous in memory, and back.

A copy with a computed row: each program takes BLOCK tokens of one (batch, head) in the order they lie in the
tiled tensor, works out in registers where each comes from, and moves whole rows of head_dim. Both sides are
then read and written in runs of head_dim elements (256 bytes at d = 128, bf16) or longer, so the copy runs at
memory speed; there is no index table to read. A tile's last axis keeps neighbouring tokens together on both
sides.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..errors import InputError
from .arguments import FLOATS, check_tensor, fault, need_device
from .attention_launch import on_device, strides
from .layout import MAX_AXES, TokenLayout

DTYPES = (*FLOATS, torch.float8_e4m3fn, torch.float8_e5m2)
_BLOCK_BYTES = 16384  # of one program: enough loads in flight to fill the memory's latency


@triton.jit
def source_token(place, LAYOUT: tl.constexpr):
    """Return (token, real): which token of the grid lies at ``place`` of the tiled order, and whether one
    does.
    """
    token = place * 0
    real = place >= 0
    for axis in tl.static_range(3):
        if LAYOUT[7 * axis] > 1:
            group = place // LAYOUT[7 * axis + 2] % LAYOUT[7 * axis + 1]
            tile = place // LAYOUT[7 * axis + 3] % LAYOUT[7 * axis + 4]
            inner = place // LAYOUT[7 * axis + 5] % LAYOUT[7 * axis + 6]
            position = (tile * LAYOUT[7 * axis + 6] + inner) * LAYOUT[7 * axis + 1] + group
            real = real & (position < LAYOUT[7 * axis])
            token = token * LAYOUT[7 * axis] + position
    return token, real


@triton.jit
def permute_tokens_kernel(
    grid_ptr, tiled_ptr, stride_gb, stride_gh, stride_gm, stride_tb, stride_th, stride_tm, heads, places,
    blocks, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK: tl.constexpr, LAYOUT: tl.constexpr,
    INVERSE: tl.constexpr,
):  # fmt: skip
    """Copy grid order -> tiled order (padding becomes 0), or back with INVERSE. One program: BLOCK tokens of
    one head.
    """
    program = tl.program_id(0)
    batch_head = program // blocks
    batch = (batch_head // heads).to(tl.int64)
    head = (batch_head % heads).to(tl.int64)
    place = program % blocks * BLOCK + tl.arange(0, BLOCK)
    token, real = source_token(place, LAYOUT)
    columns = tl.arange(0, BLOCK_DIM)
    keep = (real & (place < places))[:, None]
    write = (place < places)[:, None]
    if DIM != BLOCK_DIM:
        keep = keep & (columns < DIM)[None, :]
        write = write & (columns < DIM)[None, :]
    grid_at = grid_ptr + batch * stride_gb + head * stride_gh
    grid_at += token.to(tl.int64)[:, None] * stride_gm + columns[None, :]
    tiled_at = tiled_ptr + batch * stride_tb + head * stride_th
    tiled_at += place.to(tl.int64)[:, None] * stride_tm + columns[None, :]
    # Every element is touched once: let it leave the cache first.
    if INVERSE:
        rows = tl.load(tiled_at, mask=keep, other=0.0, eviction_policy="evict_first")
        tl.store(grid_at, rows, mask=keep)
    else:
        rows = tl.load(grid_at, mask=keep, other=0.0, eviction_policy="evict_first")
        tl.store(tiled_at, rows, mask=write)


def permute_tokens(
    x: torch.Tensor,
    grid: tuple[int, ...],
    tile: tuple[int, ...],
    dilation: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """Return ``x`` with every tile of the token grid contiguous.

    ``x`` [batch, heads, tokens, dim] (fp16, bf16, fp32 or fp8; unit stride along dim; dim up to 1024), its
    tokens being those of ``grid`` (one to three axes, the last one fastest). ``tile`` gives the tile's tokens
    per axis; with ``dilation`` the tokens with equal index modulo it form grids of their own. Axes that tiles
    do not divide are padded with zeros: the result is [batch, heads, padded tokens, dim], contiguous.
    ``TokenLayout`` says where a token goes.

    Raises ValueError naming a bad argument, RuntimeError off a GPU unless interpreted.
    """
    layout = _layout(grid, tile, dilation)
    check_tensor("x", x, "batch heads tokens dim", dtypes=DTYPES, sizes={"tokens": layout.tokens})
    out = torch.empty((*x.shape[:2], layout.padded_tokens, x.shape[3]), dtype=x.dtype, device=x.device)
    _launch(x, out, layout, inverse=False)
    return out


def unpermute_tokens(
    x: torch.Tensor,
    grid: tuple[int, ...],
    tile: tuple[int, ...],
    dilation: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """Undo ``permute_tokens``: [batch, heads, padded tokens, dim] -> [batch, heads, tokens, dim], padding
    dropped.

    Takes and raises what ``permute_tokens`` does.
    """
    layout = _layout(grid, tile, dilation)
    check_tensor("x", x, "batch heads tokens dim", dtypes=DTYPES, sizes={"tokens": layout.padded_tokens})
    out = torch.empty((*x.shape[:2], layout.tokens, x.shape[3]), dtype=x.dtype, device=x.device)
    _launch(out, x, layout, inverse=True)
    return out


def _layout(grid: tuple[int, ...], tile: tuple[int, ...], dilation: tuple[int, ...] | None) -> TokenLayout:
    if not 1 <= len(grid) <= MAX_AXES or len(tile) != len(grid):
        raise InputError(
            f"grid={tuple(grid)}, tile={tuple(tile)}: expected one to three axes, and a tile size for each"
        )
    return TokenLayout(tuple(grid), tuple(tile), tuple(dilation or ()))


def _launch(grid_side: torch.Tensor, tiled_side: torch.Tensor, layout: TokenLayout, *, inverse: bool) -> None:
    need_device("x", grid_side, permute_tokens_kernel)
    batch, heads, places, dim = tiled_side.shape
    if dim > 1024:
        raise fault("x", "a dim of at most 1024", dim)
    block_dim = triton.next_power_of_2(dim)
    block = max(16, _BLOCK_BYTES // (block_dim * grid_side.element_size()))
    blocks = triton.cdiv(places, block)
    with on_device(grid_side):
        permute_tokens_kernel[(batch * heads * blocks,)](
            grid_side, tiled_side, *strides(grid_side), *strides(tiled_side), heads, places, blocks, DIM=dim,
            BLOCK_DIM=block_dim, BLOCK=block, LAYOUT=layout.kernel_args(), INVERSE=inverse, num_warps=4,
        )  # fmt: skip
