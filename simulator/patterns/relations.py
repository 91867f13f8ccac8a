"""Relations between queries and keys on one axis (or two), decided on boxes: is any pair kept, are all?

Every answer is exact on boxes of consecutive coordinates, and vectorised over all pairs of boxes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..tiles import Ints
from .tokens import Boxes

Bools = NDArray[np.bool_]


class Relation(Protocol):
    """A set of pairs of coordinates. Different relations of a piece look at different axes."""

    def live(self, q: Boxes, k: Boxes) -> Bools:
        """Whether some pair of a Q box and a KV box is kept, shape (Q boxes, KV boxes)."""
        ...

    def full(self, q: Boxes, k: Boxes) -> Bools:
        """Whether all of them are."""
        ...

    def keeps(self, q: Ints, k: Ints) -> Bools:
        """Pair by pair; coordinates of shape (axes, ...), broadcast."""
        ...

    def pairs(self) -> int:
        """Pairs kept on its axes."""
        ...

    @property
    def used_axes(self) -> tuple[int, ...]:
        """Axes it looks at."""
        ...


@dataclass(frozen=True, eq=False)
class Interval:
    """Query i keeps the keys [start[i], end[i]) of an axis, and of those the ones in ``chosen``.

    Starts and ends never fall as i grows, and each interval begins before the one ahead of it has ended, so the
    first and last query of a box bound what any and what all of them keep.

    Attributes:
        start, end: within [0, keys], shape (queries,).
        first, last: only queries in [first, last) keep keys; all when last is None.
        chosen: flag per key; all keys when None.
    """

    axis: int
    start: Ints
    end: Ints
    first: int = 0
    last: int | None = None
    chosen: Bools | None = None

    @property
    def used_axes(self) -> tuple[int, ...]:
        """Axes it looks at."""
        return (self.axis,)

    @property
    def _last(self) -> int:
        return self.start.size if self.last is None else self.last

    @cached_property
    def _chosen_sums(self) -> Ints:
        return _sums(np.zeros(0, dtype=bool) if self.chosen is None else self.chosen)

    def _chosen_before(self, key: Ints) -> Ints:
        """Chosen keys before a key."""
        before: Ints = self._chosen_sums[np.minimum(key, self._chosen_sums.size - 1)]
        return before

    def _clip(self, q: Boxes) -> tuple[Ints, Ints, Bools]:
        """First and last query of each box inside [first, last), and whether there is one."""
        low, high = np.maximum(q.low[self.axis], self.first), np.minimum(q.high[self.axis], self._last - 1)
        some = low <= high
        return np.where(some, low, self.first), np.where(some, high, self.first), some

    def live(self, q: Boxes, k: Boxes) -> Bools:
        """Whether some pair is kept."""
        if self.first >= self._last:
            return np.zeros((q.low.shape[1], k.low.shape[1]), dtype=bool)
        low, high, some = self._clip(q)
        begin, end = self.start[low][:, None], np.where(some, self.end[high], 0)[:, None]
        begin = np.where(end > begin, begin, np.iinfo(np.int64).max // 2)
        k_low, k_high = k.low[self.axis][None], k.high[self.axis][None]
        if self.chosen is None:
            return np.asarray((k_low < end) & (k_high >= begin))
        left, right = np.maximum(k_low, begin), np.minimum(k_high + 1, end)
        return np.asarray((left < right) & (self._chosen_before(right) > self._chosen_before(left)))

    def full(self, q: Boxes, k: Boxes) -> Bools:
        """Whether all pairs are kept."""
        if self.first >= self._last:
            return np.zeros((q.low.shape[1], k.low.shape[1]), dtype=bool)
        low, high, some = self._clip(q)
        whole = some & (low == q.low[self.axis]) & (high == q.high[self.axis])
        begin, end = self.start[high][:, None], np.where(whole, self.end[low], 0)[:, None]
        k_low, k_high = k.low[self.axis], k.high[self.axis]
        inside = (k_low[None] >= begin) & (k_high[None] < end)
        if self.chosen is not None:
            inside &= (self._chosen_before(k_high + 1) - self._chosen_before(k_low) == k_high + 1 - k_low)[None]
        return np.asarray(inside)

    def keeps(self, q: Ints, k: Ints) -> Bools:
        """Pair by pair."""
        i, j = q[self.axis], k[self.axis]
        # Other segments share the axis numbers; their coordinates may run past this one's.
        at = np.minimum(i, self.start.size - 1)
        kept = (j >= self.start[at]) & (j < self.end[at]) & (i >= self.first) & (i < self._last)
        if self.chosen is not None:
            kept &= self.chosen[np.minimum(j, self.chosen.size - 1)]
        return np.asarray(kept)

    def runs(self) -> tuple[Ints, Ints]:
        """Start and end for every query, empty outside [first, last)."""
        i = np.arange(self.start.size)
        return self.start, np.where((i >= self.first) & (i < self._last), self.end, self.start)

    def pairs(self) -> int:
        """Pairs kept."""
        start, end = self.start[self.first : self._last], self.end[self.first : self._last]
        if self.chosen is not None:
            start, end = self._chosen_before(start), self._chosen_before(np.maximum(start, end))
        return int(np.maximum(end - start, 0).sum())


@dataclass(frozen=True, eq=False)
class _Counted(ABC):
    """A relation along one axis that counts what it keeps between two boxes."""

    axis: int

    @property
    def used_axes(self) -> tuple[int, ...]:
        """Axes it looks at."""
        return (self.axis,)

    @abstractmethod
    def _count(self, q: Boxes, k: Boxes) -> tuple[Ints, Ints]:
        """What is kept of each pair of boxes, and all there is, in any unit."""

    def live(self, q: Boxes, k: Boxes) -> Bools:
        """Whether some pair is kept."""
        return np.asarray(self._count(q, k)[0] > 0)

    def full(self, q: Boxes, k: Boxes) -> Bools:
        """Whether all pairs are kept."""
        count, size = self._count(q, k)
        return np.asarray(count == size)


@dataclass(frozen=True, eq=False)
class Shift(_Counted):
    """Kept or not by the difference alone: query i keeps key j when ``kept[i - j + keys - 1]``.

    Attributes: kept: flag per difference, from -(keys - 1) to queries - 1.
    """

    queries: int
    keys: int
    kept: Bools

    @cached_property
    def _sums(self) -> NDArray[np.int32]:
        return _sums(self.kept).astype(np.int32)

    def _count(self, q: Boxes, k: Boxes) -> tuple[Ints, Ints]:
        """Kept differences of each pair of boxes, and all of them: every one between the extremes occurs."""
        # Boxes of other segments may lie outside; what is said of them is not used.
        size, before = self.kept.size, self._sums
        low = np.clip(q.low[self.axis][:, None] - k.high[self.axis][None] + self.keys - 1, 0, size)
        high = np.clip(q.high[self.axis][:, None] - k.low[self.axis][None] + self.keys, 0, size)
        return before[high] - before[low], high - low

    def keeps(self, q: Ints, k: Ints) -> Bools:
        """Pair by pair."""
        return np.asarray(self.kept[np.clip(q[self.axis] - k[self.axis] + self.keys - 1, 0, self.kept.size - 1)])

    def pairs(self) -> int:
        """Pairs kept: difference d occurs as often as both ends fit."""
        d = np.arange(self.kept.size) - (self.keys - 1)
        often = np.minimum(self.queries, self.keys + d) - np.maximum(d, 0)
        return int(often[self.kept].sum())


@dataclass(frozen=True, eq=False)
class Table(_Counted):
    """Kept or not by blocks of an axis: any relation between a small number of blocks.

    Attributes: kept: flag per Q block and KV block. queries, keys: axis lengths. q_block, k_block: block lengths;
    the last block may be shorter.
    """

    kept: Bools
    queries: int
    keys: int
    q_block: int = 1
    k_block: int = 1

    @cached_property
    def _area(self) -> NDArray[np.int32]:
        """Kept blocks above and to the left of each corner."""
        area = np.zeros((self.kept.shape[0] + 1, self.kept.shape[1] + 1), dtype=np.int32)
        np.cumsum(self.kept, axis=0, dtype=np.int32, out=area[1:, 1:])
        for begin in range(0, area.shape[0], 256):  # in parts: a sum in place would copy the whole table
            area[begin : begin + 256] = np.cumsum(area[begin : begin + 256], axis=1)
        return area

    def _count(self, q: Boxes, k: Boxes) -> tuple[Ints, Ints]:
        (rows, columns), area = self.kept.shape, self._area
        top = np.minimum(q.low[self.axis] // self.q_block, rows)
        bottom = np.minimum(q.high[self.axis] // self.q_block + 1, rows)
        left = np.minimum(k.low[self.axis] // self.k_block, columns)
        right = np.minimum(k.high[self.axis] // self.k_block + 1, columns)
        count = area[bottom][:, right] - area[bottom][:, left] - area[top][:, right] + area[top][:, left]
        return count, (bottom - top)[:, None] * (right - left)[None]

    def keeps(self, q: Ints, k: Ints) -> Bools:
        """Pair by pair."""
        rows, columns = self.kept.shape
        i, j = q[self.axis] // self.q_block, k[self.axis] // self.k_block
        return np.asarray(self.kept[np.minimum(i, rows - 1), np.minimum(j, columns - 1)])

    def pairs(self) -> int:
        """Pairs kept."""
        area, (rows, columns) = self._area[-2:, -2:].astype(object), self.kept.shape
        last_q, last_k = self.queries - (rows - 1) * self.q_block, self.keys - (columns - 1) * self.k_block
        below, beside = area[1, 0] - area[0, 0], area[0, 1] - area[0, 0]
        inner = area[0, 0] * self.q_block * self.k_block + int(self.kept[-1, -1]) * last_q * last_k
        return int(inner + below * last_q * self.k_block + beside * self.q_block * last_k)


@dataclass(frozen=True, eq=False)
class Disc:
    """Pairs whose distance on two axes is below a radius: dy^2 + dx^2 < radius^2."""

    axes: tuple[int, int]
    lengths: tuple[int, int]
    radius: float

    @property
    def used_axes(self) -> tuple[int, ...]:
        """Axes it looks at."""
        return self.axes

    def live(self, q: Boxes, k: Boxes) -> Bools:
        """Whether some pair is kept: the nearest one."""
        total = np.zeros((q.low.shape[1], k.low.shape[1]), dtype=np.int32)
        for axis in self.axes:
            near = np.maximum(_outer(k.low[axis], q.high[axis]), -_outer(k.high[axis], q.low[axis]))
            total += np.square(np.maximum(near, 0))
        return np.asarray(total < self.radius**2)

    def full(self, q: Boxes, k: Boxes) -> Bools:
        """Whether all pairs are kept: the farthest one."""
        total = np.zeros((q.low.shape[1], k.low.shape[1]), dtype=np.int32)
        for axis in self.axes:
            total += np.square(np.maximum(_outer(k.high[axis], q.low[axis]), -_outer(k.low[axis], q.high[axis])))
        return np.asarray(total < self.radius**2)

    def keeps(self, q: Ints, k: Ints) -> Bools:
        """Pair by pair."""
        y, x = self.axes
        return np.asarray(np.square(q[y] - k[y]) + np.square(q[x] - k[x]) < self.radius**2)

    def pairs(self) -> int:
        """Pairs kept: each offset occurs as often as both ends fit."""
        rows, columns = (np.arange(-(length - 1), length) for length in self.lengths)
        fits = np.square(rows)[:, None] + np.square(columns)[None] < self.radius**2
        weights = self.lengths[0] - np.abs(rows), self.lengths[1] - np.abs(columns)
        return int(weights[0] @ (fits @ weights[1]))


def _outer(k: Ints, q: Ints) -> NDArray[np.int32]:
    """k - q of every pair, shape (q, k)."""
    return k.astype(np.int32)[None] - q.astype(np.int32)[:, None]


def _sums(flags: Bools) -> Ints:
    """Flags set before each position, shape (flags + 1,)."""
    return np.concatenate([[0], np.cumsum(flags)])
