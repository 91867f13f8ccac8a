"""Neighborhood attention on 1 to 3 axes: window, stride, dilation and causality per axis, counted exactly.

Definitions: Generalized Neighborhood Attention (arXiv 2504.16922) and NATTEN 0.21. On one axis of length L with
window w and stride s, query i follows the leader of its group of s queries:

* non-causal: leader = min(floor(i/s)*s + floor(s/2), L-1), keys [a, a+w) with a = clamp(leader - floor(w/2), 0, L-w);
* causal: leader = min(floor(i/s)*s + s-1, L-1), keys [max(leader - w + 1, 0), i].

Dilation d splits an axis into d groups (i mod d), each an axis of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ..tiles import CHUNK, AxisWork, Ints, KvTiling, TileWork, axis_work_of, product
from ..workload import Grid, Workload, grid_text
from .base import PatternBase

if TYPE_CHECKING:
    from .engine import Rule
    from .relations import Interval


def window_start(i: Ints, length: int, window: int, stride: int, causal: bool) -> Ints:
    """First key of query ``i`` on an axis (no dilation)."""
    if causal:
        leader = np.minimum(i // stride * stride + stride - 1, length - 1)
        start: Ints = np.maximum(leader - window + 1, 0)
    else:
        leader = np.minimum(i // stride * stride + stride // 2, length - 1)
        start = np.minimum(np.maximum(leader - window // 2, 0), length - window)
    return start


def _pairs(length: int, window: int, stride: int, causal: bool) -> int:
    """Query-key pairs kept on an axis."""
    if not causal:
        return length * window
    total = 0
    for begin in range(0, length, CHUNK):
        i = np.arange(begin, min(begin + CHUNK, length))
        total += int((i + 1 - window_start(i, length, window, stride, True)).sum())
    return total


def _group_chunks(
    length: int, window: int, stride: int, causal: bool, tile_q: int, tile_kv: int, tiling: KvTiling
) -> Iterator[tuple[Ints, Ints]]:
    """KV tiles visited and full by the Q tiles of one dilation group of ``length`` tokens, chunk by chunk."""
    q_tiles = -(-length // tile_q)
    for begin in range(0, q_tiles, CHUNK):
        q0 = np.arange(begin, min(begin + CHUNK, q_tiles)) * tile_q
        q1 = np.minimum(q0 + tile_q, length) - 1
        # Starts and ends never fall as i grows, so the first and last query of a tile bound its union and intersection.
        union_start = window_start(q0, length, window, stride, causal)
        common_start = window_start(q1, length, window, stride, causal)
        if causal:
            union_end, common_end = q1 + 1, q0 + 1
        else:
            union_end, common_end = common_start + window, union_start + window
        # Dynamic: the kernel starts its first KV tile at the first key it needs.
        origin = union_start if tiling == "dynamic" else 0
        axis_end = union_end if tiling == "dynamic" else length
        visited = (union_end - origin - 1) // tile_kv + 1 - (union_start - origin) // tile_kv
        first_full = (common_start - origin - 1) // tile_kv + 1
        # A last, ragged tile is full when all the keys it really has are kept.
        room = common_end - origin
        last_full = (room + np.where(common_end >= axis_end, tile_kv - 1, 0)) // tile_kv
        yield visited, np.maximum(last_full - first_full, 0)


@lru_cache(maxsize=4096)
def axis_work(
    length: int, window: int, stride: int, dilation: int, causal: bool, tile_q: int, tile_kv: int, tiling: KvTiling
) -> AxisWork:
    """Exact work along one axis, all dilation groups together.

    Static KV tiling visits ceil(b/T) - floor(a/T) tiles of the keys [a, b) that a Q tile needs; dynamic tiling starts
    its tiles at a and visits ceil((b-a)/T). Each dilation group is tiled on its own, ragged ends padded.
    """
    short, longer = divmod(length, dilation)
    groups = [(n, size) for n, size in ((longer, short + 1), (dilation - longer, short)) if n and size]
    chunks = (
        (visited, full, n)
        for n, size in groups
        for visited, full in _group_chunks(size, window, stride, causal, tile_q, tile_kv, tiling)
    )
    starts = sum(n * _starts(size, window, stride, causal, tile_q, tile_kv) for n, size in groups)
    return axis_work_of(chunks, sum(n * _pairs(size, window, stride, causal) for n, size in groups), starts)


def _starts(length: int, window: int, stride: int, causal: bool, tile_q: int, tile_kv: int) -> int:
    """KV tiles, aligned to key 0, in which the Q tiles of one dilation group begin, each once."""
    q_tiles, found, last = -(-length // tile_q), 0, -1
    for begin in range(0, q_tiles, CHUNK):
        q0 = np.arange(begin, min(begin + CHUNK, q_tiles)) * tile_q
        tiles = window_start(q0, length, window, stride, causal) // tile_kv  # never falls
        found += int(np.count_nonzero(tiles[1:] != tiles[:-1])) + int(tiles[0] != last)
        last = int(tiles[-1])
    return found


@dataclass(frozen=True)
class Neighborhood(PatternBase):
    """Neighborhood attention: the pattern of ``na window=18x24x24 stride=16x8x8 dilation=1x1x1 causal=0x0x0``.

    Attributes:
        window, stride, dilation (tokens per axis), causal (flag per axis): one entry for each axis of the grid.
        order: None when tiles lie on the grid (NATTEN's token permutation); otherwise the order of the tokens in
            memory, tiles being runs of them: "row" is FlexAttention without a permutation.
    """

    window: Grid
    stride: Grid
    dilation: Grid
    causal: tuple[bool, ...]
    order: str | None = None

    @property
    def family(self) -> str:
        """What kernels call this kind of pattern: NATTEN's own tiles, or a mask over runs of tokens."""
        return "na" if self.order is None else "mask"

    @property
    def axes(self) -> int:
        """Axes whose coordinates a masked tile has to look at."""
        return len(self.window)

    @property
    def tile_axes(self) -> int:
        """Tiles lie on the grid, where a token permutation makes them contiguous; or they are runs of tokens."""
        return len(self.window) if self.order is None else 1

    def __str__(self) -> str:
        text = f"na window={grid_text(self.window)} stride={grid_text(self.stride)}"
        if any(d > 1 for d in self.dilation):
            text += f" dilation={grid_text(self.dilation)}"
        if any(self.causal):
            text += f" causal={grid_text(tuple(map(int, self.causal)))}"
        return text if self.order is None else f"{text} order={self.order}"

    def check(self, workload: Workload) -> None:
        """Raise InputError unless the pattern fits the workload's grid."""
        if workload.grid != workload.keys:
            raise InputError(
                f"pattern '{self}' on queries {grid_text(workload.grid)!r} and keys {grid_text(workload.keys)!r}: "
                "neighborhood attention needs the same grid for both"
            )
        if len(workload.grid) != self.axes:
            raise InputError(
                f"window {grid_text(self.window)!r} has {self.axes} axes but the grid {grid_text(workload.grid)!r} "
                f"has {len(workload.grid)}: expected one window length for each axis"
            )
        for axis, (length, w, s, d) in enumerate(
            zip(workload.grid, self.window, self.stride, self.dilation, strict=True)
        ):
            if w * d > length:
                dilated = f" times dilation {d}" if d > 1 else ""
                raise InputError(
                    f"window {grid_text(self.window)!r} is larger than the grid {grid_text(workload.grid)!r} on axis {axis}: "
                    f"{w}{dilated} exceeds {length}, expected at most {length // d}"
                )
            if s > w:
                raise InputError(
                    f"stride {grid_text(self.stride)!r} is larger than the window {grid_text(self.window)!r} on axis {axis}: "
                    f"expected a stride from 1 to {w}, got {s}"
                )

    def tile_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid, tiling: KvTiling = "static") -> TileWork:
        """Exact TileWork on Q and KV tiles of the given shapes.

        Tokens per axis of the grid; with an order, tiles are runs of so many tokens, aligned whatever ``tiling`` says.
        """
        grid = workload.grid
        if self.order is not None:
            from .engine import tile_work  # here, not above: NATTEN's own tiles are counted without the engine

            return tile_work(self.rule(workload), math.prod(q_tile), math.prod(kv_tile))
        axes = [
            axis_work(length, w, s, d, c, tq, tk, tiling)
            for length, w, s, d, c, tq, tk in zip(
                grid, self.window, self.stride, self.dilation, self.causal, q_tile, kv_tile, strict=True
            )
        ]
        dense_q = dense_kv = 1
        for length, tq, tk in zip(grid, q_tile, kv_tile, strict=True):
            dense_q *= -(-length // tq)
            dense_kv *= -(-length // tk)
        return product(axes, dense_q, dense_kv, workload.tokens**2)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept, tokens in memory order (row-major when there is none)."""
        from .engine import Piece, Pieces
        from .relations import Table
        from .tokens import Segment

        layout = (Segment(workload.grid, self.order or "row"),)
        if all(d == 1 for d in self.dilation):
            return Pieces(layout, layout, (Piece(tuple(map(self._window, range(self.axes), workload.grid))),))
        # Dilation groups of an axis are its remainders; the first ones may be a token longer: pieces of their own.
        per_axis = []
        for axis, (length, d) in enumerate(zip(workload.grid, self.dilation, strict=True)):
            groups = np.arange(d)
            longer = groups < length % d
            kinds = ((-(-length // d), longer), (length // d, ~longer)) if longer.any() else ((length // d, ~longer),)
            per_axis.append(
                [
                    (self._window(axis, size, 2 * axis), Table(2 * axis + 1, np.diag(members), d, d))
                    for size, members in kinds
                    if size
                ]
            )
        pieces = (Piece(tuple(itertools.chain(*kinds))) for kinds in itertools.product(*per_axis))
        return Pieces(layout, layout, tuple(pieces), self.dilation)

    def _window(self, axis: int, length: int, at: int | None = None) -> Interval:
        """Window of every query of an axis (or of one of its dilation groups), as relation on axis ``at``."""
        from .relations import Interval

        i = np.arange(length)
        start = window_start(i, length, self.window[axis], self.stride[axis], self.causal[axis])
        end = i + 1 if self.causal[axis] else start + self.window[axis]
        return Interval(axis if at is None else at, start, end)

    def maskless(self, grid: Grid, q_tile: Grid, kv_tile: Grid) -> bool:
        """NATTEN's own predicate for leaving the element mask out; it errs on both sides, so counts never use it.

        Per axis, none causal: w = L, or s % Tq == 0 and w % Tkv == 0 and the last group's start is aligned and
        (floor(w/2) - floor(s/2)) % Tkv == 0 (or the two-group case). Source: NATTEN 0.21, fully block-sparse check.
        """
        return self.order is None and all(
            _axis_maskless(length_of_group, w, s, c, tq, tk)
            for length, w, s, d, c, tq, tk in zip(
                grid, self.window, self.stride, self.dilation, self.causal, q_tile, kv_tile, strict=True
            )
            for length_of_group in {length // d, -(-length // d)}
        )


def _axis_maskless(length: int, w: int, s: int, causal: bool, tq: int, tk: int) -> bool:
    if causal:
        return False
    if w == length:
        return True
    leader = min((length - 1) // s * s + s // 2, length - 1)
    last_start = min(max(leader - w // 2, 0), length - w)
    aligned_end = length % s == 0 or last_start % tk == 0
    half = w // 2 - s // 2
    aligned_start = half % tk == 0 or (length % tk == 0 and -(-length // s) == 2 and s + s // 2 >= length - w)
    return s % tq == 0 and w % tk == 0 and aligned_end and aligned_start
