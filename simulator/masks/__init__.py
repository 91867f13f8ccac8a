"""FlexAttention masks without a GPU: any ``mask_mod``, or a block map from a file, as a pattern."""

from .blockmap import BlockMap, Runs
from .pattern import Mask, StoredMask, read_mask
from .readers import read_block_map

__all__ = ["BlockMap", "Mask", "Runs", "StoredMask", "read_block_map", "read_mask"]
