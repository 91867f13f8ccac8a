"""A Python module that runs FlexAttention with the ``kernel_options`` of the tuning.

FlexAttention passes over a configuration whose tiles do not divide the mask's BLOCK_SIZE, and says nothing. So the best
configuration that divides it is written. Dense attention, bands and neighborhoods come with their ``mask_mod``; for other
patterns the caller brings the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...errors import InputError
from ...simulator import parse_pattern
from ...simulator.patterns import Band, Neighborhood, Pattern
from ...simulator.patterns.band import UNLIMITED
from ...simulator.workload import parse_grid
from ..result import Candidate, Tuning
from .words import problem_text, time_text

BLOCK_SIZE: Final = 128  # FlexAttention's own default

_KNOBS: Final = ("BLOCK_M", "BLOCK_N", "num_warps", "num_stages")

_MODULE: Final = '''"""FlexAttention with the fastest forward configuration: {time}.

{problem}
"""

import functools

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

BLOCK_SIZE = {block}  # of the mask: BLOCK_M and BLOCK_N divide it, or FlexAttention would pass over them
KERNEL_OPTIONS = {options!r}


@functools.cache
def compiled(function):
    return torch.compile(function, dynamic=False)

{mask}

def attention(q, k, v{argument}):
    """q: [batch, heads, tokens, dim]; k and v: [batch, heads that divide those of q, tokens, dim]."""
    {make}
    run = compiled(flex_attention) if q.is_cuda else flex_attention
    gqa = q.shape[1] != k.shape[1]
    {call}
'''

_CALL: Final = "run(q, k, v, block_mask=block_mask, enable_gqa=gqa, kernel_options=KERNEL_OPTIONS)"

_TILED: Final = '''
GRID, DILATION = {grid}, {dilation}
Q_TILE, KV_TILE = {q_tile}, {kv_tile}


@functools.lru_cache(maxsize=8)
def tiled(tile, device):
    """The token at each place when tiles are made contiguous, -1 where one reaches past the grid."""
    places = torch.zeros(1, dtype=torch.long)
    keep = torch.ones(1, dtype=torch.bool)
    # Places have axes (group, tile, inside) for each axis of the grid; they are sorted into all groups, tiles, insides.
    shape = []
    for length, step, size in zip(GRID, DILATION, tile):
        tiles = -(-(-(-length // step)) // size)
        at = (torch.arange(tiles)[:, None] * size + torch.arange(size)) * step + torch.arange(step)[:, None, None]
        places = (places[:, None] * length + at.flatten().clamp(max=length - 1)).flatten()
        keep = (keep[:, None] & (at.flatten() < length)).flatten()
        shape += [step, tiles, size]
    order = [axis for start in range(3) for axis in range(start, len(shape), 3)]
    table = torch.where(keep, places, -1).reshape(shape).permute(order).flatten()
    padding = -table.numel() % BLOCK_SIZE
    return torch.nn.functional.pad(table, (0, padding), value=-1).to(device)


@functools.lru_cache(maxsize=8)
def block_mask_of(device):
    """The blocks to visit, made once."""
    q_at, kv_at = tiled(Q_TILE, device).clamp(min=0), tiled(KV_TILE, device)
    real, kv_at = kv_at >= 0, kv_at.clamp(min=0)
{mask}
    build = compiled(create_block_mask) if device.type == "cuda" else create_block_mask
    return build(mask_mod, None, None, q_at.numel(), kv_at.numel(), device=device, BLOCK_SIZE=BLOCK_SIZE)
'''

_TILED_MAKE: Final = """q_at, kv_at = tiled(Q_TILE, q.device), tiled(KV_TILE, q.device)
    block_mask = block_mask_of(q.device)
    tokens = q.shape[2]
    q, k, v = q[:, :, q_at.clamp(min=0)], k[:, :, kv_at.clamp(min=0)], v[:, :, kv_at.clamp(min=0)]"""

_TILED_CALL: Final = """out = {call}
    places = torch.empty(tokens, dtype=torch.long, device=q.device)
    places[q_at[q_at >= 0]] = torch.arange(q_at.numel(), device=q.device)[q_at >= 0]
    return out[:, :, places]"""

_BUILD: Final = '''
@functools.lru_cache(maxsize=8)
def block_mask_of(q_len, kv_len, device):
    """The blocks to visit, made once for each size."""
{mask}
    build = compiled(create_block_mask) if device.type == "cuda" else create_block_mask
    return build(mask_mod, None, None, q_len, kv_len, device=device, BLOCK_SIZE=BLOCK_SIZE)
'''

_BAND: Final = """    shift = kv_len - q_len  # the last query sits at the last key

    def mask_mod(b, h, q_idx, kv_idx):
        return {condition}
"""

_NEIGHBORHOOD: Final = """    # Tokens of each axis, window, stride, dilation, causal; the last axis is the fastest in memory.
    axes = {axes}

    def mask_mod(b, h, q_idx, kv_idx):
        keep, step = {real}, 1
        for length, window, stride, dilation, causal in reversed(axes):
            q, kv = {q} // step % length, {kv} // step % length
            step *= length
            group, i, j = q % dilation, q // dilation, kv // dilation
            last = (length - 1 - group) // dilation  # of the tokens that a dilation leaves together
            if causal:
                leader = torch.minimum(i // stride * stride + stride - 1, last)
                inside = (j > leader - window) & (j <= i)
            else:
                leader = torch.minimum(i // stride * stride + stride // 2, last)
                start = torch.minimum(torch.clamp(leader - window // 2, min=0), last + 1 - window)
                inside = (j >= start) & (j < start + window)
            keep = keep & inside & (kv % dilation == group)
        return keep
"""


def text(tunings: Sequence[Tuning]) -> str:
    """The module's text. Raises InputError when no configuration of the tuning divides BLOCK_SIZE."""
    (tuning,) = tunings
    chosen = _dividing(tuning)
    pattern = parse_pattern(tuning.pattern)
    mask, argument, make = "", "", "block_mask = block_mask_of(q.shape[-2], k.shape[-2], q.device)"
    call = f"return {_CALL}"
    if isinstance(pattern, Neighborhood) and "q_tile" in chosen.config and chosen.config.get("order") != "row":
        mask, make, call = _permuted(pattern, tuning, chosen)
    elif isinstance(pattern, Band | Neighborhood):
        body = _mask_mod(pattern, tuning)
        if body:
            mask = _BUILD.format(mask=body)
        else:
            make = "block_mask = None  # dense"
    else:
        argument, make = ", block_mask", f"# block_mask: create_block_mask({tuning.pattern!r} as a mask_mod, ...)"
    return _MODULE.format(
        time=time_text(chosen),
        problem=problem_text(tuning),
        block=BLOCK_SIZE,
        options={f"fwd_{name}": chosen.config[name] for name in _KNOBS},
        mask=mask.rstrip("\n") + "\n" if mask else "",
        argument=argument,
        make=make,
        call=call,
    )


def _dividing(tuning: Tuning) -> Candidate:
    for candidate in tuning.ranking:
        if all(BLOCK_SIZE % int(candidate.config[name]) == 0 for name in ("BLOCK_M", "BLOCK_N")):
            return candidate
    best = tuning.best.config
    raise InputError(f"tiles {best['BLOCK_M']} x {best['BLOCK_N']}: expected divisors of BLOCK_SIZE {BLOCK_SIZE}")


def _mask_mod(pattern: Pattern, tuning: Tuning) -> str:
    if isinstance(pattern, Band):
        sides = []
        if pattern.left < UNLIMITED:
            sides.append(f"(kv_idx >= q_idx + (shift - {pattern.left}))")
        if pattern.right < UNLIMITED:
            sides.append(f"(kv_idx <= q_idx + (shift + {pattern.right}))")
        return _BAND.format(condition=" & ".join(sides)) if sides else ""
    assert isinstance(pattern, Neighborhood)
    return _NEIGHBORHOOD.format(axes=_axes(pattern, tuning), q="q_idx", kv="kv_idx", real="q_idx >= 0")


def _axes(pattern: Neighborhood, tuning: Tuning) -> tuple[tuple[int, int, int, int, bool], ...]:
    return tuple(
        zip(tuning.workload.grid, pattern.window, pattern.stride, pattern.dilation, pattern.causal, strict=True)
    )


def _permuted(pattern: Neighborhood, tuning: Tuning, chosen: Candidate) -> tuple[str, str, str]:
    """Code for tokens in the order of the tiles: the mask and its tables, the call's preparation, and the call."""
    words: dict[str, object] = {"grid": tuning.workload.grid, "dilation": pattern.dilation}
    words |= {name: parse_grid(str(chosen.config[name])) for name in ("q_tile", "kv_tile")}
    words["mask"] = _NEIGHBORHOOD.format(
        axes=_axes(pattern, tuning), q="q_at[q_idx]", kv="kv_at[kv_idx]", real="real[kv_idx]"
    )
    return _TILED.format(**words), _TILED_MAKE, _TILED_CALL.format(call=_CALL)
