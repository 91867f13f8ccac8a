"""Patterns chosen at run time, by what is known before: how many keys a row keeps, in blocks of what size, how evenly,
and what choosing costs. A measured block map replaces these statistics where there is one.

TileWork of these is an expectation, not a count. Where the tile is not the block: blocks kept by a row are spread at
random over the keys it may see, and a share ``alike`` of what neighbouring rows keep is the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...errors import InputError
from ..tiles import Floats, Ints, KvTiling, TileWork, binned
from ..workload import DTYPE_BYTES, Grid, Workload
from .base import SelectionCost
from .spec import Described, Group, flag, number, parameter

LEVELS = 8  # rows of equal probability that stand for the spread between rows and heads

if TYPE_CHECKING:
    from ..masks import Mask, StoredMask


def _path(text: str, key: str) -> str:
    """A file's path; read when the pattern is first asked for its tiles."""
    return text


@lru_cache(maxsize=16)
def _measured(path: str) -> Mask | StoredMask:
    from ..masks import read_mask  # here, not above: expectations need no block maps

    if not path.lower().endswith((".npz", ".pt", ".pth")):
        raise InputError(f"map {path!r} is no block map: expected a .npz file, or a BlockMask saved by PyTorch (.pt)")
    return read_mask(path)


@dataclass(frozen=True)
class Dynamic(Described, ABC):
    """Base: a row of ``q_block`` queries keeps blocks of ``k_block`` keys.

    Class attributes: q_block, k_block where a subclass has no parameter for them; gathered: kept keys are copied
    side by side, so that tiles are filled however scattered they lie.
    """

    group: ClassVar[Group] = "dynamic"
    gathered: ClassVar[bool] = False

    causal: bool = parameter("1: no later keys", flag, True)
    spread: float = parameter("standard deviation over mean of what rows and heads keep", number(0, 10, 0.5), 0.0)
    alike: float = parameter("share of what a row keeps that its neighbours keep too", number(0, 1, 0.5), 1.0)
    map: str = parameter(
        "measured block map (.npz, or a BlockMask saved by PyTorch) in place of expectations", _path, ""
    )

    @abstractmethod
    def blocks(self, workload: Workload) -> tuple[int, int]:
        """Tokens of a Q and of a KV block of the choice."""

    @abstractmethod
    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """Mean number of keys kept by rows that may see so many keys; at most that many."""

    @abstractmethod
    def selection(self, workload: Workload) -> SelectionCost:
        """What choosing costs in this call."""

    def check(self, workload: Workload) -> None:
        """Every workload fits, unless a measured map says for which it was measured (InputError)."""
        if self.map:
            _measured(self.map).check(workload)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should hear about a measured map."""
        return _measured(self.map).notes if self.map else ()

    def tile_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid, tiling: KvTiling = "static") -> TileWork:
        """Expected TileWork, or that of the measured map; KV tiles are aligned to key 0 whatever ``tiling`` says."""
        if self.map:
            return _measured(self.map).tile_work(workload, q_tile, kv_tile, tiling)
        return _expected(self, workload, math.prod(q_tile), math.prod(kv_tile))


@lru_cache(maxsize=256)
def _expected(pattern: Dynamic, workload: Workload, tile_q: int, tile_kv: int) -> TileWork:
    queries, keys = workload.tokens, workload.kv_tokens
    q_block, k_block = pattern.blocks(workload)
    begin = np.arange(0, queries, tile_q)
    size = np.minimum(tile_q, queries - begin)
    # A row of blocks sees what its last query sees; a Q tile that is larger than a block, what its last row sees.
    last = np.minimum((begin + size - 1) // q_block * q_block + q_block, queries) if tile_q < q_block else begin + size
    seen = np.clip(last + keys - queries, 0, keys).astype(float) if pattern.causal else np.full(begin.size, float(keys))
    own = np.clip(begin + size + keys - queries, 0, keys).astype(float) if pattern.causal else seen
    level = _levels(pattern.spread)
    kept = _spread(np.minimum(pattern.kept(seen, workload), seen), seen, level)
    pairs = float((_pairs_of_rows(pattern, workload, begin, size)).sum())
    rows = max(1.0, tile_q / q_block)
    union = _union(kept, seen[:, None], rows, pattern.alike)
    tiles_seen = np.ceil(own / tile_kv)[:, None]
    visited, full = _tiles(pattern.gathered, union, np.maximum(seen, 1.0)[:, None], tiles_seen, k_block, tile_kv)
    if pattern.causal:
        # The tiles on the diagonal are masked, whatever is kept of them.
        full = np.minimum(full, np.maximum(visited - np.ceil(tile_q / tile_kv), 0.0))
    visited, full = np.broadcast_arrays(visited, full)
    count = np.full(visited.shape, 1.0 / level.size)
    flat = np.stack([np.round(visited, 6).ravel(), np.round(full, 6).ravel()])
    values, where = np.unique(flat, axis=1, return_inverse=True)
    weights: Floats = np.bincount(where.ravel(), weights=count.ravel()).astype(float)
    rising = binned(values[0], values[1], weights)
    return TileWork(
        visited=rising[0][::-1],
        full=rising[1][::-1],
        count=rising[2][::-1],
        q_tiles=begin.size,
        visited_total=round(float((visited * count).sum())),
        full_total=round(float((full * count).sum())),
        visited_max=math.ceil(visited.max()),
        visited_min=math.floor(visited.min()),
        dense_q_tiles=begin.size,
        dense_kv_tiles=-(-keys // tile_kv),
        pairs=round(pairs),
        dense_pairs=queries * keys,
    )


def _pairs_of_rows(pattern: Dynamic, workload: Workload, begin: Ints, size: Ints) -> Floats:
    """Kept pairs of each Q tile: each query's share of what its row keeps, at most what it may see itself."""
    middle = begin + (size + 1) / 2 + workload.kv_tokens - workload.tokens
    seen = np.clip(middle, 0, workload.kv_tokens) if pattern.causal else np.full(begin.size, float(workload.kv_tokens))
    return np.asarray(np.minimum(pattern.kept(seen, workload), seen) * size)


def _levels(spread: float) -> Floats:
    """Relative sizes of rows of equal probability: a log-normal of mean 1."""
    if spread == 0:
        return np.ones(1)
    sigma = math.sqrt(math.log1p(spread**2))
    quantiles = [NormalDist().inv_cdf((level + 0.5) / LEVELS) for level in range(LEVELS)]
    sizes = np.exp(sigma * np.array(quantiles))
    return np.asarray(sizes / sizes.mean())


def _spread(mean: Floats, limit: Floats, level: Floats) -> Floats:
    """What each level keeps, at most the limit, with the mean kept as it is: shape (rows, levels)."""
    kept = np.minimum(mean[:, None] * level, limit[:, None])
    for _ in range(LEVELS):  # what the limit cuts off goes to the rows below it
        lost = mean - kept.mean(axis=1)
        room = limit[:, None] - kept
        total = np.maximum(room.sum(axis=1), 1e-9)
        kept = kept + room * np.minimum(lost * level.size / total, 1.0)[:, None]
    return np.asarray(kept)


def _union(kept: Floats, seen: Floats, rows: float, alike: float) -> Floats:
    """Keys that some of ``rows`` rows keeps: a shared part, the rest independent of each other."""
    shared = alike * kept
    rest = np.maximum(seen - shared, 1e-9)
    chance = np.clip((kept - shared) / rest, 0.0, 1.0)
    return np.asarray(shared + rest * (1.0 - (1.0 - chance) ** rows))


def _tiles(
    gathered: bool, kept: Floats, seen: Floats, tiles_seen: Floats, k_block: int, tile: int
) -> tuple[Floats, Floats]:
    """Tiles touched and tiles filled by kept keys in blocks, of the tiles a row may see."""
    whole_tiles = np.maximum(seen / tile, 1e-9)
    share = np.minimum(kept / seen, 1.0)
    if gathered:
        visited = kept / tile
        full = np.floor(visited)
    elif tile <= k_block:
        # A block of B keys touches (B + T - gcd(B, T)) / T tiles on average.
        blocks = kept / k_block
        visited = blocks * (k_block + tile - math.gcd(k_block, tile)) / tile
        full = blocks * max(0.0, k_block // tile - (0 if k_block % tile == 0 else 1))
    else:
        several = tile / k_block
        visited = whole_tiles * (1.0 - (1.0 - share) ** several)
        full = whole_tiles * share**several
    visited = np.clip(np.where(kept > 0, np.maximum(visited, 1.0), 0.0), 0.0, tiles_seen)
    visited = np.where(share >= 1.0, tiles_seen, visited)
    full = np.where(share >= 1.0, tiles_seen, full)
    return visited, np.minimum(full, visited)


# --- costs that several mechanisms share -----------------------------------------------------------------------------


def element_bytes(workload: Workload) -> float:
    """Bytes of one element of Q, K and V."""
    return DTYPE_BYTES[workload.dtype]


def pooled_scores(workload: Workload, q_block: int, k_block: int) -> SelectionCost:
    """Mean-pool Q and K to blocks, score every pair of blocks, keep some per row.

    Two pooling kernels read Q and K and write the means; a product and softmax writes fp32 scores; a sort reads them and
    writes a block index each: 4 kernels. Block pairs of later keys are scored too, as the codes at hand do.
    """
    w = workload
    q_blocks, k_blocks = -(-w.tokens // q_block), -(-w.kv_tokens // k_block)
    read = (w.tokens * w.heads + w.kv_tokens * w.kv_heads) * w.head_dim * element_bytes(w)
    means = (q_blocks * w.heads + k_blocks * w.kv_heads) * w.head_dim * element_bytes(w)
    scores = q_blocks * k_blocks * w.heads
    flops = 2.0 * scores * w.head_dim
    return SelectionCost(w.batch * flops, w.batch * (read + 2.0 * means + scores * (4.0 + 4.0 + 4.0)), 4)


def query_scores(workload: Workload, per_query: Floats | float, kernels: int = 2) -> SelectionCost:
    """Every query scores so many representatives (one number per query, or their mean), then keeps some of them.

    Bytes: Q once, the representatives once per KV head, fp32 scores written and read.
    """
    w = workload
    scores = float(np.mean(per_query)) * w.tokens * w.heads
    most = float(np.max(per_query))
    read = (w.tokens * w.heads + most * w.kv_heads) * w.head_dim * element_bytes(w)
    return SelectionCost(w.batch * 2.0 * scores * w.head_dim, w.batch * (read + 8.0 * scores), kernels)


def available(workload: Workload, causal: bool) -> Floats:
    """Keys that each query may see."""
    if not causal:
        return np.full(workload.tokens, float(workload.kv_tokens))
    position = np.arange(1, workload.tokens + 1, dtype=float) + workload.kv_tokens - workload.tokens
    return np.asarray(np.maximum(position, 0.0))
