"""From a mask's graph to its BlockMap: intervals on ever smaller rectangles, then pairs on what is left.

A map is cut into rectangles of blocks. Intervals decide a rectangle wholesale, as full or empty, or it is split. Single
blocks that intervals leave open are grouped by signature, and one block of each group is evaluated pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..tiles import Ints
from . import dense, signatures
from .blockmap import BlockMap, Runs, join, make_runs
from .graph import Graph
from .intervals import Intervals, Regions

CHUNK: Final = 1 << 14  # rectangles evaluated together: it bounds memory
STRIP_BLOCKS: Final = 1 << 20  # blocks of a strip of rows, which is finished before the next one begins
MEMO: Final = 1 << 20  # signatures remembered

# Pairs kept in n blocks: b, h, q0, k0, rows, columns -> counts. For masks whose graph does not say it all.
Counter = Callable[[Ints, Ints, Ints, Ints, int, int], Ints]


def domain(q_len: int, kv_len: int, batches: int, heads: int) -> Regions:
    """All pairs of all batches and heads as one rectangle; b and h stand for their greatest value."""
    ends = (batches - 1, heads - 1, 0, q_len - 1, 0, kv_len - 1)
    return Regions(*(np.array([end], dtype=np.int64) for end in ends))


def classify(
    graph: Graph, q_len: int, kv_len: int, q_block: int, kv_block: int, *,
    batches: int = 1, heads: int = 1, counter: Counter | None = None,
) -> BlockMap:  # fmt: skip
    """The BlockMap of a mask: exact, at any length. ``counter`` is needed when the graph is opaque or wraps.

    Raises:
        InputError: the mask indexes past the end of a table, or divides by zero.
    """
    intervals = Intervals(graph, domain(q_len, kv_len, batches, heads))
    shape = (batches if graph.depends("b") else 1, heads if graph.depends("h") else 1)
    work = _Classifier(intervals, q_len, kv_len, q_block, kv_block, counter)
    maps = tuple(work.run(b, h) for b in range(shape[0]) for h in range(shape[1]))
    return BlockMap(q_len, kv_len, q_block, kv_block, maps, shape, work.pairs, True, work.decided)


class _Classifier:
    """One mask on one block size; ``run`` for each batch and head."""

    def __init__(
        self, intervals: Intervals, q_len: int, kv_len: int, q_block: int, kv_block: int, counter: Counter | None
    ) -> None:
        self.intervals = intervals
        self.lengths, self.block = (q_len, kv_len), (q_block, kv_block)
        self.blocks = (-(-q_len // q_block), -(-kv_len // kv_block))
        self.counter = counter if counter is not None and (intervals.graph.opaque or intervals.wraps) else None
        self.pairs = 0
        self.decided = {"region": 0, "block": 0, "alike": 0, "pairs": 0}
        self._memo: dict[bytes, int] = {}

    def run(self, b: int, h: int) -> Runs:
        """Rows of one batch and head."""
        rows, columns = self.blocks
        side = 1 << max(0, (columns - 1).bit_length())
        most = 1 << (max(1, STRIP_BLOCKS // side).bit_length() - 1)  # a power of two too: it is halved
        strip = min(1 << max(0, (rows - 1).bit_length()), most)
        return join(
            [self._strip(b, h, first, min(first + strip, rows), strip, side) for first in range(0, rows, strip)]
        )

    def _strip(self, b: int, h: int, first: int, last: int, height: int, width: int) -> Runs:
        pieces: list[tuple[Ints, Ints, Ints, NDArray[np.bool_]]] = []
        start = np.array([first], dtype=np.int64)
        stack = [(start, np.zeros(1, dtype=np.int64), height, width)]
        while stack:
            row, column, height, width = stack.pop()
            if row.size > CHUNK:
                stack.append((row[CHUNK:], column[CHUNK:], height, width))
                row, column = row[:CHUNK], column[:CHUNK]
            regions = self._regions(b, h, row, column, height, width)
            every, some, ranges = self.intervals.root(regions)
            self._note("region" if height * width > 1 else "block", every | ~some, row, column, height, width)
            self._wholesale(pieces, regions, every, row, column, height, width)
            open_ = np.flatnonzero(some & ~every)
            if not open_.size:
                continue
            if height * width == 1:
                picked = [None if r is None else (_take(r[0], open_), _take(r[1], open_)) for r in ranges]
                self._leaves(pieces, regions.take(open_), picked, row[open_], column[open_])
            else:
                stack.append(self._split(row[open_], column[open_], height, width, last))
        if not pieces:
            none = np.zeros(0, dtype=np.int64)
            return make_runs(none, none, none, np.zeros(0, dtype=bool), last - first)
        joined = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        return make_runs(joined[0] - first, joined[1], joined[2], joined[3], last - first)

    def _regions(self, b: int, h: int, row: Ints, column: Ints, height: int, width: int) -> Regions:
        q0, k0 = row * self.block[0], column * self.block[1]
        q1 = np.minimum(q0 + height * self.block[0], self.lengths[0]) - 1
        k1 = np.minimum(k0 + width * self.block[1], self.lengths[1]) - 1
        return Regions(np.full_like(row, b), np.full_like(row, h), q0, q1, k0, k1)

    def _split(self, row: Ints, column: Ints, height: int, width: int, last: int) -> tuple[Ints, Ints, int, int]:
        """Halve the longer side, or both."""
        down, across = height >= width, width >= height
        if down:
            height //= 2
            row, column = np.concatenate([row, row + height]), np.concatenate([column, column])
        if across:
            width //= 2
            row, column = np.concatenate([row, row]), np.concatenate([column, column + width])
        inside = (row < last) & (column < self.blocks[1])
        return row[inside], column[inside], height, width

    def _note(self, how: str, chosen: Any, row: Ints, column: Ints, height: int, width: int) -> None:
        down = np.minimum(row[chosen] + height, self.blocks[0]) - row[chosen]
        across = np.minimum(column[chosen] + width, self.blocks[1]) - column[chosen]
        self.decided[how] += int((down * across).sum())

    def _wholesale(
        self, pieces: list[Any], regions: Regions, every: Any, row: Ints, column: Ints, height: int, width: int
    ) -> None:
        """Rectangles in which every pair is kept: full blocks, but for those that reach past an end."""
        at = np.flatnonzero(every)
        if not at.size:
            return
        area = (regions.q1 - regions.q0 + 1)[at] * (regions.k1 - regions.k0 + 1)[at]
        self.pairs += int(area.sum())
        down = np.minimum(height, self.blocks[0] - row[at])
        rows = np.repeat(row[at] - np.cumsum(down) + down, down) + np.arange(down.sum())
        start = np.repeat(column[at], down)
        stop = np.minimum(start + width, self.blocks[1])
        full = np.ones(rows.size, dtype=bool)
        if self.lengths[0] % self.block[0]:
            full &= rows < self.blocks[0] - 1
        if self.lengths[1] % self.block[1]:
            tail = np.flatnonzero(full & (stop == self.blocks[1]))
            stop[tail] -= 1
            pieces.append((rows[tail], stop[tail], stop[tail] + 1, np.zeros(tail.size, dtype=bool)))
        some = stop > start
        pieces.append((rows[some], start[some], stop[some], full[some]))

    def _leaves(self, pieces: list[Any], regions: Regions, ranges: Any, row: Ints, column: Ints) -> None:
        """Single blocks that intervals left open: counted pair by pair, once for each signature."""
        height, width = regions.q1 - regions.q0 + 1, regions.k1 - regions.k0 + 1
        kept = self._counts(regions, ranges, height, width)
        self.pairs += int(kept.sum())
        full = kept == self.block[0] * self.block[1]
        some = np.flatnonzero(kept)
        pieces.append((row[some], column[some], column[some] + 1, full[some]))

    def _counts(self, regions: Regions, ranges: Any, height: Ints, width: Ints) -> Ints:
        if self.counter is not None:
            self.decided["pairs"] += regions.size
            return self._dense(regions, height, width)
        graph = self.intervals.graph
        columns = signatures.signature(graph, self.intervals.reached, regions, ranges)
        columns = [*columns, height, width]
        first, group = signatures.group(columns, regions.size)
        keys = signatures.rows(columns, first)
        counts = np.array([self._memo.get(key, -1) for key in keys], dtype=np.int64)
        new = np.flatnonzero(counts < 0)
        index = first[new]
        counts[new] = self._dense(regions.take(index), height[index], width[index])
        if len(self._memo) + new.size > MEMO:
            self._memo.clear()
        self._memo.update(zip((keys[i] for i in new), counts[new].tolist(), strict=True))
        self.decided["pairs"] += new.size
        self.decided["alike"] += regions.size - new.size
        result: Ints = counts[group]
        return result

    def _dense(self, regions: Regions, height: Ints, width: Ints) -> Ints:
        """Count blocks pair by pair; blocks of one shape together."""
        kept = np.zeros(regions.size, dtype=np.int64)
        shapes = height * (self.block[1] + 1) + width
        for shape in np.unique(shapes):
            at = np.flatnonzero(shapes == shape)
            r = regions.take(at)
            size = int(height[at[0]]), int(width[at[0]])
            if self.counter is not None:
                kept[at] = self.counter(r.b, r.h, r.q0, r.k0, *size)
            else:
                kept[at] = dense.count(self.intervals.graph, r.b, r.h, r.q0, r.k0, *size, self.intervals.narrow)
        return kept


def _take(array: Any, index: Ints) -> Any:
    return array if array.size == 1 else array[index]
