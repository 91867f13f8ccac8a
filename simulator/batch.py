"""Many calls at once: arrays of shapes in, ``Calls`` out. A sweep is one call of ``forecast``, not a loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .calls import PER_CALL, PER_CLASS, Calls
from .patterns.band import band_tiles
from .schedule import class_counts
from .tiles import Floats, Ints, binned

# Q tiles looked at for each call; beyond it evenly spaced ones stand for their neighbours.
MAX_TILES_PER_CALL = 1024
# Classes kept for each call: a schedule needs no finer distribution. Sums stay exact.
MAX_CLASSES_PER_CALL = 32


def band_classes(
    queries: Ints, keys: Ints, left: Ints, right: Ints, tile_q: Ints, tile_kv: Ints, packed: Ints | int = 1
) -> tuple[Floats, Floats, Floats, Ints]:
    """Work classes of many bands (dense, causal, window), shape (calls,) each; ``packed`` as in ``Band.tile_work``.

    Returns:
        visited, full, count: flat, one call after the other, longest first; row: index of each call's first class.

    Neighbouring classes are merged until ``MAX_CLASSES_PER_CALL`` are left; sums and the longest class are kept. Calls
    with more than ``MAX_TILES_PER_CALL`` Q tiles are counted on evenly spaced ones (a single prediction counts all).
    """
    columns = [c.astype(np.int64) for c in np.broadcast_arrays(queries, keys, left, right, tile_q, tile_kv, packed)]
    first, inverse = _distinct(columns)
    visited, full, count, row = _unique_band_classes(*(column[first] for column in columns))
    sizes = np.diff(row, append=visited.size)
    wanted = sizes[inverse]
    begin = np.concatenate(([0], np.cumsum(wanted)[:-1]))
    index = np.repeat(row[inverse] - begin, wanted) + np.arange(int(wanted.sum()))
    return visited[index], full[index], count[index], begin


def _distinct(columns: list[Ints]) -> tuple[Ints, Ints]:
    """Index of one row of each kind, and for each row its kind. Columns have few distinct values: coding is fast."""
    code = np.zeros_like(columns[0])
    for column in columns:
        values, inverse = np.unique(column, return_inverse=True)
        # Renumbering after each column keeps codes small however many columns there are.
        code = np.unique(code * values.size + inverse, return_inverse=True)[1]
    return np.unique(code, return_index=True)[1], code


def _unique_band_classes(
    queries: Ints, keys: Ints, left: Ints, right: Ints, tile_q: Ints, tile_kv: Ints, packed: Ints
) -> tuple[Floats, Floats, Floats, Ints]:
    rows = queries * packed
    q_tiles = -(-rows // tile_q)
    kept = np.minimum(q_tiles, MAX_TILES_PER_CALL)
    row = np.concatenate(([0], np.cumsum(kept)[:-1]))
    owner = np.repeat(np.arange(kept.size), kept)
    position = np.arange(owner.size) - row[owner]
    # The Q tiles [first, last) that a kept one stands for.
    first = position * q_tiles[owner] // kept[owner]
    last = (position + 1) * q_tiles[owner] // kept[owner]
    row0 = (first + last - 1) // 2 * tile_q[owner]
    q0, q1 = row0 // packed[owner], (np.minimum(row0 + tile_q[owner], rows[owner]) - 1) // packed[owner]
    visited, full = band_tiles(q0, q1, queries[owner], keys[owner], left[owner], right[owner], tile_kv[owner])
    weight = (last - first).astype(float)
    ends = np.append(row[1:], owner.size)
    merged = [
        binned(visited[s:e].astype(float), full[s:e].astype(float), weight[s:e], MAX_CLASSES_PER_CALL)
        for s, e in zip(row, ends, strict=True)
    ]
    sizes = np.array([columns[0].size for columns in merged])
    v, f, n = (np.concatenate([columns[i][::-1] for columns in merged]) for i in range(3))
    return v, f, n, np.concatenate(([0], np.cumsum(sizes)[:-1]))


def stack(calls: list[Calls]) -> Calls:
    """Many calls as one; their order is kept."""
    columns = {name: np.concatenate([getattr(call, name) for call in calls]) for name in (*PER_CALL, *PER_CLASS)}
    begin = np.cumsum([0, *(call.visited.size for call in calls[:-1])])
    row = np.concatenate([call.row + offset for call, offset in zip(calls, begin, strict=True)])
    return Calls(**columns, row=row)


def some(calls: Calls, wanted: NDArray[np.bool_]) -> Calls:
    """Some of the calls, shape (calls,) of ``wanted``; their order is kept."""
    sizes = class_counts(calls.row, calls.visited.size)
    classes = np.repeat(wanted, sizes)
    columns = {name: getattr(calls, name)[wanted] for name in PER_CALL}
    columns |= {name: getattr(calls, name)[classes] for name in PER_CLASS}
    kept = sizes[wanted]
    return Calls(**columns, row=np.cumsum(kept) - kept)
