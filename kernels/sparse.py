"""``sparse_attention``: a pattern by name, and everything it takes to run it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from ..errors import InputError
from .arguments import check_qkv, fault, need_device
from .attention import attention_forward_kernel
from .attention_launch import attention
from .attention_spec import ForwardConfig
from .blocks import BlockLists
from .layout import TokenLayout
from .masks import neighborhood_mask
from .neighborhood import Pattern, choose_tiles, parse_pattern
from .permute import permute_tokens, unpermute_tokens

TILE_TOKENS = 128


@dataclass(frozen=True)
class Plan:
    """How a neighborhood pattern runs: two token orders, the block lists and the mask's arguments."""

    pattern: Pattern
    queries: TokenLayout
    keys: TokenLayout
    blocks: BlockLists
    mask_args: tuple[int, ...]


@lru_cache(maxsize=32)
def plan(
    text: str,
    grid: tuple[int, ...],
    q_tile: tuple[int, ...] | None,
    kv_tile: tuple[int, ...] | None,
    device: str,
    tokens: tuple[int, int] = (TILE_TOKENS, TILE_TOKENS),
) -> Plan:
    """Build, once per pattern, grid, tiles and device, what ``sparse_attention`` needs besides the tensors.

    Tiles that are not given are the shapes of ``tokens`` tokens that visit least.
    """
    pattern = parse_pattern(text, grid)
    if q_tile is None or kv_tile is None:
        best_q, best_kv = choose_tiles(pattern, *tokens)
        q_tile, kv_tile = q_tile or best_q, kv_tile or best_kv
    queries, keys = pattern.layout(q_tile), pattern.layout(kv_tile)
    for name, layout in (("q_tile", queries), ("kv_tile", keys)):
        if layout.tile_tokens % 16:
            raise InputError(f"{name}={layout.tile}: expected a tile of a multiple of 16 tokens")
    live, full = (torch.from_numpy(table).to(device) for table in pattern.tile_maps(q_tile, kv_tile))
    block = (queries.tile_tokens, keys.tile_tokens)
    lists = BlockLists.from_maps(live, full, block, (_length(queries), _length(keys)))
    return Plan(pattern, queries, keys, lists, pattern.mask_args(queries, keys))


def _length(layout: TokenLayout) -> int:
    """Tokens of the tensor the kernel sees: without a permutation there is no padding either."""
    return layout.tokens if layout.is_identity else layout.padded_tokens


def sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pattern: str,
    grid: tuple[int, ...] | None = None,
    *,
    q_tile: tuple[int, ...] | None = None,
    kv_tile: tuple[int, ...] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    config: ForwardConfig | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Attention under a pattern given as text.

    ``q`` [batch, heads, tokens, dim], ``k`` and ``v`` [batch, kv_heads, tokens, dim]; dtypes, strides and
    head dims as in ``attention``. ``pattern`` is one of::

        dense
        causal
        window left=2048 right=0              tokens to either side; an omitted side has no limit
        na window=18x24x24 stride=16x8x8 dilation=1x1x1 causal=0x0x0

    ``na`` is (generalized) neighborhood attention as NATTEN defines it, on a token ``grid`` of one to three
    axes, the last one fastest (default: one axis of all tokens). Tokens are permuted so that tiles
    (``q_tile``, ``kv_tile``: tokens per axis; default: the shapes of 128 tokens that visit least) are
    contiguous, KV tiles without a pair are skipped, and only the others that hold both kinds of pairs are
    masked. The plan is kept for the next call.

    Returns out [batch, heads, tokens, dim], and with ``return_lse`` the natural log-sum-exp [batch, heads,
    tokens]. Raises ValueError naming a bad argument or quoting the pattern, RuntimeError off a GPU unless
    TRITON_INTERPRET=1.
    """
    check_qkv(q, k, v)
    need_device("q", q, attention_forward_kernel)
    grid = tuple(grid) if grid is not None else (q.shape[2],)
    asked = parse_pattern(pattern, grid)
    if asked.kind != "na":
        if q_tile is not None or kv_tile is not None:
            raise fault("q_tile", f"no tile shapes for pattern {pattern!r}", (q_tile, kv_tile))
        band = (asked.left, asked.right)
        return attention(q, k, v, window=band, scale=scale, return_lse=return_lse, config=config)

    made = plan(pattern, grid, q_tile, kv_tile, str(q.device))
    for name, tensor in (("q", q), ("k", k)):
        if tensor.shape[2] != made.queries.tokens:
            raise fault(name, f"{made.queries.tokens} tokens for grid {grid}", tensor.shape[2])
    q_in = _permuted(q, made.queries)
    k_in, v_in = (_permuted(t, made.keys) for t in (k, v))
    masked = made.blocks.has_partial
    out = attention(
        q_in, k_in, v_in, blocks=made.blocks, mask=neighborhood_mask if masked else None,
        mask_args=made.mask_args if masked else (), scale=scale, return_lse=return_lse, config=config,
    )  # fmt: skip
    out, lse = out if isinstance(out, tuple) else (out, None)
    if not made.queries.is_identity:
        out = unpermute_tokens(out, grid, made.queries.tile, made.queries.dilation)
        if lse is not None:
            lse = unpermute_tokens(lse[..., None], grid, made.queries.tile, made.queries.dilation)[..., 0]
    return out if lse is None else (out, lse)


def _permuted(tensor: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    if layout.is_identity:
        return tensor
    return permute_tokens(tensor, layout.grid, layout.tile, layout.dilation)
