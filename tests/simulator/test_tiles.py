"""Tile counts against brute force, and against the published cases."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attncast import Workload, parse_pattern
from attncast.simulator.patterns import Band, Neighborhood
from attncast.simulator.patterns.band import band_pairs
from attncast.simulator.tiles import MAX_CLASSES, binned
from attncast.simulator.workload import parse_grid

from ..paths import SHARED
from . import oracle


@st.composite
def neighborhoods(draw):
    axes = draw(st.integers(1, 3))
    longest = {1: 40, 2: 9, 3: 6}[axes]
    case = []
    for _ in range(axes):
        length = draw(st.integers(1, longest))
        dilation = draw(st.integers(1, min(3, length)))
        window = draw(st.integers(1, length // dilation))
        stride = draw(st.integers(1, window))
        case.append((length, window, stride, dilation, draw(st.booleans())))
    grid, window, stride, dilation, causal = zip(*case, strict=True)
    tiles = [tuple(draw(st.integers(1, 8)) for _ in range(axes)) for _ in range(2)]
    return grid, Neighborhood(window, stride, dilation, causal), *tiles


@given(neighborhoods())
@settings(max_examples=300)
@example(((25,), Neighborhood((5,), (1,), (3,), (False,)), (4,), (4,)))
@example(((997 % 41,), Neighborhood((11,), (7,), (1,), (False,)), (4,), (8,)))
def test_neighborhood_counts_equal_brute_force(case):
    grid, pattern, q_tile, kv_tile = case
    workload = Workload(grid, 1, 64)
    pattern.check(workload)
    mask = oracle.neighborhood_mask(grid, pattern.window, pattern.stride, pattern.dilation, pattern.causal)
    tiles = [oracle.grid_tiles(grid, tile, pattern.dilation) for tile in (q_tile, kv_tile)]
    visited, full = oracle.count_tiles(mask, *tiles)
    work = pattern.tile_work(workload, q_tile, kv_tile)
    assert work.starts == len(oracle.first_tiles(mask, *tiles))
    assert (work.q_tiles, work.visited_total, work.full_total) == (visited.size, visited.sum(), full.sum())
    assert (work.visited_max, work.visited_min) == (visited.max(), visited.min())
    assert work.pairs == mask.sum()
    expected = sorted(zip(visited, full, strict=True))
    got = sorted((v, f) for v, f, n in zip(work.visited, work.full, work.count, strict=True) for _ in range(int(n)))
    assert got == expected


@given(
    queries=st.integers(1, 60), keys=st.integers(1, 60), left=st.integers(0, 70), right=st.integers(0, 70),
    tile_q=st.integers(1, 17), tile_kv=st.integers(1, 17), packed=st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=300)
@example(queries=60, keys=60, left=100, right=0, tile_q=16, tile_kv=8, packed=1)  # causal with unequal tiles
@example(queries=60, keys=60, left=100, right=0, tile_q=8, tile_kv=16, packed=1)
@example(queries=50, keys=10, left=3, right=0, tile_q=8, tile_kv=4, packed=1)  # queries that attend nothing
@example(queries=7, keys=60, left=100, right=0, tile_q=12, tile_kv=8, packed=5)  # a tile begins within a token's heads
@example(queries=50, keys=37, left=36, right=49, tile_q=12, tile_kv=8, packed=3)  # just wide enough to hold all pairs
@example(queries=50, keys=37, left=36, right=48, tile_q=12, tile_kv=8, packed=3)  # all but the first query's last key
@example(queries=50, keys=37, left=35, right=49, tile_q=12, tile_kv=8, packed=3)
def test_band_counts_equal_brute_force(queries, keys, left, right, tile_q, tile_kv, packed):
    mask = oracle.band_mask(queries, keys, left, right)
    rows = np.repeat(mask, packed, axis=0)  # the heads of a token lie beside each other
    tiles = np.arange(queries * packed) // tile_q, np.arange(keys) // tile_kv
    visited, full = oracle.count_tiles(rows, *tiles)
    workload = Workload((queries,), 1, 64, kv_grid=(keys,))
    work = Band(left, right).tile_work(workload, (tile_q,), (tile_kv,), packed=packed)
    assert (work.visited_total, work.full_total) == (visited.sum(), full.sum())
    assert (work.visited_max, work.visited_min, work.q_tiles) == (visited.max(), visited.min(), visited.size)
    if visited.all():
        assert work.starts == len(oracle.first_tiles(rows, *tiles))
    assert work.pairs == band_pairs(queries, keys, left, right) == mask.sum()
    expected = sorted(zip(visited, full, strict=True))
    got = sorted((v, f) for v, f, n in zip(work.visited, work.full, work.count, strict=True) for _ in range(int(n)))
    assert got == expected


@given(
    queries=st.integers(1, 60), cached=st.integers(0, 40), left=st.integers(0, 110), tile_q=st.integers(1, 17),
    tile_kv=st.integers(1, 17),
)  # fmt: skip
@settings(max_examples=200)
@example(queries=1, cached=0, left=110, tile_q=16, tile_kv=8)  # a token and one key: two KV tiles
def test_empty_rows_of_a_q_tile_visit_what_queries_there_would(queries, cached, left, tile_q, tile_kv):
    band, workload = Band(left, 0), Workload((queries,), 1, 64, cached=cached)
    rows = -(-queries // tile_q) * tile_q
    mask = oracle.band_mask(rows, rows + cached, left, 0)
    visited, full = oracle.count_tiles(mask, np.arange(rows) // tile_q, np.arange(rows + cached) // tile_kv)
    work, own = (band.tile_work(workload, (tile_q,), (tile_kv,), empty_rows=empty) for empty in (True, False))
    got = sorted((v, f) for v, f, n in zip(work.visited, work.full, work.count, strict=True) for _ in range(int(n)))
    assert got == sorted(zip(visited, full, strict=True))
    assert (work.visited_total, work.full_total, work.q_tiles) == (visited.sum(), full.sum(), own.q_tiles)
    assert (work.pairs, work.starts, work.dense_kv_tiles) == (own.pairs, own.starts, own.dense_kv_tiles)
    assert work.visited_total >= own.visited_total


def test_a_dense_call_has_no_diagonal_for_empty_rows_to_go_on_to():
    workload = Workload((130,), 1, 64)
    assert Band().tile_work(workload, (128,), (64,), empty_rows=True) == Band().tile_work(workload, (128,), (64,))


def test_dynamic_tiling_starts_at_the_first_key_needed():
    # Keys [30, 71) of the first Q tile: static tiles of 16 touch 4, dynamic ones ceil(41 / 16) = 3.
    pattern = parse_pattern("na window=41 stride=41")
    work = pattern.tile_work(Workload((82,), 1, 64), (41,), (16,), "dynamic")
    assert work.visited_total == 2 * 3
    assert pattern.tile_work(Workload((82,), 1, 64), (41,), (16,), "static").visited_total == 3 + 4


@pytest.mark.parametrize("grid", ["30x48x80"])
def test_hand_counted_hunyuan(grid):
    # 18x24x24 on tiles of 2x8x8: 9 * 3 * 3 = 81 tiles for every aligned Q tile; 900 Q tiles.
    work = parse_pattern("na window=18x24x24 stride=2x8x8").tile_work(Workload(grid, 24, 128), (2, 8, 8), (2, 8, 8))
    assert (work.visited_total, work.full_total, work.visited_max) == (900 * 81, 900 * 81, 81)
    assert not work.needs_mask
    assert work.bound_flop == pytest.approx(100 / 9)


def test_cached_tokens_come_first():
    work = Band(right=0).tile_work(Workload((64,), 1, 64, cached=192), (64,), (64,))
    assert (work.visited_total, work.full_total) == (4, 3)


@given(st.integers(1, 200), st.integers(0, 199), st.integers(1, 50))
def test_a_wider_window_never_costs_less(length, left, tile):
    workload = Workload((length,), 1, 64)
    narrow = Band(left, 0).tile_work(workload, (tile,), (tile,))
    wide = Band(left + 1, 0).tile_work(workload, (tile,), (tile,))
    assert wide.visited_total >= narrow.visited_total
    assert wide.pairs >= narrow.pairs


def test_very_long_sequences_stay_compact_and_exact():
    # 2^24 tokens causal: tile j of 2^17 visits j + 1 tiles, of which j are full.
    n = 2**17
    work = Band(right=0).tile_work(Workload((n * 128,), 1, 128), (128,), (128,))
    assert work.visited_total == n * (n + 1) // 2
    assert work.full_total == n * (n - 1) // 2
    assert work.visited.size <= MAX_CLASSES
    assert work.visited[0] == work.visited_max == n
    assert np.dot(work.visited, work.count) == pytest.approx(work.visited_total, rel=1e-12)


def test_binning_keeps_sums_and_the_longest_class():
    rng = np.random.default_rng(1)
    visited = rng.integers(1, 10**6, 20_000).astype(float)
    full, count = np.floor(visited / 2), rng.integers(1, 9, 20_000).astype(float)
    v, f, c = binned(visited, full, count)
    assert v.size <= MAX_CLASSES
    assert c.sum() == count.sum()
    assert v @ c == pytest.approx(visited @ count)
    assert f @ c == pytest.approx(full @ count)
    assert v[-1] == visited.max()
    assert np.all(np.diff(v) >= 0)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the collected data (../shared) is not here")
def test_every_published_case():
    with (SHARED / "data/gna_tile_cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 60
    for row in rows:
        pattern = parse_pattern(
            f"na window={row['window']} stride={row['stride']} dilation={row['dilation']} causal={row['causal']}"
        )
        workload = Workload(row["shape"], 1, 128)
        tiles = parse_grid(row["q_tile"]), parse_grid(row["kv_tile"])
        aligned = pattern.tile_work(workload, *tiles, "static")
        ruled = pattern.tile_work(workload, *tiles, row["kv_tiling"])
        got = {
            "exact_live_tiles": aligned.visited_total,
            "exact_full_tiles": aligned.full_total,
            "exact_live_max": aligned.visited_max,
            "visited_total": ruled.visited_total,
            "visited_max": ruled.visited_max,
            "visited_min": ruled.visited_min,
            "q_tiles": ruled.q_tiles,
            "sa_q_tiles": ruled.dense_q_tiles,
            "sa_kv_tiles": ruled.dense_kv_tiles,
            "unmasked_pairs": ruled.pairs,
            "natten_fully_block_sparse": int(pattern.maskless(workload.grid, *tiles)),
        }
        assert got == {name: int(row[name]) for name in got}, row["id"]
        assert ruled.bound_tiles_max == pytest.approx(float(row["speedup_max"]), rel=1e-6)
