"""FlexAttention on the patterns and block lists that our kernels run: what they are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .neighborhood import Pattern, parse_pattern
from .permute import permute_tokens
from .sparse import plan

BLOCK = 128


def band_maps(tokens: int, pattern: Pattern) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (live, full) blocks of 128 x 128 tokens of a band."""
    first = torch.arange(0, tokens, BLOCK)
    last = first + BLOCK - 1
    left, right = (tokens if side is None else side for side in (pattern.left, pattern.right))
    live = (first <= last[:, None] + right) & (last >= first[:, None] - left)
    full = (last <= first[:, None] + right) & (first >= last[:, None] - left)
    return live, full


def flex_call(
    pattern: str, grid: tuple[int, ...], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, compiled: bool
) -> Callable[[], Any]:
    """Return a call of FlexAttention on a dense, causal, window or na pattern.

    ``q`` [batch, heads, tokens, dim], ``k`` and ``v`` [batch, kv_heads, tokens, dim]. Neighborhoods run on
    tokens permuted here, outside the call, as the plan of ``sparse_attention`` orders them; the result is in
    that order. ``compiled`` False runs it eagerly, which is for trying it without a GPU.
    """
    asked = parse_pattern(pattern, grid)
    if asked.kind == "dense":
        return flex_blocks_call(q, k, v, None, None, None, compiled)
    if asked.kind == "na":
        made = plan(pattern, grid, None, None, "cpu")
        live, full = (m[0, 0] for m in made.blocks.maps())
        q = permute_tokens(q, grid, made.queries.tile)
        k, v = (permute_tokens(t, grid, made.keys.tile) for t in (k, v))
    else:
        live, full = band_maps(q.shape[2], asked)
    return flex_blocks_call(q, k, v, live, full, _mask_mod(pattern, asked, grid, q), compiled)


def flex_blocks_call(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    live: torch.Tensor | None,
    full: torch.Tensor | None,
    mask_mod: Callable[..., Any] | None,
    compiled: bool,
) -> Callable[[], Any]:
    """Return a call on (live, full) bool maps of blocks of 128 x 128 tokens; without maps, a dense one."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    if compiled:
        # Compilations of the same function count up to a limit, past which it silently runs eagerly.
        torch._dynamo.reset()
    run = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
    grouped = q.shape[1] != k.shape[1]
    if live is None or full is None:
        return lambda: run(q, k, v, enable_gqa=grouped)

    def ordered(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        table = table[None, None].to(q.device)
        order = table.int().argsort(dim=-1, descending=True, stable=True).int().contiguous()
        return table.sum(-1, dtype=torch.int32), order

    mask = BlockMask.from_kv_blocks(*ordered(live & ~full), *ordered(full), BLOCK_SIZE=BLOCK, mask_mod=mask_mod)
    return lambda: run(q, k, v, block_mask=mask, enable_gqa=grouped)


def _mask_mod(text: str, pattern: Pattern, grid: tuple[int, ...], q: torch.Tensor) -> Callable[..., Any]:
    """FlexAttention's ``mask_mod``: a band, or a neighborhood read from tables of permuted tokens."""
    left, right = (q.shape[2] if side is None else side for side in (pattern.left, pattern.right))
    if pattern.kind != "na":
        return lambda b, h, i, j: (j <= i + right) & (j >= i - left)
    made = plan(text, grid, None, None, "cpu")
    tables = []
    for number, axis in enumerate(pattern.axes):
        at_q, at_kv = (
            np.unravel_index(np.maximum(layout.source, 0), grid)[number] for layout in (made.queries, made.keys)
        )
        start, end = axis.windows(0)
        place = np.where(made.keys.source >= 0, at_kv, -1)
        tables.append([torch.from_numpy(t.astype(np.int32)).to(q.device) for t in (start[at_q], end[at_q], place)])

    def neighborhood(b: Any, h: Any, i: Any, j: Any) -> Any:
        keep = j >= 0
        for start, end, place in tables:
            keep = keep & (place[j] >= start[i]) & (place[j] < end[i])
        return keep

    return neighborhood
