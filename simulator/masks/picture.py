"""A mask as a picture of its tiles."""

from __future__ import annotations

import math

from ..patterns.picture import Picture
from ..workload import Grid, Workload
from .pattern import Mask, StoredMask


def mask_picture(
    mask: Mask | StoredMask, workload: Workload, q_tile: Grid, kv_tile: Grid, limit: int = 1024
) -> Picture:
    """The mask of the first batch and head on a kernel's tiles, several to a cell where there are more than ``limit`` a side.

    Raises:
        InputError: the tiles do not fit the blocks of a stored mask.
    """
    q, kv = math.prod(q_tile), math.prod(kv_tile)
    blocks = mask.block_map(workload, q, kv) if isinstance(mask, Mask) else mask.blocks.retile(q, kv)
    down, across = (-(-count // limit) for count in (blocks.q_blocks, blocks.kv_blocks))
    blocks = blocks.retile(down * q, across * kv)
    return Picture(blocks.maps[0].dense(0, blocks.q_blocks, blocks.kv_blocks), blocks.q_block, blocks.kv_block)
