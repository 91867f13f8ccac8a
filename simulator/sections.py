"""CTAs handed out in sections: of some heads whose keys lie in the L2 together the longest first, then of the next heads.

FlashAttention-3 where sequences may vary (hopper/flash_prepare_scheduler.cu and VarlenDynamicPersistentTileScheduler in
hopper/tile_scheduler.hpp): sequence after sequence, section after section. A long CTA of the last section then begins late.
Over many waves that comes to little; where CTAs are few each is handed to the SM that is free first, one by one.
"""

from __future__ import annotations

import heapq
from functools import lru_cache

import numpy as np

from .calls import Calls
from .schedule import class_counts, makespan
from .tiles import Floats, Ints, between

SECTION_BYTES = 8.0 * 1024 * 1024  # of the L2, for keys and values ("underestimate seems better in practice")
SECTION_HEADS = 16.0  # or half as many, and so on
WAVES = 8.0  # beyond so many the order costs less than a percent
LEVELS = 64  # to which costs are told apart, so that like calls are looked up


def section_heads(c: Calls, splits: Floats) -> Floats:
    """Key heads of a section, shape (calls,); the parts of split keys come head by head."""
    held = np.ceil(c.keys / c.tile_kv)
    fit = np.floor(SECTION_BYTES / (c.tile_kv * (c.dim + c.dim_v) * c.kv_bytes))
    heads = np.exp2(np.floor(np.log2(between(fit / held, 1.0, SECTION_HEADS))))
    found: Floats = np.where(splits > 1.0, 1.0, np.minimum(heads, c.kv_heads))
    return found


def stretch(
    cost: Floats, count: Floats, row: Ints, heads: Floats, sequences: Floats, section: Floats, sms: int
) -> Floats:
    """Time until the last SM is done, over what it is where the longest of all CTAs go first (see schedule.makespan).

    Args:
        cost: of a CTA of each class, the longest of a call first. count: CTAs of each class in a head. row: index of each
            call's first class. heads, sequences, section: heads and sequences of each call, and heads of a section.
    """
    sizes = class_counts(row, cost.size)
    ctas = np.add.reduceat(count, row) * heads * sequences
    found = np.ones(row.size)
    for call in np.flatnonzero((ctas > sms) & (ctas <= WAVES * sms) & (sizes > 1)):
        first = row[call]
        own = cost[first : first + sizes[call]]
        level = np.maximum(np.rint(own * (LEVELS / own[0])), 1.0)
        if level[-1] < level[0]:
            counts = np.rint(count[first : first + sizes[call]])
            shape = (int(heads[call]), int(sequences[call]), int(section[call]), sms)
            found[call] = _stretch(tuple(level.tolist()), tuple(counts.astype(int).tolist()), *shape)
    return found


@lru_cache(maxsize=1 << 16)
def _stretch(
    cost: tuple[float, ...], count: tuple[int, ...], heads: int, sequences: int, section: int, sms: int
) -> float:
    costs = np.array(cost)
    sections = [min(section, heads - begun) for begun in range(0, heads, section)]
    order = np.concatenate([np.repeat(costs, np.array(count) * size) for size in sections])
    free = [0.0] * sms
    for own in np.tile(order, sequences).tolist():
        heapq.heapreplace(free, free[0] + own)
    best = makespan(
        costs, np.array(count, dtype=np.float64) * heads * sequences, np.zeros(1, dtype=np.int64), sms, True
    )
    return max(free) / float(best[0])
