"""TileWork: how many KV tiles each Q tile visits, and how many of those need no mask.

Work is held as classes: Q tiles that visit the same number of full and partial KV tiles are one class with a
multiplicity. Nothing here is of the size of the mask, nor, for periodic patterns, of the number of Q tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Q tiles looked at together. Bounds memory on very long sequences.
CHUNK = 1 << 20
# Above this, neighbouring classes are merged into bins; totals and extremes stay exact.
MAX_CLASSES = 4096


@dataclass(frozen=True)
class TileWork:
    """KV tiles per Q tile, for one head of one sequence.

    Attributes:
        visited, full: KV tiles visited, and of those the ones that need no mask, of each class; whole numbers
            unless more than ``MAX_CLASSES`` classes had to be merged. Sorted by visited, longest first.
        count: Q tiles in each class.
        q_tiles: Q tiles, empty ones included.
        visited_total, full_total: sums over Q tiles, exact.
        visited_max, visited_min: extremes over Q tiles, exact.
        dense_q_tiles, dense_kv_tiles: tiles of a dense call on the same grids.
        pairs: query-key pairs that the pattern keeps.
        dense_pairs: query-key pairs of a dense call.
    """

    visited: Floats
    full: Floats
    count: Floats
    q_tiles: int
    visited_total: int
    full_total: int
    visited_max: int
    visited_min: int
    dense_q_tiles: int
    dense_kv_tiles: int
    pairs: int
    dense_pairs: int

    @property
    def needs_mask(self) -> bool:
        """True when some visited tile has to be masked element by element."""
        return self.full_total < self.visited_total

    @property
    def bound_flop(self) -> float:
        """Speedup over dense if only the kept pairs cost anything: dense pairs / kept pairs."""
        return self.dense_pairs / self.pairs if self.pairs else float("inf")

    @property
    def bound_tiles_mean(self) -> float:
        """Speedup over dense if every visited tile costs the same: the work actually done."""
        return self.dense_q_tiles * self.dense_kv_tiles / self.visited_total if self.visited_total else float("inf")

    @property
    def bound_tiles_max(self) -> float:
        """Speedup over dense if the Q tile with most work sets the pace (the rule of NATTEN's simulator)."""
        return self.dense_kv_tiles / self.visited_max if self.visited_max else float("inf")


@dataclass(frozen=True)
class AxisWork:
    """KV tiles per Q tile along one axis, as classes (see TileWork)."""

    visited: Ints
    full: Ints
    count: Ints
    pairs: int


def classes(visited: Ints, full: Ints, count: Ints | None = None) -> tuple[Ints, Ints, Ints]:
    """Merge equal (visited, full) pairs; returns visited, full, count sorted by visited then full, rising."""
    if count is None:
        count = np.ones_like(visited)
    if visited.size == 0:
        return visited, full, count
    order = np.lexsort((full, visited))
    visited, full, count = visited[order], full[order], count[order]
    first = np.empty(visited.size, dtype=bool)
    first[0] = True
    first[1:] = (visited[1:] != visited[:-1]) | (full[1:] != full[:-1])
    starts = np.flatnonzero(first)
    return visited[starts], full[starts], np.add.reduceat(count, starts)


def merge(parts: list[tuple[Ints, Ints, Ints]]) -> tuple[Ints, Ints, Ints]:
    """Merge the classes of several sets of Q tiles."""
    if len(parts) == 1:
        return parts[0]
    visited, full, count = (np.concatenate(column) for column in zip(*parts, strict=True))
    return classes(visited, full, count)


def product(axes: list[AxisWork], dense_q_tiles: int, dense_kv_tiles: int, dense_pairs: int) -> TileWork:
    """Multiply per-axis work: a pattern that is a product over axes has tiles that are products too.

    A tile is visited when it is visited on every axis, and full when it is full on every axis.
    """
    pairs = 1
    for axis in axes:
        pairs *= axis.pairs
    # Totals multiply over axes, and are whole numbers of Python: no overflow.
    visited_total = full_total = q_tiles = visited_max = visited_min = 1
    for axis in axes:
        visited_total *= int(np.dot(axis.visited, axis.count))
        full_total *= int(np.dot(axis.full, axis.count))
        q_tiles *= int(axis.count.sum())
        visited_max *= int(axis.visited[-1])  # sorted, rising
        visited_min *= int(axis.visited[0])
    columns = (axes[0].visited.astype(float), axes[0].full.astype(float), axes[0].count.astype(float))
    for axis in axes[1:]:
        columns = _outer(columns, (axis.visited, axis.full, axis.count))
    visited, full, count = binned(*columns)
    return TileWork(
        visited[::-1], full[::-1], count[::-1], q_tiles, visited_total, full_total, visited_max, visited_min,
        dense_q_tiles, dense_kv_tiles, pairs, dense_pairs,
    )  # fmt: skip


def from_rows(visited: Ints, full: Ints, dense_kv_tiles: int, pairs: int, dense_pairs: int) -> TileWork:
    """TileWork of a pattern that is no product: visited and full KV tiles of each Q tile, shape (q_tiles,) each."""
    v, f, n = classes(visited, full)
    by_work, by_full, count = binned(v.astype(float), f.astype(float), n.astype(float))
    return TileWork(
        visited=by_work[::-1],
        full=by_full[::-1],
        count=count[::-1],
        q_tiles=visited.size,
        visited_total=int(visited.sum()),
        full_total=int(full.sum()),
        visited_max=int(visited.max()),
        visited_min=int(visited.min()),
        dense_q_tiles=visited.size,
        dense_kv_tiles=dense_kv_tiles,
        pairs=pairs,
        dense_pairs=dense_pairs,
    )


Columns = tuple[Floats, Floats, Floats]


def _outer(a: Columns, b: tuple[Ints, Ints, Ints]) -> Columns:
    """Every class of one set of axes with every class of another axis."""
    other: Columns = (b[0].astype(float), b[1].astype(float), b[2].astype(float))
    if a[0].size * b[0].size > MAX_CLASSES**2 // 4:
        a, other = binned(*a), binned(*other)
    visited, full, count = ((x[:, None] * y).ravel() for x, y in zip(a, other, strict=True))
    return visited, full, count


def binned(visited: Floats, full: Floats, count: Floats) -> tuple[Floats, Floats, Floats]:
    """Sort classes by visited and merge neighbours until at most ``MAX_CLASSES`` are left; sums are kept.

    The class with most work is never merged into a smaller one, since it decides the tail of the schedule.
    """
    order = np.argsort(visited, kind="stable")
    visited, full, count = visited[order], full[order], count[order]
    if visited.size <= MAX_CLASSES:
        return visited, full, count
    cumulative = np.cumsum(count[:-1])
    label = np.minimum((cumulative - count[:-1]) * (MAX_CLASSES - 1) // cumulative[-1], MAX_CLASSES - 2)
    starts = np.append(np.flatnonzero(np.diff(label, prepend=-1.0)), visited.size - 1)
    merged = np.add.reduceat(count, starts)
    return (
        np.add.reduceat(visited * count, starts) / merged,
        np.add.reduceat(full * count, starts) / merged,
        merged,
    )
