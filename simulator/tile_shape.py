"""The tile of one CTA as arrays: what its cycles are counted from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .tiles import Floats


def _none() -> Floats:
    return np.zeros(1)


@dataclass(frozen=True)
class TileShape:
    """The tile of one CTA, as arrays: rows of Q (packed heads included), rows that its MMA instructions take time for, keys,
    head dims, bytes per element of Q and of K and V, the number of coordinates that a token has,
    and 1 where the CTA has no other Q tile to alternate with. Head dims are those that are run; ``moved_dim`` and
    ``moved_dim_v`` those that memory moves (0: the same).

    ``threads`` and ``shared_bytes`` of the CTA, ``resident``, the CTAs that share an SM, 1 or more (each 0: not told), and
    ``mask_stall``, ``tile_stall`` and ``streams_queries`` (see tile_table). Where a CTA waits for loads also, as in Calls:
    whether it is tested for lying in a window, and what a compiler told; and the latency of the memory that keys and values
    come from.
    """

    rows: Floats
    mma_rows: Floats
    keys: Floats
    dim: Floats
    dim_v: Floats
    query_bytes: Floats
    kv_bytes: Floats
    axes: Floats
    single: Floats = field(default_factory=_none)
    threads: Floats = field(default_factory=_none)
    tests: Floats = field(default_factory=_none)
    cycles: Floats = field(default_factory=_none)
    work_cycles: Floats = field(default_factory=_none)
    test_cycles: Floats = field(default_factory=_none)
    test_work_cycles: Floats = field(default_factory=_none)
    waits: Floats = field(default_factory=_none)
    ahead: Floats = field(default_factory=_none)
    latency_s: Floats = field(default_factory=_none)
    resident: Floats = field(default_factory=_none)
    mask_stall: Floats = field(default_factory=_none)
    shared_bytes: Floats = field(default_factory=_none)
    streams_queries: Floats = field(default_factory=_none)
    moved_dim: Floats = field(default_factory=_none)
    moved_dim_v: Floats = field(default_factory=_none)
    tile_stall: Floats = field(default_factory=_none)
