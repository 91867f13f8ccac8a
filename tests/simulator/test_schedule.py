"""The schedule model against an event simulation."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast.simulator import schedule, waiting
from attncast.simulator.schedule import (
    dealt_makespan,
    fullest_waves,
    gradual_tiles,
    history_parts,
    history_splits,
    kv_splits,
    last_wave,
    makespan,
    rising_makespan,
    wide_splits,
    widening,
)

ONE = np.zeros(1, dtype=np.int64)


def simulate(jobs, servers):
    """Hand each job, in order, to the server that is free first."""
    free = [0.0] * servers
    for job in jobs:
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)


def model(cost, count, servers, longest_first):
    order = np.argsort(cost)[::-1]
    return makespan(np.array(cost)[order], np.array(count, float)[order], ONE, servers, longest_first)[0]


@given(st.integers(1, 500), st.integers(1, 64), st.floats(0.1, 10))
def test_equal_ctas_take_whole_waves(ctas, servers, cost):
    expected = -(-ctas // servers) * cost
    assert model([cost], [ctas], servers, True) == pytest.approx(expected)
    assert model([cost], [ctas], servers, False) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=12), st.integers(1, 20))
def test_longest_first_is_a_lower_bound_of_the_simulation(classes, servers):
    cost, count = zip(*classes, strict=True)
    jobs = sorted(np.repeat(cost, count), reverse=True)
    real = simulate(jobs, servers)
    bound = model(list(map(float, cost)), count, servers, True)
    assert bound <= real + 1e-9
    assert real <= np.dot(cost, count) / servers + max(cost) + 1e-9  # Graham: no list schedule is worse


@pytest.mark.parametrize("tiles", [64, 256, 1000])
def test_causal_work_matches_the_simulation_closely(tiles):
    cost = np.arange(1.0, tiles + 1)
    count = np.full(tiles, 24)
    jobs = np.repeat(cost, 24)
    assert model(cost, count, 132, True) == pytest.approx(simulate(sorted(jobs, reverse=True), 132), rel=0.02)
    shuffled = np.mean([simulate(np.random.default_rng(seed).permutation(jobs), 132) for seed in range(8)])
    assert model(cost, count, 132, False) == pytest.approx(shuffled, rel=0.05)


@pytest.mark.parametrize(("tiles", "heads"), [(4, 128), (8, 48), (16, 32), (32, 100), (64, 24), (512, 4), (1024, 1)])
def test_heads_from_their_first_tile_to_their_last_match_the_simulation(tiles, heads):
    head = np.arange(1.0, tiles + 1) + 1.5
    cost, count = head[::-1].copy(), np.full(tiles, float(heads))
    ours = makespan(cost, count, ONE, 148, False, float(heads))[0]
    assert ours == pytest.approx(simulate(np.tile(head, heads), 148), rel=0.03)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.1, 9.0)), min_size=1, max_size=12),
    st.integers(1, 20),
)
def test_shortest_first_is_the_simulation(classes, servers):
    count, cost = zip(*sorted(classes, key=lambda item: -item[1]), strict=True)
    found = rising_makespan(np.array(cost), np.array(count, float), ONE, servers)[0]
    assert found == pytest.approx(simulate(sorted(np.repeat(cost, count)), servers))


CLASSES = st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 9.0)), min_size=1, max_size=6)


@given(CLASSES, st.integers(1, 40), st.integers(1, 12))
def test_dealt_ctas_stay_where_they_are_dealt(classes, heads, servers):
    count, cost = zip(*sorted(classes, key=lambda item: -item[1]), strict=True)
    jobs = np.tile(np.repeat(cost, count), heads)
    real = max(jobs[server::servers].sum() for server in range(servers))
    found = dealt_makespan(np.array(cost), np.array(count, float) * heads, ONE, servers, np.array([float(heads)]))
    assert found[0] == pytest.approx(real)


@given(st.lists(st.tuples(CLASSES, st.integers(1, 40)), min_size=2, max_size=5), st.integers(1, 12), st.booleans())
def test_calls_beside_each_other_take_as_long_as_each_alone(calls, servers, longest_first):
    columns = [
        (*np.array(sorted(classes, key=lambda item: -item[1]), dtype=float).T, heads) for classes, heads in calls
    ]
    count, cost = (
        np.concatenate(of) for of in (([n * heads for n, _, heads in columns]), ([c for _, c, _ in columns]))
    )
    row = np.cumsum([0, *(n.size for n, *_ in columns[:-1])])
    heads = np.array([float(heads) for *_, heads in columns])
    dealt = dealt_makespan(cost, count, row, servers, heads)
    handed_out = makespan(cost, count, row, servers, longest_first, heads)
    places = np.where(heads > 20, 2.0, 1.0) * servers
    rising = rising_makespan(cost, count, row, places)
    shared = makespan(cost, count, row, places, longest_first, heads, places > servers)
    for i, (n, c, times) in enumerate(columns):
        alone, one = (c, n * times, ONE), np.array([float(times)])
        assert dealt[i] == pytest.approx(dealt_makespan(*alone, servers, one)[0])
        assert handed_out[i] == pytest.approx(makespan(*alone, servers, longest_first, one)[0])
        assert rising[i] == pytest.approx(rising_makespan(*alone, places[i])[0])
        assert shared[i] == pytest.approx(makespan(*alone, places[i], longest_first, one, places[i] > servers)[0])


def test_sms_that_share_a_divisor_with_the_tiles_of_a_head_are_dealt_its_longest_again_and_again():
    cost, count = np.array([4.0, 3.0, 2.0, 1.0]), np.full(4, 148.0)
    dealt = dealt_makespan(cost, count, ONE, 148, np.array([148.0]))[0]
    assert dealt == 16.0
    assert makespan(cost, count, ONE, 148, False, 148.0)[0] < 0.8 * dealt


def test_so_many_ctas_of_a_head_that_sms_are_dealt_alike_are_not_dealt_one_by_one(monkeypatch):
    cost, count, heads = np.arange(500.0, 0.0, -1.0), np.full(500, 120.0 * 6), np.array([6.0])
    exact = dealt_makespan(cost, count, ONE, 148, heads)[0]
    monkeypatch.setattr(schedule, "MOST_DEALT", 100)
    assert dealt_makespan(cost, count, ONE, 148, heads)[0] == pytest.approx(exact, rel=0.005)


@given(st.integers(1, 3000), st.integers(1, 64), st.integers(1, 4))
def test_the_last_wave_is_what_whole_waves_leave(ctas, sms, in_flight):
    started = 0
    while ctas - started > sms * in_flight:
        started += sms * in_flight
    beside = max(sum(1 for cta in range(started, ctas) if cta % sms == place) for place in range(sms))
    share, found = last_wave(np.array([float(ctas)]), sms, in_flight)
    assert share[0] == pytest.approx(started / ctas)
    assert found[0] == beside


def test_calls_do_not_mix():
    rng = np.random.default_rng(3)
    calls = [(np.sort(rng.uniform(1, 9, n))[::-1], rng.integers(1, 30, n).astype(float)) for n in (1, 5, 17)]
    cost, count = (np.concatenate(column) for column in zip(*calls, strict=True))
    together = makespan(cost, count, np.array([0, 1, 6]), 13, False)
    alone = [makespan(c, n, ONE, 13, False)[0] for c, n in calls]
    assert together == pytest.approx(alone)


def test_splits_fill_the_gpu_and_no_more():
    ctas = np.array([1.0, 8.0, 100.0, 132.0, 500.0])
    tiles = np.array([4.0, 64.0, 64.0, 64.0, 64.0])
    assert kv_splits("fill", ctas, 132, tiles, ctas, np.array([128.0])).tolist() == [4, 16, 1, 1, 1]


def _fullest_waves(ctas, slots, kv_tiles):
    """FlashAttention's search written as a loop."""
    if ctas >= 0.8 * slots or kv_tiles <= 4:
        return 1
    waves = [ctas * n / slots for n in range(1, min(128, slots, kv_tiles) + 1)]
    full = [w / np.ceil(w) for w in waves]
    return next(n for n, share in enumerate(full, 1) if share >= 0.85 * max(full))


@given(st.integers(1, 400), st.integers(1, 500), st.sampled_from([108, 132, 216, 296]))
def test_waves_follow_the_search(ctas, kv_tiles, slots):
    tiles = np.array([float(kv_tiles)])
    found = kv_splits("waves", np.array([float(ctas)]), slots, tiles, np.array([1.0]))
    assert found.tolist() == [_fullest_waves(ctas, slots, kv_tiles)]


def test_balanced_parts_share_the_tiles():
    def parts(ctas, tiles, of_one):
        most = fullest_waves(np.array([of_one]), 132, np.array([tiles]))
        return kv_splits("balanced", np.array([ctas]), 132, np.array([tiles]), np.array([128.0]), most).tolist()

    # 96 Q tiles of one sequence and head over 154 KV tiles: 124 tiles for each SM, so two parts (vLLM's FA3, 12,288 tokens).
    assert parts(96.0, 154.0, 96.0) == [2]
    # 64 sequences of 8 heads fill the GPU.
    assert parts(512.0, 64.0, 8.0) == [1]


@given(st.integers(1, 400), st.integers(1, 4096), st.sampled_from([132, 148, 188]))
def test_gradual_parts_follow_sglang(ctas, kv_tiles, sms):
    """get_num_kv_splits written out for sequences of one length, 32 keys a tile: parts of whole tiles that hold any keys."""
    keys = 32 * kv_tiles
    cores = int(sms * max(np.log2(keys / 64.0), 1.0))
    each = 32 * math.ceil(math.ceil(keys / min(math.ceil(cores / ctas), 8)) / 32)  # kv_len_per_split
    expected = math.ceil(keys / each)
    found = kv_splits("gradual", np.array([float(ctas)]), sms, np.array([float(kv_tiles)]), np.array([32.0]))
    assert found.tolist() == [expected]


@given(st.integers(1, 4096), st.integers(1, 8), st.sampled_from([32, 64]))
def test_the_last_gradual_part_has_what_is_left(blocks, wanted, tile):
    keys = blocks * 32
    each = 32 * math.ceil(math.ceil(keys / wanted) / 32)  # kv_len_per_split
    parts = [min(each, keys - begin) for begin in range(0, keys, each)]
    visited, tiles = np.array([keys / tile]), np.array([float(tile)])
    found = gradual_tiles(visited, tiles, np.array([float(len(parts))]))
    assert [value.tolist() for value in found] == [[math.ceil(parts[0] / tile)], [math.ceil(parts[-1] / tile)]]


def test_short_last_parts_start_last():
    """Five parts for each of 128 sequences, the last half as long, in 592 places: the last ones end with two short ones."""
    whole = waiting.Ctas(np.array([640.0]), np.array([0]), np.array([640.0]), 148, np.array([4.0]), False)
    ragged = whole.with_two_lengths(np.array([0.8]), np.array([True]))
    assert ragged.count.tolist() == pytest.approx([512.0, 128.0])
    assert ragged.makespan(np.array([7.0, 4.0]), 592).tolist() == [8.0]
    assert whole.makespan(np.array([7.0]), 592).tolist() == [14.0]


def test_segments_are_vllms():
    """16 parts up to 128 sequences times key heads, whatever the length."""
    ctas = np.array([1.0, 128.0, 129.0])
    one = np.ones(3)
    assert kv_splits("segments", ctas, 148, one, one, one).tolist() == [16.0, 16.0, 1.0]


def _multi_block_count(batch, kv_heads, history, sms):
    """TensorRT-LLM's computeMultiBlockCount written out."""
    count = history // 128
    count = max(min(count, round((count * 8.0) ** 0.5)), 1)
    waves = batch * kv_heads * count / sms / 8
    if waves > 1.0:
        count = int(count / waves + 1e-9)
    return max(min(max(count, 1), 6000 // batch), 1)


@given(st.integers(1, 2048), st.sampled_from([1, 2, 4, 8]), st.integers(1, 131072), st.sampled_from([108, 132]))
def test_history_parts_follow_tensorrt_llm(batch, kv_heads, keys, sms):
    ctas, of_one = np.array([float(batch * kv_heads)]), np.array([float(kv_heads)])
    found = history_splits(ctas, of_one, sms, np.array([float(keys)]))
    assert found.tolist() == [_multi_block_count(batch, kv_heads, keys, sms)]
    assert history_parts(batch, kv_heads, keys) == batch * kv_heads * max(1, keys // 128)


def _mmha_launch(heads, keys, dim, sms, resident, smem_bytes):
    """TensorRT-LLM's mmha_launch_kernel_ex and multi_block_grid_setup written out, for 16-bit products."""
    threads = min(256 * min(-(-sms * resident // heads), resident), 1024)
    threads = 256 if threads < 512 else 512 if threads < 1024 else 1024
    threads_per_value = 1 << (dim - 1).bit_length()
    threads_per_value = threads_per_value * 2 // 16
    loop = -(-threads // threads_per_value) * 8
    fewest = -(-(keys * 6) // (smem_bytes - 2048))
    most = min(-(-(keys + 1) // loop), -(-sms // heads))
    return threads, max(most, fewest, 1)


@given(
    st.integers(1, 4096), st.integers(1, 131072), st.sampled_from([64, 128, 192, 256]), st.sampled_from([108, 132, 148]),
    st.sampled_from([3, 4]),
)  # fmt: skip
def test_wide_ctas_and_parts_follow_tensorrt_llm(heads, keys, dim, sms, resident):
    ctas = np.array([float(heads)])
    wide = widening(ctas, sms, np.array([float(resident)]))
    found = wide_splits(ctas, sms, np.array([float(keys)]), np.array([float(dim)]), 232448.0, wide)
    assert (256 * wide[0], found[0]) == _mmha_launch(heads, keys, dim, sms, resident, 232448)


def test_wide_parts_may_need_one_wave_more_than_there_are_sms():
    """16 heads over 2,048 keys of 256 elements on H100: nine parts each, 144 CTAs for 132 SMs (twice as slow as 128)."""
    ctas, keys, dim = np.array([16.0]), np.array([2048.0]), np.array([256.0])
    wide = widening(ctas, 132, np.array([4.0]))
    assert wide.tolist() == [4]
    assert wide_splits(ctas, 132, keys, dim, 232448.0, wide).tolist() == [9]
