"""The pattern library: published counts, token orders, texts, mixtures and pictures."""

from __future__ import annotations

import csv
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast import InputError, Workload, parse_pattern
from attncast.simulator.patterns.combine import own_grid, rule_of
from attncast.simulator.patterns.library import PATTERNS
from attncast.simulator.patterns.picture import picture
from attncast.simulator.patterns.tokens import Segment, segment_coordinates

from ..paths import SHARED
from . import definitions as by


def test_bigbird_draws_as_many_blocks_as_asked():
    table = parse_pattern("bigbird block=8 random=3 ends=1 window=3").table(40)
    inner = table[5:35]
    assert set(inner.sum(axis=1)) == {3 + 2 + 3}
    assert (table[0].all(), table[:, -1].all()) == (True, True)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the collected data (../shared) is not here")
def test_every_case_of_windows_on_flattened_tokens():
    with (SHARED / "data/gna_1d_tiling_cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    for row in rows:
        words = " ".join(f"{key}={row[key]}" for key in ("window", "stride", "dilation", "causal"))
        pattern, workload = parse_pattern(f"na {words} order=row"), Workload(row["shape"], 1, 64)
        work = pattern.tile_work(workload, (int(row["tq"]),), (int(row["tk"]),))
        got = {
            "q_tiles": work.q_tiles, "sa_kv_tiles": work.dense_kv_tiles, "visited_total": work.visited_total,
            "full_tiles": work.full_total, "visited_max": work.visited_max, "visited_min": work.visited_min,
        }  # fmt: skip
        assert got == {key: int(row[key]) for key in got}, row
        assert work.bound_tiles_max == pytest.approx(float(row["speedup_max"]), rel=1e-6)
        assert work.bound_tiles_mean == pytest.approx(float(row["speedup_mean"]), rel=1e-6)
        if "1" not in row["causal"]:  # causal rows give the bound without what causality cuts off
            assert work.bound_flop == pytest.approx(float(row["flop_speedup"]), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("radial frames=30 tokens=3840 decay=0.95", 0.725),
        ("radial frames=18 tokens=3840 decay=0.2 sink=1", 0.713),
    ],
)
def test_published_radial_sparsity(text, published):
    pattern = parse_pattern(text)
    work = pattern.tile_work(Workload(own_grid(pattern), 1, 128), (128,), (128,))
    assert 1 - 1 / work.bound_tiles_mean == pytest.approx(published, abs=0.005)
    assert not work.needs_mask


def test_published_clear_share():
    # 0.463% counts the 193 keys of an inner circle for every query; circles cut by the border leave 0.462%.
    pattern = parse_pattern("clear radius=8 grid=512x512 text=512")
    work = pattern.tile_work(Workload(own_grid(pattern), 1, 128), (128,), (128,))
    assert work.pairs / work.dense_pairs == pytest.approx(0.00463, abs=2e-5)
    uncut = 193 * 512**2 + 2 * 512 * 512**2 + 512**2
    assert uncut / work.dense_pairs == pytest.approx(0.00463, abs=5e-6)


@pytest.mark.parametrize(("tokens", "published"), [(32768, 7.2), (131072, 23.4)])
def test_published_power_attention_ratio(tokens, published):
    # Blocks of 256 against the blocks of causal attention.
    workload = Workload((tokens,), 1, 128)
    power, causal = (parse_pattern(name).tile_work(workload, (256,), (256,)) for name in ("power", "causal"))
    assert causal.visited_total / power.visited_total == pytest.approx(published, abs=0.05)


def test_stride_finding():
    # NATTEN's users pick stride 16x8x8 on H100, where 2x8x8 visits the same 81 tiles.
    for stride in ("2x8x8", "16x8x8"):
        work = parse_pattern(f"na window=18x24x24 stride={stride}").tile_work(
            Workload((30, 48, 80), 24, 128), (2, 8, 8), (2, 8, 8)
        )
        assert (work.visited_max, work.visited_min) == (81, 81)


@pytest.mark.parametrize("grid", [(8, 8), (4, 4, 4), (16, 16), (8, 8, 8)])
def test_hilbert_walks_to_a_neighbour_each_step(grid):
    walk = segment_coordinates(Segment(grid, "hilbert"))
    assert sorted(map(tuple, walk.T)) == by.row_major(grid)
    assert (abs(np.diff(walk, axis=1)).sum(axis=0) == 1).all()


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["hilbert", "morton", "tile:2x3"]))
def test_orders_hold_every_token_once(rows, columns, order):
    walk = segment_coordinates(Segment((rows, columns), order))
    assert sorted(map(tuple, walk.T)) == by.row_major((rows, columns))


def test_order_decides_how_many_tiles_are_touched():
    workload = Workload((64, 64), 1, 64)
    visited = {
        order: parse_pattern(f"na window=9x9 order={order}").tile_work(workload, (64,), (64,)).visited_total
        for order in ("row", "hilbert", "morton", "tile:8x8")
    }
    assert visited["tile:8x8"] == visited["hilbert"] == visited["morton"] < visited["row"]
    # A permutation that matches the tiles is NATTEN's own tiling.
    native = parse_pattern("na window=9x9").tile_work(workload, (8, 8), (8, 8))
    assert visited["tile:8x8"] == native.visited_total


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_texts_parse_back(name):
    pattern = parse_pattern(PATTERNS[name].example)
    assert parse_pattern(str(pattern)) == pattern
    assert PATTERNS[name].about
    assert PATTERNS[name].source


def test_combinations_parse_back():
    for text in (
        "causal | streaming sink=4 window=64",
        "causal & documents lengths=3*100 | longformer",
        "heads 8*dense + 24*streaming sink=4 window=1024",
        "layers 12*dense + 48*radial frames=30 tokens=3840 decay=0.95",
    ):
        pattern = parse_pattern(text)
        assert parse_pattern(str(pattern)) == pattern


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("radiall frames=3", "did you mean 'radial'"),
        ("radial frame=3 tokens=4", "did you mean 'frames'"),
        ("radial frames=3", "has no tokens"),
        ("radial frames=3 tokens=64 decay=x", "decay 'x' is not a number"),
        ("swin order=hilber", "did you mean 'hilbert'"),
        ("axial along=5", "'5'"),
        ("heads dense + causal", "expected e.g. 'heads 8*dense"),
        ("causal |", "empty"),
        ("documents lengths=3,x", "'x' is not a whole number"),
        ("strided mode=fix", "did you mean 'fixed'"),
    ],
)
def test_bad_texts_say_what_was_expected(text, said):
    with pytest.raises(InputError) as error:
        parse_pattern(text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "grid", "said"),
    [
        ("documents lengths=3,4", (9,), "7 tokens together: expected 9"),
        ("radial frames=3 tokens=4", (13,), "= 12 tokens, but the workload has 13"),
        ("freeswim", (64,), "needs a grid of 3 axes"),
        ("swin window=7x7 shift=3", (64,), "has a window of 2 axes"),
        ("swin window=3 shift=3", (64,), "expected less than the window"),
        ("maxvit size=7", (15, 14), "does not divide the grid"),
        ("bigbird block=1", (9000,), "expected at most 4,096"),
        ("hip | causal", (64,), "no fixed set of pairs"),
        ("swin order=hilbert | axial order=morton", (8, 8), "different orders"),
        ("heads 1*na window=3x3 + 1*causal", (8, 8), "give 'na' an order"),
    ],
)
def test_patterns_that_do_not_fit_say_so(text, grid, said):
    with pytest.raises(InputError) as error:
        parse_pattern(text).check(Workload(grid, 1, 64))
    assert said in str(error.value)


def test_mixtures_average_over_heads():
    workload = Workload((512,), 32, 64)
    parts = [parse_pattern(text).tile_work(workload, (64,), (64,)) for text in ("dense", "causal")]
    mixed = parse_pattern("heads 8*dense + 24*causal").tile_work(workload, (64,), (64,))
    assert mixed.visited_total == parts[0].visited_total / 4 + parts[1].visited_total * 3 / 4
    assert mixed.count.sum() == pytest.approx(8)
    assert np.dot(mixed.visited, mixed.count) == pytest.approx(mixed.visited_total)
    assert mixed.visited_max == 8


def test_moa_histogram_has_all_heads():
    pattern = parse_pattern("moa")
    parts = pattern.parts(Workload((8192,), 32, 128))
    assert sum(weight for weight, _ in parts) == 1024
    mean = sum(weight * part.window for weight, part in parts) / 1024 / 8192
    assert mean == pytest.approx(0.5, abs=0.02)


def test_pictures_show_tokens_and_blocks():
    tokens = picture(parse_pattern("causal"), Workload((4,), 1, 64))
    assert tokens.text() == "█···\n██··\n███·\n████"
    blocks = picture(parse_pattern("causal"), Workload((4096,), 1, 64), 4)
    assert blocks.text() == "▒···\n█▒··\n██▒·\n███▒"


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ("streaming sink=4 window=1024", (131072,)),
        ("power", (131072,)),
        ("documents lengths=128*1024", (131072,)),
        ("radial frames=30 tokens=3840 decay=0.95", (115200,)),
        ("na window=18x24x24 order=hilbert", (30, 48, 80)),
    ],
)
def test_long_sequences_are_counted_in_little_memory(text, grid):
    pattern, workload = parse_pattern(text), Workload(grid, 1, 128)
    tracemalloc.start()
    work = pattern.tile_work(workload, (128,), (128,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert 0 < work.visited_total < work.dense_q_tiles * work.dense_kv_tiles


def test_rules_agree_with_themselves_pair_by_pair():
    for text, grid in itertools.product(("swin window=3 shift=1", "axial", "na window=2x3 dilation=2x1"), [(6, 7)]):
        workload = Workload(grid, 1, 64)
        rule = rule_of(parse_pattern(f"{text} order=morton"), workload)
        tokens = np.arange(42)
        assert rule.keeps(tokens[:, None], tokens[None]).sum() == rule.pairs()


def test_runs_cut_away_take_nothing_from_others():
    # The sink of a late query and a short window have nothing in common: an empty run that ends before it starts.
    pattern = parse_pattern("streaming sink=4 window=2 & window left=3 right=0 | dense")
    assert pattern.tile_work(Workload((20,), 1, 64), (8,), (8,)).pairs == 400
