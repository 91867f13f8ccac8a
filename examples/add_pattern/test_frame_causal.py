"""Frame-causal attention equals its definition, pair by pair."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attncast import Workload, parse_pattern

from .oracle import count_tiles


@given(st.integers(1, 40), st.integers(0, 20), st.integers(1, 15), st.integers(1, 9), st.integers(1, 9))
def test_it_equals_brute_force(queries, cached, frame, q_tile, kv_tile):
    position = np.arange(queries)[:, None] + cached
    key = np.arange(queries + cached)[None, :]
    mask = key // frame <= position // frame
    visited, full = count_tiles(mask, np.arange(queries) // q_tile, np.arange(queries + cached) // kv_tile)
    pattern = parse_pattern(f"frame-causal frame={frame}")
    work = pattern.tile_work(Workload(queries, 1, 64, cached=cached), (q_tile,), (kv_tile,))
    assert work.pairs == mask.sum()
    assert (work.visited_total, work.full_total) == (visited.sum(), full.sum())
    assert (work.visited_min, work.visited_max) == (visited.min(), visited.max())
