"""TileWork: how many KV tiles each Q tile visits, and how many of those need no mask.

Work is held as classes: Q tiles that visit the same number of full and partial KV tiles are one class with a
multiplicity. Nothing here is of the size of the mask, nor, for periodic patterns, of the number of Q tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from numpy.typing import NDArray

from .html import html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Columns = tuple[Floats, Floats, Floats]  # visited, full, count
# Where KV tiles begin: on a grid from key 0, or at the first key that a Q tile needs.
KvTiling = Literal["static", "dynamic"]


@overload
def between(values: Ints, low: Ints | int, high: Ints | int) -> Ints: ...
@overload
def between(values: Floats, low: Floats | float, high: Floats | float) -> Floats: ...
def between(values: Ints | Floats, low: Ints | Floats | float, high: Ints | Floats | float) -> Ints | Floats:
    """Values within bounds, as numpy.clip gives them; on the short arrays of a single call that takes four times as long."""
    found: Ints | Floats = np.minimum(np.maximum(values, low), high)
    return found


# Q tiles looked at together. Bounds memory on very long sequences.
CHUNK = 1 << 18
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
        tested: KV tiles of each class that are looked at and left, outside of a window that the kernel finds tile by tile;
            None where it visits no other tiles than those that count.
        starts: KV tiles that are the first of some Q tile, each once; 1 where all Q tiles begin with the same one, and where
            nobody counted.
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
    tested: Floats | None = None
    starts: int = 1

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

    def _repr_html_(self) -> str:
        dense = self.dense_q_tiles * self.dense_kv_tiles
        rows = [
            ["visited", f"{self.visited_total:,} of {dense:,} ({self.visited_total / dense:.1%})"],
            ["full", f"{self.full_total:,}"],
            ["for each Q tile", f"{self.visited_min:,} to {self.visited_max:,}"],
            ["pairs kept", f"{self.pairs / self.dense_pairs:.3%}"],
            ["bound, FLOPs", f"{self.bound_flop:.2f}x"],
            ["bound, tiles mean", f"{self.bound_tiles_mean:.2f}x"],
            ["bound, tiles max", f"{self.bound_tiles_max:.2f}x"],
        ]
        return html_table(f"KV tiles of {self.q_tiles:,} Q tiles, one head", ["", "tiles"], rows)

    def plot(self) -> Figure:
        """Q tiles by the KV tiles they visit, full and partial. Needs matplotlib."""
        from .plots import tiles_figure

        return tiles_figure(self)


@dataclass(frozen=True)
class AxisWork:
    """KV tiles per Q tile along one axis, as classes sorted by visited, rising (see TileWork for the attributes)."""

    visited: Floats
    full: Floats
    count: Floats
    q_tiles: int
    visited_total: int
    full_total: int
    visited_max: int
    visited_min: int
    pairs: int
    starts: int = 1


def axis_work_of(chunks: Iterable[tuple[Ints, Ints, int]], pairs: int, starts: int = 1) -> AxisWork:
    """Collect the Q tiles of an axis, chunk by chunk: visited and full tiles of each, and how often the chunk occurs."""
    columns: Columns | None = None
    q_tiles = visited_total = full_total = visited_max = 0
    visited_min = None
    for visited, full, times in chunks:
        v, f, n = classes(visited, full)
        q_tiles += times * visited.size
        visited_total += times * int(v @ n)
        full_total += times * int(f @ n)
        least, most = int(v[0]), int(v[-1])  # classes are sorted
        visited_max = max(visited_max, most)
        visited_min = least if visited_min is None else min(visited_min, least)
        new: Columns = (v.astype(np.float64), f.astype(np.float64), (n * times).astype(np.float64))
        columns = new if columns is None else binned(*_merged(columns, new))
    assert columns is not None
    assert visited_min is not None
    if columns[0].size > MAX_CLASSES:
        columns = binned(*columns)
    return AxisWork(*columns, q_tiles, visited_total, full_total, visited_max, visited_min, pairs, starts)


def classes(visited: Ints, full: Ints) -> tuple[Ints, Ints, Ints]:
    """Merge equal (visited, full) pairs; returns visited, full and count, sorted by visited then full, rising."""
    # One key for both: sorting integers that are nearly sorted is fast, sorting pairs is not.
    base = int(full.max()) + 1
    key = np.sort(visited * base + full, kind="stable")
    starts = np.concatenate(([0], (key[1:] != key[:-1]).nonzero()[0] + 1))
    count = np.concatenate((starts[1:], [key.size])) - starts
    distinct = key[starts]
    return distinct // base, distinct % base, count


def _merged(a: Columns, b: Columns) -> Columns:
    """The classes of both, equal ones merged."""
    visited, full, count = (np.concatenate(pair) for pair in zip(a, b, strict=True))
    order = np.lexsort((full, visited))
    visited, full, count = visited[order], full[order], count[order]
    new = np.ones(visited.size, dtype=bool)
    new[1:] = (visited[1:] != visited[:-1]) | (full[1:] != full[:-1])
    starts = np.flatnonzero(new)
    return visited[starts], full[starts], np.add.reduceat(count, starts)


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
        visited_total *= axis.visited_total
        full_total *= axis.full_total
        q_tiles *= axis.q_tiles
        visited_max *= axis.visited_max
        visited_min *= axis.visited_min
    columns: Columns = (axes[0].visited, axes[0].full, axes[0].count)
    for axis in axes[1:]:
        columns = _outer(columns, (axis.visited, axis.full, axis.count))
    visited, full, count = columns if len(axes) == 1 else binned(*columns)
    return TileWork(
        visited[::-1], full[::-1], count[::-1], q_tiles, visited_total, full_total, visited_max, visited_min,
        dense_q_tiles, dense_kv_tiles, pairs, dense_pairs, starts=math.prod(axis.starts for axis in axes),
    )  # fmt: skip


def with_tested(work: TileWork, chunks: Iterable[tuple[Ints, Ints, Ints]]) -> TileWork:
    """``work`` in classes that also tell the KV tiles looked at and left, longest walk first.

    Args:
        chunks: for each Q tile in turn the KV tiles visited, of those full, and those looked at and left.
    """
    table = np.zeros((0, 4))
    for visited, full, tested in chunks:
        rows, count = np.unique(np.stack([visited + tested, visited, full]), axis=1, return_counts=True)
        table = np.concatenate([table, np.vstack([rows, count]).T.astype(np.float64)])
        if table.shape[0] > MAX_CLASSES:
            table = _binned_rows(table, MAX_CLASSES)
    walked, visited_, full_, count_ = table[np.argsort(-table[:, 0], kind="stable")].T
    return replace(work, visited=visited_, full=full_, count=count_, tested=walked - visited_)


def mean_work(works: list[TileWork], weights: tuple[float, ...]) -> TileWork:
    """TileWork of a head drawn by weight: the extremes are those of all, totals are rounded means."""
    shares = [weight / math.fsum(weights) for weight in weights]
    visited, full = (np.concatenate([getattr(work, name) for work in works]) for name in ("visited", "full"))
    count = np.concatenate([work.count * share for work, share in zip(works, shares, strict=True)])
    columns = binned(visited, full, count)

    def mean(name: str) -> int:
        return round(math.fsum(getattr(work, name) * share for work, share in zip(works, shares, strict=True)))

    return replace(
        works[0],
        visited=columns[0][::-1],
        full=columns[1][::-1],
        count=columns[2][::-1],
        visited_total=mean("visited_total"),
        full_total=mean("full_total"),
        pairs=mean("pairs"),
        visited_max=max(work.visited_max for work in works),
        visited_min=min(work.visited_min for work in works),
    )


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


def _outer(a: Columns, b: Columns) -> Columns:
    """Every class of one set of axes with every class of another axis."""
    if a[0].size * b[0].size > MAX_CLASSES**2 // 4:
        a, b = binned(*a), binned(*b)
    visited, full, count = ((x[:, None] * y).ravel() for x, y in zip(a, b, strict=True))
    return visited, full, count


def binned(visited: Floats, full: Floats, count: Floats, most: int = MAX_CLASSES) -> Columns:
    """Sort classes by visited, rising, and merge neighbours until at most ``most`` are left; sums are kept.

    The class with most work is never merged into a smaller one, since it decides the tail of the schedule.
    """
    visited, full, count = _binned_rows(np.stack([visited, full, count], axis=1), most).T
    return visited, full, count


def _binned_rows(table: Floats, most: int) -> Floats:
    """Rows whose last column is a count, sorted by the first, neighbours merged into their means; the last row is kept."""
    table = table[np.argsort(table[:, 0], kind="stable")]
    if table.shape[0] <= most:
        return table
    count = table[:, -1]
    cumulative = np.cumsum(count[:-1])
    label = np.minimum((cumulative - count[:-1]) * (most - 1) // cumulative[-1], most - 2)
    starts = np.append(np.flatnonzero(np.diff(label, prepend=-1.0)), count.size - 1)
    merged = np.add.reduceat(table * count[:, None], starts, axis=0)
    merged[:, -1] = np.add.reduceat(count, starts)
    merged[:, :-1] /= merged[:, -1:]
    return merged
