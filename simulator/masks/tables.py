"""Least and greatest entry of a table between two indices, for many pairs of indices at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tiles import Ints
from .graph import Array

EXACT = 1 << 18  # longer tables are looked up in runs of GRAIN entries: a range may then count up to 30 entries more
GRAIN = 16


class RangeTable:
    """Range minimum and maximum over the entries of a table in memory order.

    A sorted table needs only its ends; any other one a sparse table, of n log n entries in the smallest dtype.
    """

    def __init__(self, table: Array) -> None:
        flat = table.ravel()
        if flat.dtype == np.bool_:
            flat = flat.view(np.uint8)
        elif flat.dtype.kind in "iu":
            flat = flat.astype(_smallest(flat))
        self.flat: Array = flat
        rising = bool(flat.size and np.all(flat[1:] >= flat[:-1]))
        falling = bool(flat.size and np.all(flat[1:] <= flat[:-1]))
        self._order = 1 if rising else -1 if falling else 0
        self.grain = 1 if flat.size <= EXACT else GRAIN
        self._levels: tuple[list[Array], list[Array]] | None = None
        self.low: Any = flat.min() if flat.size else 0
        self.high: Any = flat.max() if flat.size else 0

    def range(self, first: Ints, last: Ints) -> tuple[Array, Array]:
        """Least and greatest of the entries first..last, both inclusive and within the table."""
        if self._order:
            ends = self.flat[first], self.flat[last]
            return ends if self._order > 0 else ends[::-1]
        if self._levels is None:
            self._levels = self._build()
        first, last = first // self.grain, last // self.grain
        level = np.frexp((last - first + 1).astype(np.float64))[1] - 1
        low, high = (np.empty(first.shape, self.flat.dtype) for _ in range(2))
        for k in np.unique(level):
            at = np.flatnonzero(level == k)
            begin, end = first[at], last[at] - (1 << int(k)) + 1
            for out, levels, pick in ((low, self._levels[0], np.minimum), (high, self._levels[1], np.maximum)):
                out[at] = pick(levels[k][begin], levels[k][end])
        return low, high

    def _build(self) -> tuple[list[Array], list[Array]]:
        starts = np.arange(0, self.flat.size, self.grain)
        built: list[list[Array]] = []
        pick: Any
        for pick in (np.minimum, np.maximum):
            levels = [pick.reduceat(self.flat, starts)]
            step = 1
            while 2 * step <= starts.size:
                levels.append(pick(levels[-1][:-step], levels[-1][step:]))
                step *= 2
            built.append(levels)
        return built[0], built[1]


def _smallest(flat: Array) -> np.dtype[Any]:
    if not flat.size:
        return flat.dtype
    dtype = np.result_type(np.min_scalar_type(int(flat.min())), np.min_scalar_type(int(flat.max())))
    return dtype if dtype.kind in "iu" else np.dtype(np.int64)
