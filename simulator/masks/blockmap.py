"""BlockMap: which KV blocks each Q block reads, and which of those need no mask; held as runs, never N^2.

Blocks are PyTorch's: a block that reaches past the end of the queries or keys is padded with pairs that are not kept,
so it is never full, only partial or empty. `create_block_mask` does the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..tiles import Ints, TileWork, from_rows
from .graph import Array

EMPTY: Final = 0
PARTIAL: Final = 1
FULL: Final = 2
STRIP: Final = 1 << 22  # blocks of a map that are spread out at once
DENSE_LIMIT: Final = 1 << 28  # blocks that `to_dense` and `to_block_mask` agree to write


@dataclass(frozen=True)
class Runs:
    """Rows of one map: the blocks ``start:stop`` of a row are all full, or all partial; what is not named is empty.

    ``pointer[i]:pointer[i + 1]`` are the runs of row i, from left to right; neighbouring runs of one kind are one run.
    """

    pointer: Ints
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    full: NDArray[np.bool_]

    @property
    def rows(self) -> int:
        """Q blocks."""
        return self.pointer.size - 1

    def totals(self) -> tuple[Ints, Ints]:
        """Blocks read and full blocks of each row."""
        length = (self.stop - self.start).astype(np.int64)
        sums = np.concatenate([[0], np.cumsum(length)])
        fulls = np.concatenate([[0], np.cumsum(length * self.full)])
        ends, begins = self.pointer[1:], self.pointer[:-1]
        return sums[ends] - sums[begins], fulls[ends] - fulls[begins]

    def dense(self, first: int, last: int, columns: int) -> NDArray[np.int8]:
        """Rows first..last-1 as an array of EMPTY, PARTIAL and FULL."""
        begin, end = int(self.pointer[first]), int(self.pointer[last])
        kind = np.where(self.full[begin:end], FULL, PARTIAL)
        row = np.repeat(np.arange(last - first), np.diff(self.pointer[first : last + 1]))
        steps = np.zeros((last - first) * (columns + 1), dtype=np.int8)
        np.add.at(steps, row * (columns + 1) + self.start[begin:end], kind.astype(np.int8))
        np.add.at(steps, row * (columns + 1) + self.stop[begin:end], -kind.astype(np.int8))
        return np.cumsum(steps.reshape(last - first, columns + 1), axis=1, dtype=np.int8)[:, :columns]


def make_runs(row: Ints, start: Ints, stop: Ints, full: NDArray[np.bool_], rows: int) -> Runs:
    """Runs from pieces in any order that do not overlap."""
    order = np.lexsort((start, row))
    row, start, stop, full = row[order], start[order], stop[order], full[order]
    first = np.ones(row.size, dtype=bool)
    first[1:] = (row[1:] != row[:-1]) | (start[1:] != stop[:-1]) | (full[1:] != full[:-1])
    begin = np.flatnonzero(first)
    end = np.append(begin[1:], row.size) - 1 if row.size else begin
    pointer = np.searchsorted(row[begin], np.arange(rows + 1))
    return Runs(pointer.astype(np.int64), start[begin].astype(np.int32), stop[end].astype(np.int32), full[begin])


def dense_runs(blocks: NDArray[np.int8]) -> Runs:
    """Runs of an array (rows, columns) of EMPTY, PARTIAL and FULL."""
    padded = np.pad(blocks, ((0, 0), (1, 1)))
    changes = np.diff(padded, axis=1) != 0
    row, column = np.nonzero(changes)
    kind = padded[row, column + 1]
    keep = kind != EMPTY
    after = np.append(column[1:], 0)  # a run that is not empty ends at the next change of its row
    return make_runs(row[keep], column[keep], after[keep], kind[keep] == FULL, blocks.shape[0])


def join(parts: list[Runs]) -> Runs:
    """Rows of several maps, one below the other."""
    offsets = np.cumsum([0, *(part.start.size for part in parts)])
    pointers = [part.pointer[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("start", "stop", "full"))
    return Runs(np.concatenate([*pointers, offsets[-1:]]), *columns)


@dataclass(frozen=True)
class BlockMap:
    """Full and partial blocks of a mask.

    Attributes:
        q_len, kv_len: tokens. q_block, kv_block: tokens of a block (FlexAttention's BLOCK_SIZE).
        maps: one for each batch and head that differ, in row-major order of ``shape``.
        shape: (batches, heads); 1 where the mask does not depend on it.
        pairs: query-key pairs kept, over all maps.
        exact: False when ``pairs`` is an upper bound, since the file did not say what partial blocks keep.
        decided: how blocks were decided: "region" by intervals on many blocks at once, "block" by intervals on the
            block, "alike" as another block of the same contents, "pairs" by looking at every pair.
    """

    q_len: int
    kv_len: int
    q_block: int
    kv_block: int
    maps: tuple[Runs, ...]
    shape: tuple[int, int]
    pairs: int
    exact: bool = True
    decided: Mapping[str, int] = field(default_factory=dict)

    @property
    def q_blocks(self) -> int:
        """Q blocks of one map."""
        return -(-self.q_len // self.q_block)

    @property
    def kv_blocks(self) -> int:
        """KV blocks of one map."""
        return -(-self.kv_len // self.kv_block)

    @property
    def sparsity(self) -> float:
        """Share of blocks that are not read, 0 to 1."""
        read = sum(int(runs.totals()[0].sum()) for runs in self.maps)
        return 1.0 - read / (self.q_blocks * self.kv_blocks * len(self.maps))

    def tile_work(self) -> TileWork:
        """TileWork with one tile for each block.

        With several maps, totals are over all of them, and ``count`` is Q tiles per map, so that the counts of an
        average head add up to its Q tiles.
        """
        totals = [runs.totals() for runs in self.maps]
        visited, full = (np.concatenate([total[i] for total in totals]) for i in range(2))
        maps = len(self.maps)
        work = from_rows(visited, full, self.kv_blocks, self.pairs, self.q_len * self.kv_len * maps)
        return work if maps == 1 else replace(work, count=work.count / maps)

    def retile(self, q_tile: int, kv_tile: int) -> BlockMap:
        """The map on other tiles, from the blocks alone.

        A tile that is smaller than a block takes after it: partial or full, as FlexAttention's kernels treat it. A
        larger one is full when all its blocks are full, empty when all are empty, partial otherwise.

        Raises:
            InputError: tile and block do not divide one another.
        """
        for tile, block, what in ((q_tile, self.q_block, "q"), (kv_tile, self.kv_block, "kv")):
            if tile % block and block % tile:
                raise InputError(
                    f"{what} tile {tile} does not fit the block map's {what} blocks of {block}: "
                    "expected a divisor or a multiple"
                )
        if (q_tile, kv_tile) == (self.q_block, self.kv_block):
            return self
        rows, columns = -(-self.q_len // q_tile), -(-self.kv_len // kv_tile)
        maps = tuple(self._retile(runs, q_tile, kv_tile, rows, columns) for runs in self.maps)
        return replace(self, q_block=q_tile, kv_block=kv_tile, maps=maps, decided={})

    def _retile(self, runs: Runs, q_tile: int, kv_tile: int, rows: int, columns: int) -> Runs:
        """Strip by strip: of memory, only what a strip of the finer of both maps takes."""
        down, across = max(1, q_tile // self.q_block), max(1, kv_tile // self.kv_block)
        repeat_q, repeat_kv = max(1, self.q_block // q_tile), max(1, self.kv_block // kv_tile)
        strip = max(1, STRIP // (self.kv_blocks * down))
        parts = []
        for first in range(0, -(-self.q_blocks // down), strip):
            begin, end = first * down, min((first + strip) * down, self.q_blocks)
            blocks = runs.dense(begin, end, self.kv_blocks)
            tiles = _combine(blocks, down, across)
            parts.append(_refine(dense_runs(tiles), repeat_q, repeat_kv, columns))
        joined = join(parts)
        pointer = joined.pointer[: rows + 1]
        return Runs(pointer, *(getattr(joined, name)[: pointer[-1]] for name in ("start", "stop", "full")))

    def to_dense(self) -> NDArray[np.int8]:
        """EMPTY, PARTIAL or FULL for every block, shape (batches, heads, q_blocks, kv_blocks)."""
        self._check_size()
        blocks = [runs.dense(0, self.q_blocks, self.kv_blocks) for runs in self.maps]
        return np.stack(blocks).reshape(*self.shape, self.q_blocks, self.kv_blocks)

    def to_block_mask(self) -> dict[str, Any]:
        """The arguments of PyTorch's ``BlockMask.from_kv_blocks`` as int32 arrays, and BLOCK_SIZE and seq_lengths.

        ``kv_*`` holds the partial blocks only, since ``full_*`` is there; unused indices follow in rising order.
        """
        blocks = self.to_dense()
        result: dict[str, Any] = {}
        for prefix, kind in (("", PARTIAL), ("full_", FULL)):
            chosen = blocks == kind
            result[f"{prefix}kv_num_blocks"] = chosen.sum(axis=-1, dtype=np.int32)
            result[f"{prefix}kv_indices"] = np.argsort(~chosen, axis=-1, kind="stable").astype(np.int32)
        result["BLOCK_SIZE"] = (self.q_block, self.kv_block)
        result["seq_lengths"] = (self.q_len, self.kv_len)
        return result

    def _check_size(self) -> None:
        blocks = len(self.maps) * self.q_blocks * self.kv_blocks
        if blocks > DENSE_LIMIT:
            raise InputError(
                f"a block map of {blocks:,} blocks is too large to write out block by block: "
                f"expected at most {DENSE_LIMIT:,}; larger blocks make fewer of them"
            )


def _combine(blocks: NDArray[np.int8], down: int, across: int) -> NDArray[np.int8]:
    """Tiles of down x across blocks; what is missing at the end is empty, as padding is."""
    if down == across == 1:
        return blocks
    rows, columns = blocks.shape
    blocks = np.pad(blocks, ((0, -rows % down), (0, -columns % across)))
    tiles: Array = blocks.reshape(-(-rows // down), down, -(-columns // across), across)
    least, most = tiles.min(axis=(1, 3)), tiles.max(axis=(1, 3))
    return np.where(least == FULL, FULL, np.where(most > EMPTY, PARTIAL, EMPTY)).astype(np.int8)


def _refine(runs: Runs, repeat_q: int, repeat_kv: int, columns: int) -> Runs:
    """Each block cut into repeat_q x repeat_kv tiles of its kind; tiles past the last column are dropped."""
    start = np.minimum(runs.start.astype(np.int64) * repeat_kv, columns).astype(np.int32)
    stop = np.minimum(runs.stop.astype(np.int64) * repeat_kv, columns).astype(np.int32)
    if repeat_q == 1:
        return Runs(runs.pointer, start, stop, runs.full)
    length = np.repeat(np.diff(runs.pointer), repeat_q)
    pointer = np.concatenate([[0], np.cumsum(length)])
    source = np.repeat(np.repeat(runs.pointer[:-1], repeat_q) - pointer[:-1], length) + np.arange(pointer[-1])
    return Runs(pointer, start[source], stop[source], runs.full[source])


def block_area(q_len: int, kv_len: int, q_block: int, kv_block: int, blocks: NDArray[np.int8]) -> int:
    """Pairs within the lengths of the blocks of an array (..., rows, columns) that are not empty."""
    rows, columns = (math.ceil(n / size) for n, size in ((q_len, q_block), (kv_len, kv_block)))
    height = np.minimum(q_len - np.arange(rows) * q_block, q_block)
    width = np.minimum(kv_len - np.arange(columns) * kv_block, kv_block)
    return int(((blocks != EMPTY) @ width.astype(np.int64) @ height).sum())
