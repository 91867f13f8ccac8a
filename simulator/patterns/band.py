"""Dense, causal and sliding-window attention: a band around the diagonal of the flattened token sequence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..tiles import CHUNK, AxisWork, Ints, KvTiling, TileWork, axis_work_of, between, product, with_tested
from ..workload import Grid, Workload
from .base import PatternBase

if TYPE_CHECKING:
    from .engine import Rule

UNLIMITED = 2**40  # wider than any sequence, and far from the limits of int64


@dataclass(frozen=True)
class Band(PatternBase):
    """Query at position p attends the keys in [p - left, p + right]: both ends inclusive, as flash-attn's window_size.

    Positions are aligned at the end (bottom right): the last query sits at the last key, so that tokens already
    cached come first. ``left`` or ``right`` of ``UNLIMITED`` means no limit on that side.
    """

    left: int = UNLIMITED
    right: int = UNLIMITED

    @property
    def family(self) -> str:
        """What kernels call this kind of pattern."""
        return "band"

    @property
    def axes(self) -> int:
        """Coordinates that a masked tile has to look at: the flattened sequence has one."""
        return 1

    @property
    def tile_axes(self) -> int:
        """Tiles lie along the flattened sequence."""
        return 1

    def __str__(self) -> str:
        if self.left >= UNLIMITED:
            if self.right >= UNLIMITED:
                return "dense"
            if self.right == 0:
                return "causal"
        left, right = (-1 if side >= UNLIMITED else side for side in (self.left, self.right))
        return f"window left={left} right={right}"

    def check(self, workload: Workload) -> None:
        """Every band fits every workload."""

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept, for pictures and for unions with other patterns."""
        from .engine import Piece, Pieces, plain  # here, not above: a band's own counts need no engine
        from .relations import Interval

        keys = workload.kv_tokens
        p = np.arange(workload.tokens) + keys - workload.tokens
        start, end = np.clip(p - self.left, 0, keys), np.clip(p + self.right + 1, 0, keys)
        return Pieces(*plain(workload), (Piece((Interval(0, start, np.maximum(start, end)),)),))

    def tile_work(
        self,
        workload: Workload,
        q_tile: Grid,
        kv_tile: Grid,
        tiling: KvTiling = "static",
        packed: int = 1,
        empty_rows: bool = False,
    ) -> TileWork:
        """Exact TileWork on the flattened sequence; a tile of several axes counts as its number of tokens.

        ``packed`` query heads that share keys lie beside each other: a Q tile of R rows holds R / packed tokens, and the
        counts are those of the packed heads together. Where ``empty_rows``, a Q tile visits the KV tiles of its rows beyond the
        last query as well, as far as the diagonal bounds them.
        """
        tile_q, tile_kv = math.prod(q_tile), math.prod(kv_tile)
        queries, keys = workload.tokens, workload.kv_tokens
        axis = band_work(queries, keys, self.left, self.right, tile_q, tile_kv, tiling, packed)
        if empty_rows and self.right < UNLIMITED:
            empty = -(queries * packed) % tile_q // packed
            whole = band_work(queries + empty, keys + empty, self.left, self.right, tile_q, tile_kv, tiling, packed)
            axis = replace(whole, pairs=axis.pairs, starts=axis.starts)
        return product([axis], -(-queries * packed // tile_q), -(-keys // tile_kv), queries * keys)

    def tested_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid) -> TileWork:
        """Exact TileWork of a kernel that walks from key 0 and looks at each KV tile to learn whether the window holds it."""
        tile_q, tile_kv = math.prod(q_tile), math.prod(kv_tile)
        queries, keys = workload.tokens, workload.kv_tokens
        work = self.tile_work(workload, q_tile, kv_tile)
        chunks = zip(
            _band_chunks(queries, keys, self.left, self.right, tile_q, tile_kv, "static", 1),
            _band_chunks(queries, keys, UNLIMITED, self.right, tile_q, tile_kv, "static", 1),
            strict=True,
        )
        return with_tested(work, ((visited, full, walked - visited) for (visited, full), (walked, _) in chunks))


def band_pairs(queries: int, keys: int, left: int, right: int) -> int:
    """Query-key pairs of a band, in closed form.

    Counts sum over p of [min(keys, p+right+1) - max(0, p-left)]+ for p = i + keys - queries.
    """
    first = keys - queries  # position of query 0
    last = keys - 1
    # f(x) = sum over positions p of the pairs (p, k) with k <= p + x and 0 <= k < keys.
    return _below(first, last, right, keys) - _below(first, last, -left - 1, keys)


def _below(first: int, last: int, shift: int, keys: int) -> int:
    """Sum over p in [first, last] of clamp(p + shift + 1, 0, keys)."""
    low, high = first + shift + 1, last + shift + 1  # consecutive values before clamping
    begin, end = max(low, 0), min(high, keys)
    ramp = (begin + end) * (end - begin + 1) // 2 if end >= begin else 0
    return ramp + keys * (high - max(low, keys + 1) + 1 if high > keys else 0)


@lru_cache(maxsize=4096)
def band_work(
    queries: int,
    keys: int,
    left: int,
    right: int,
    tile_q: int,
    tile_kv: int,
    tiling: KvTiling = "static",
    packed: int = 1,
) -> AxisWork:
    """Exact work of a band; static tiles are aligned to key 0, dynamic ones to the first key a Q tile needs."""
    pairs = band_pairs(queries, keys, left, right)
    if (
        left >= keys - 1 and right >= queries - 1
    ):  # no query is without a key: every Q tile visits all, and all are full
        q_tiles, each = -(-queries * packed // tile_q), -(-keys // tile_kv)
        visited, count = np.array([float(each)]), np.array([float(q_tiles)])
        return AxisWork(visited, visited, count, q_tiles, q_tiles * each, q_tiles * each, each, each, pairs)
    chunks = _band_chunks(queries, keys, left, right, tile_q, tile_kv, tiling, packed)
    sizes = np.array([queries, keys, left, tile_q, tile_kv, packed], dtype=np.int64)
    starts = int(band_starts(*sizes[:, None])[0])
    return axis_work_of(((*chunk, 1) for chunk in chunks), pairs, starts)


def band_starts(queries: Ints, keys: Ints, left: Ints, tile_q: Ints, tile_kv: Ints, packed: Ints | int = 1) -> Ints:
    """KV tiles, aligned to key 0, that hold the first key of some Q tile, each once; all arguments broadcast.

    First keys rise by as many tokens as a Q tile has, from where the window leaves key 0: steps that are no longer than a KV
    tile leave none out, longer ones meet none twice.
    """
    q_tiles = -(-queries * packed // tile_q)
    shift = keys - queries - left
    last = between((q_tiles - 1) * tile_q // packed + shift, 0, keys) // tile_kv
    first = between(shift, 0, keys) // tile_kv
    # Q tiles of which the first key lies in the first KV tile
    same = between((packed * ((first + 1) * tile_kv - shift) - 1) // tile_q + 1, 1, q_tiles)
    found: Ints = np.where(tile_q <= tile_kv * packed, last - first + 1, q_tiles - same + 1)
    return found


def _band_chunks(
    queries: int, keys: int, left: int, right: int, tile_q: int, tile_kv: int, tiling: KvTiling, packed: int
) -> Iterator[tuple[Ints, Ints]]:
    rows = queries * packed
    q_tiles = -(-rows // tile_q)
    for begin in range(0, q_tiles, CHUNK):
        row = np.arange(begin, min(begin + CHUNK, q_tiles)) * tile_q
        q0, q1 = row // packed, (np.minimum(row + tile_q, rows) - 1) // packed
        yield band_tiles(q0, q1, queries, keys, left, right, tile_kv, tiling)


def band_tiles(
    q0: Ints, q1: Ints, queries: Ints | int, keys: Ints | int, left: Ints | int, right: Ints | int,
    tile_kv: Ints | int, tiling: KvTiling = "static",
) -> tuple[Ints, Ints]:  # fmt: skip
    """KV tiles visited, and of those full, by Q tiles [q0, q1]; all arguments broadcast."""
    shift: Ints = np.asarray(keys, dtype=np.int64) - queries
    p0, p1 = q0 + shift, q1 + shift
    union_start, union_end = between(p0 - left, 0, keys), between(p1 + right + 1, 0, keys)
    common_start, common_end = between(p1 - left, 0, keys), between(p0 + right + 1, 0, keys)
    origin, axis_end = (0, keys) if tiling == "static" else (union_start, union_end)
    visited = np.where(
        union_end > union_start, -((origin - union_end) // tile_kv) - (union_start - origin) // tile_kv, 0
    )
    first_full = -((origin - common_start) // tile_kv)
    room = common_end - origin
    last_full = np.where(common_end >= axis_end, -(-room // tile_kv), room // tile_kv)
    # A Q tile with a query that attends nothing has no full tile.
    full = np.where(common_end > common_start, np.maximum(last_full - first_full, 0), 0)
    return visited, np.minimum(full, visited)
