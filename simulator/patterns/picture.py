"""A pattern as a picture: pairs of tokens where they are few, pairs of blocks where they are many."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..workload import Grid, Workload
from .base import Pattern
from .combine import rule_of
from .engine import block_map
from .neighborhood import Neighborhood

SHADES = "·▒█"  # empty, partial, full


@dataclass(frozen=True, eq=False)
class Picture:
    """Cells of a pattern, in the order of memory.

    Attributes: cells: 0 empty, 1 partial, 2 full, shape (Q cells, KV cells). q_cell, kv_cell: tokens of a cell.
    """

    cells: NDArray[np.int8]
    q_cell: int
    kv_cell: int

    def text(self) -> str:
        """One character per cell."""
        shades = np.array(list(SHADES))
        return "\n".join("".join(row) for row in shades[self.cells])


def picture(pattern: Pattern, workload: Workload, limit: int = 512) -> Picture:
    """The pattern on at most ``limit`` cells a side; cells are single tokens when these are few enough.

    Raises:
        InputError: the pattern does not fit, or is known by its statistics only.
    """
    pattern.check(workload)
    q_cell, kv_cell = -(-workload.tokens // limit), -(-workload.kv_tokens // limit)
    return Picture(block_map(rule_of(pattern, workload), q_cell, kv_cell), q_cell, kv_cell)


def tile_picture(pattern: Pattern, workload: Workload, q_tile: Grid, kv_tile: Grid, limit: int = 1024) -> Picture:
    """The pattern with a kernel's own tiles as cells, in the order of tiles (KV tiles on a fixed grid).

    Where that is more than ``limit`` cells a side, or tiles on the grid are not a product over its axes (dilation), the
    picture of ``picture`` instead: cells of other sizes, in the order of memory.

    Raises:
        InputError: the pattern does not fit, or is known by its statistics only.
    """
    sizes = (math.prod(q_tile), math.prod(kv_tile))
    on_grid = pattern.tile_axes > 1
    q_tiles = _tiles(workload.grid if on_grid else (workload.tokens,), q_tile if on_grid else sizes[:1])
    kv_tiles = _tiles(workload.keys if on_grid else (workload.kv_tokens,), kv_tile if on_grid else sizes[1:])
    dilated = isinstance(pattern, Neighborhood) and any(d > 1 for d in pattern.dilation)
    if max(q_tiles, kv_tiles) > limit or dilated:
        return picture(pattern, workload, limit // 2)
    pattern.check(workload)
    if not on_grid:
        return Picture(block_map(rule_of(pattern, workload), *sizes), *sizes)
    if not isinstance(pattern, Neighborhood):
        return picture(pattern, workload, limit // 2)
    live = full = np.ones((1, 1), dtype=np.int8)
    for axis, length in enumerate(workload.grid):
        window, stride, causal = (part[axis] for part in (pattern.window, pattern.stride, pattern.causal))
        line = Neighborhood((window,), (stride,), (1,), (bool(causal),))
        cells = block_map(line.rule(Workload((length,), 1, 1)), q_tile[axis], kv_tile[axis])
        live, full = np.kron(live, (cells > 0).astype(np.int8)), np.kron(full, (cells > 1).astype(np.int8))
    return Picture(live + full, *sizes)


def _tiles(grid: Grid, tile: Grid) -> int:
    return math.prod(-(-length // size) for length, size in zip(grid, tile, strict=True))
