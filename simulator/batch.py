"""Many calls at once: arrays of shapes in, ``Calls`` out. A sweep is one call of ``forecast``, not a loop."""

from __future__ import annotations

import numpy as np

from .patterns.band import band_tiles
from .tiles import Floats, Ints

# Q tiles per call that are kept as they are; beyond it neighbours are sampled, totals staying within rounding.
MAX_TILES_PER_CALL = 512


def band_classes(
    queries: Ints, keys: Ints, left: Ints, right: Ints, tile_q: Ints, tile_kv: Ints
) -> tuple[Floats, Floats, Floats, Ints]:
    """Work classes of many bands (dense, causal, window), shape (calls,) each.

    Returns:
        visited, full, count: flat, one call after the other, longest first; row: index of each call's first class.

    Calls with more Q tiles than ``MAX_TILES_PER_CALL`` are counted on evenly spaced Q tiles, each standing for its
    neighbours; a single prediction counts exactly (patterns.band).
    """
    shapes = np.stack(np.broadcast_arrays(queries, keys, left, right, tile_q, tile_kv), axis=1).astype(np.int64)
    unique, inverse = np.unique(shapes, axis=0, return_inverse=True)
    visited, full, count, row = _unique_band_classes(*unique.T)
    sizes = np.diff(row, append=visited.size)
    inverse = inverse.ravel()
    wanted = sizes[inverse]
    begin = np.concatenate(([0], np.cumsum(wanted)[:-1]))
    index = np.repeat(row[inverse] - begin, wanted) + np.arange(int(wanted.sum()))
    return visited[index], full[index], count[index], begin


def _unique_band_classes(
    queries: Ints, keys: Ints, left: Ints, right: Ints, tile_q: Ints, tile_kv: Ints
) -> tuple[Floats, Floats, Floats, Ints]:
    q_tiles = -(-queries // tile_q)
    kept = np.minimum(q_tiles, MAX_TILES_PER_CALL)
    row = np.concatenate(([0], np.cumsum(kept)[:-1]))
    owner = np.repeat(np.arange(kept.size), kept)
    position = np.arange(owner.size) - row[owner]
    # The Q tiles [first, last) that a kept one stands for.
    first = position * q_tiles[owner] // kept[owner]
    last = (position + 1) * q_tiles[owner] // kept[owner]
    q0 = (first + last - 1) // 2 * tile_q[owner]
    q1 = np.minimum(q0 + tile_q[owner], queries[owner]) - 1
    visited, full = band_tiles(q0, q1, queries[owner], keys[owner], left[owner], right[owner], tile_kv[owner])
    order = np.lexsort((-visited, owner))
    return visited[order].astype(float), full[order].astype(float), (last - first)[order].astype(float), row
