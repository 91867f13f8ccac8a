"""A pattern as a picture: pairs of tokens where they are few, pairs of blocks where they are many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..workload import Workload
from .base import Pattern
from .combine import rule_of
from .engine import block_map

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
