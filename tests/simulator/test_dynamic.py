"""Patterns known by their statistics: expectations keep the budget, limits hold, and choosing has a cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncast import InputError, Workload, parse_pattern
from attncast.simulator.patterns.dynamic import Dynamic, SelectionCost
from attncast.simulator.patterns.library import PATTERNS

NAMES = sorted(name for name, entry in PATTERNS.items() if entry.group == "dynamic")
TILE = st.sampled_from([1, 16, 48, 64, 128, 176, 200])


@given(
    st.sampled_from(NAMES), st.integers(1, 4000), st.integers(0, 3000), st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), TILE, TILE,
)  # fmt: skip
@settings(max_examples=300)
def test_counts_stay_inside_their_limits(name, queries, cached, spread, alike, causal, tile_q, tile_kv):
    pattern = parse_pattern(f"{name} spread={spread} alike={alike} causal={int(causal)}")
    workload = Workload((queries,), 8, 64, heads_kv=2, cached=cached)
    work = pattern.tile_work(workload, (tile_q,), (tile_kv,))
    dense = parse_pattern("causal" if causal else "dense").tile_work(workload, (tile_q,), (tile_kv,))
    assert work.count.sum() == pytest.approx(-(-queries // tile_q))
    assert 0 <= work.full_total <= work.visited_total + 1
    assert (work.full <= work.visited + 1e-9).all()
    assert np.dot(work.visited, work.count) == pytest.approx(work.visited_total, abs=0.51)
    assert work.visited_total <= dense.visited_total + 1
    assert work.pairs <= dense.pairs * 1.02 + queries
    cost = pattern.selection(workload)
    assert cost.flops >= 0
    assert cost.bytes >= 0
    assert cost.kernels >= 0


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_density_is_kept_whatever_the_spread(spread):
    pattern = parse_pattern(f"sparge density=0.25 spread={spread}")
    work = pattern.tile_work(Workload((16384,), 1, 64), (128,), (64,))
    assert work.visited_total == pytest.approx(0.25 * 128 * 256, rel=1e-3)
    assert work.pairs == pytest.approx(0.25 * 16384**2, rel=1e-6)
    assert (work.visited_max > work.visited_min) == (spread > 0)


def test_hand_counted_budget():
    # 16 blocks of 64 keys of 4,096: rows of 128 see 2, 4, ..., 64 blocks and keep at most 16; 8 rows are cut short.
    work = parse_pattern("top-blocks top=16 q_block=128 k_block=64").tile_work(Workload((4096,), 1, 64), (128,), (64,))
    assert work.visited_total == sum(min(2 * row, 16) for row in range(1, 33))
    assert (work.visited_max, work.visited_min) == (16, 2)


def test_smaller_tiles_split_blocks_and_larger_ones_join_them():
    workload = Workload((16384,), 1, 64)
    pattern = parse_pattern("top-blocks top=8 q_block=128 k_block=128 causal=0")
    assert pattern.tile_work(workload, (128,), (128,)).visited_total == 128 * 8
    assert pattern.tile_work(workload, (128,), (64,)).visited_total == 128 * 16
    joined = pattern.tile_work(workload, (128,), (256,)).visited_total
    assert 128 * 4 < joined < 128 * 8
    # Two rows of queries in one tile: the same blocks when alike, nearly twice as many when not.
    assert pattern.tile_work(workload, (256,), (128,)).visited_total == 64 * 8
    apart = parse_pattern("top-blocks top=8 q_block=128 k_block=128 causal=0 alike=0")
    assert 64 * 15 < apart.tile_work(workload, (256,), (128,)).visited_total < 64 * 16


def test_rows_kept_whole_raise_the_density():
    workload = Workload((16384,), 1, 64)
    work = parse_pattern("sparge density=0.5 whole_rows=0.1").tile_work(workload, (128,), (64,))
    assert work.pairs / work.dense_pairs == pytest.approx(0.55)


@given(st.sampled_from(NAMES), st.integers(256, 4096))
@settings(max_examples=60)
def test_choosing_more_tokens_never_costs_less(name, tokens):
    pattern = parse_pattern(name)
    assert isinstance(pattern, Dynamic)
    less, more = (pattern.selection(Workload((n,), 8, 64, heads_kv=2)) for n in (tokens, 2 * tokens))
    assert more.flops >= less.flops
    assert more.bytes >= less.bytes


def test_pooled_scores_by_hand():
    # 4 x 8 block pairs, 2 heads, 64 dims: 2 * 64 operations each. Q and K in 2 bytes, means twice, 12 bytes a score.
    cost = parse_pattern("top-blocks q_block=128 k_block=64").selection(Workload((512,), 2, 64, heads_kv=1))
    assert cost == SelectionCost(
        2 * 64 * 4 * 8 * 2, 2 * 64 * (512 * 2 + 512) + 2 * 2 * 64 * (4 * 2 + 8) + 12 * 4 * 8 * 2, 4
    )


def test_a_measured_map_replaces_the_expectations_and_keeps_the_cost_of_choosing(tmp_path):
    path = tmp_path / "kept.npz"
    blocks = np.zeros((1, 1, 8, 8), dtype=np.int8)
    blocks[..., 0] = 2
    np.fill_diagonal(blocks[0, 0], 1)
    np.savez(path, block_map=blocks, block_size=np.array([128, 128]), seq_lengths=np.array([1024, 1024]))
    workload = Workload(1024, 4, 64)
    expected, measured = (parse_pattern(text) for text in ("sparge density=0.3", f"sparge density=0.3 map={path}"))
    measured.check(workload)
    work = measured.tile_work(workload, (128,), (128,))
    assert (work.visited_total, work.full_total) == (15, 7)
    assert measured.selection(workload) == expected.selection(workload)
    with pytest.raises(InputError, match="1,024 queries"):
        measured.check(Workload(2048, 4, 64))
    with pytest.raises(InputError, match="no block map"):
        parse_pattern("sparge density=0.3 map=kept.csv").check(workload)
