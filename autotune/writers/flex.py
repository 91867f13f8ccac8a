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
from ..result import Candidate, Tuning
from .words import problem_text, time_text

BLOCK_SIZE: Final = 128  # FlexAttention's own default

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
    return run(q, k, v, block_mask=block_mask, enable_gqa=gqa, kernel_options=KERNEL_OPTIONS)
'''

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
        keep, step = q_idx >= 0, 1
        for length, window, stride, dilation, causal in reversed(axes):
            q, kv = q_idx // step % length, kv_idx // step % length
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
    if isinstance(pattern, Band | Neighborhood):
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
        options={f"fwd_{name}": value for name, value in chosen.config.items()},
        mask=mask,
        argument=argument,
        make=make,
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
    axes = tuple(
        zip(tuning.workload.grid, pattern.window, pattern.stride, pattern.dilation, pattern.causal, strict=True)
    )
    return _NEIGHBORHOOD.format(axes=axes)
