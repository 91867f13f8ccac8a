"""Kernels whose loads nothing hides, and that look at every tile to find a window: brute force, and how costs move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast.hwmodels import GPU, load_gpu
from attncast.simulator import memory
from attncast.simulator.calibration import use_of
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.calls import Calls
from attncast.simulator.conditions import DEFAULT_CONDITIONS, Conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.patterns.band import UNLIMITED, Band
from attncast.simulator.pipes import COMPILED
from attncast.simulator.predict import predict
from attncast.simulator.profile import KernelProfile, load_profile
from attncast.simulator.tiles import MAX_CLASSES
from attncast.simulator.workload import Workload

RTX = load_gpu("rtx-pro-6000")
SGLANG = load_profile("sglang-triton", RTX)


def by_hand(queries: int, keys: int, left: int, right: int, tile_q: int, tile_kv: int) -> list[tuple[int, int, int]]:
    """Visited, full and tested KV tiles of each Q tile, pair by pair."""
    found = []
    for first in range(0, queries, tile_q):
        rows = [q + keys - queries for q in range(first, min(first + tile_q, queries))]
        visited = full = tested = 0
        for begin in range(0, keys, tile_kv):
            columns = range(begin, min(begin + tile_kv, keys))
            kept = [p - left <= k <= p + right for p in rows for k in columns]
            walked = any(k <= p + right for p in rows for k in columns)
            visited += any(kept)
            full += all(kept)
            tested += walked and not any(kept)
        found.append((visited, full, tested))
    return found


@given(
    st.integers(1, 40), st.integers(0, 30), st.integers(0, 20), st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)
)
def test_tested_tiles_agree_with_brute_force(
    queries: int, cached: int, left: int, right: int, tile_q: int, tile_kv: int
) -> None:
    workload = Workload((queries,), 1, 64, cached=cached)
    work = Band(left, right).tested_work(workload, (tile_q,), (tile_kv,))
    assert work.tested is not None
    rows = by_hand(queries, queries + cached, left, right, tile_q, tile_kv)
    counted = {
        (int(v), int(f), int(t)): int(n)
        for v, f, t, n in zip(work.visited, work.full, work.tested, work.count, strict=True)
    }
    assert counted == {row: rows.count(row) for row in set(rows)}
    walked = work.visited + work.tested
    assert (np.diff(walked) <= 0).all()
    assert work.visited_total == sum(row[0] for row in rows)


def test_long_walks_are_merged_and_keep_their_sums() -> None:
    tokens = 64 * (MAX_CLASSES + 1000)
    workload = Workload((tokens,), 1, 64)
    work = Band(128, 0).tested_work(workload, (64,), (128,))
    assert work.tested is not None
    assert work.count.size <= MAX_CLASSES
    q_tiles = tokens // 64
    walked = sum(index // 2 + 1 for index in range(q_tiles))
    assert np.isclose((work.visited + work.tested) @ work.count, walked, rtol=1e-12)
    assert np.isclose(work.visited @ work.count, work.visited_total, rtol=1e-12)
    assert work.visited[0] + work.tested[0] == q_tiles // 2


def call(
    pattern: Band,
    head_dim: int = 64,
    tokens: int = 4096,
    heads: int = 64,
    profile: KernelProfile = SGLANG,
    gpu: GPU = RTX,
) -> Calls:
    workload = Workload((tokens,), heads, head_dim)
    tiles = resolve_tiles(profile, pattern, workload, None, None)
    work = kernel_work(profile, pattern, workload, tiles)
    return single_call(gpu, profile, workload, pattern, tiles, work, DEFAULT_CONDITIONS)


def seconds(calls: Calls, profile: KernelProfile = SGLANG) -> float:
    return float(forecast(RTX, profile, calls).time_s[0])


def test_a_tested_tile_costs_less_than_one_that_counts_and_more_than_nothing() -> None:
    window = call(Band(128, 0))
    skipped = seconds(replace(window, tested=np.zeros_like(window.tested)))
    visited = seconds(replace(window, visited=window.visited + window.tested, tested=np.zeros_like(window.tested)))
    assert skipped < seconds(window) < visited


def test_a_window_that_holds_every_key_still_costs_its_tests() -> None:
    assert seconds(call(Band(1 << 20, 0))) > seconds(call(Band(UNLIMITED, 0)))


def test_cycles_and_latencies_cost_time() -> None:
    causal = call(Band(UNLIMITED, 0), 128)
    plain = seconds(causal)
    assert seconds(causal, replace(SGLANG, tile_round_trips=5.0)) > 1.1 * plain
    assert seconds(replace(causal, cycles=2.0 * causal.cycles)) > 1.5 * plain
    assert seconds(causal, replace(SGLANG, chain="none")) < plain


def test_what_a_cta_takes_outside_its_tiles_counts_once_for_each() -> None:
    causal = call(Band(UNLIMITED, 0), 128)
    still = replace(causal, end_cycles=np.zeros(1), end_work_cycles=np.zeros(1))
    assert causal.end_cycles[0] > 1000
    ctas = float(causal.count.sum()) * 64
    added = seconds(causal) - seconds(still)
    assert np.isclose(added, ctas / RTX.sms * causal.end_work_cycles[0] / RTX.clock_hz, rtol=0.1)
    # Those that share an SM hide it, but for their work.
    shared = call(Band(UNLIMITED, 0), 64)
    assert 2.0 * shared.end_work_cycles[0] < 2.0 * shared.end_cycles[0]
    half = replace(shared, end_work_cycles=0.5 * shared.end_work_cycles)
    assert seconds(half) < seconds(shared) == seconds(replace(shared, end_cycles=0.9 * shared.end_cycles))


@pytest.mark.parametrize("gpu", ["h100", "b200", "rtx-pro-6000"])
def test_vllms_kernel_tells_what_lies_around_its_loop_and_a_window_pays_most_for_it(gpu: str) -> None:
    model = load_gpu(gpu)
    vllm = load_profile("triton", model, "vllm")
    told = [tile.compiled for tile in (*vllm.tiles, *vllm.decode_tiles) if tile.compiled]
    assert len(told) > 20
    assert all(each.end_cycles >= each.end_work_cycles > 0 for each in told)

    def share(pattern: Band) -> float:
        workload = Workload((2048,), 16, 192, batch=8, heads_kv=2, dtype="fp8")
        tiles = resolve_tiles(vllm, pattern, workload, None, None)
        work = kernel_work(vllm, pattern, workload, tiles)
        calls = single_call(model, vllm, workload, pattern, tiles, work, DEFAULT_CONDITIONS)
        without = replace(calls, end_cycles=np.zeros(1), end_work_cycles=np.zeros(1))
        return 1.0 - float(forecast(model, vllm, without).kernel_s[0] / forecast(model, vllm, calls).kernel_s[0])

    assert share(Band(127, 0)) > 0.05 > share(Band(UNLIMITED, 0)) > 0.0


def test_tiles_of_few_rows_have_no_asynchronous_products() -> None:
    """Head dim 512 runs on 32 rows and mma.sync on Hopper, whose time the walk holds; 256 on 64 and wgmma."""
    h100 = load_gpu("h100")
    profile = load_profile("sglang-triton", h100)

    def chain(head_dim: int, tensor_share: float) -> float:
        causal = call(Band(UNLIMITED, 0), head_dim, 64, 1, profile, h100)
        rate = causal.tensor_rate / tensor_share
        return float(forecast(h100, profile, replace(causal, tensor_rate=rate)).kernel_s[0])

    assert chain(256, 2.0) > chain(256, 1.0)
    assert chain(512, 2.0) == chain(512, 1.0)


def test_heads_that_find_the_l2_full_of_others_keys_read_them_again() -> None:
    def dram_bytes(sequences: int, heads: int, kv_heads: int, tokens: int) -> tuple[float, float]:
        workload = Workload((tokens,), heads, 128, batch=sequences, heads_kv=kv_heads)
        tiles = resolve_tiles(SGLANG, Band(UNLIMITED, 0), workload, None, None)
        work = kernel_work(SGLANG, Band(UNLIMITED, 0), workload, tiles)
        calls = single_call(RTX, SGLANG, workload, Band(UNLIMITED, 0), tiles, work, Conditions(engine="sglang"))
        traffic = forecast(RTX, SGLANG, calls).traffic
        return float(traffic.dram_bytes[0]), float(traffic.unique_bytes[0])

    small, unique = dram_bytes(8, 8, 1, 4096)  # 17 MB of keys and values
    assert small <= unique
    large, unique = dram_bytes(64, 8, 2, 4096)  # 268 MB, twice the L2
    assert large > 3.0 * unique


def test_a_sweep_that_the_l2_holds_misses_once_and_heads_in_flight_together_miss_once() -> None:
    one = np.ones(1)

    def sweeps(sweep_mib: float, sequences: float, heads: float, kv_heads: float) -> memory.Sweeps:
        unique = sweep_mib * 2.0**20 * one
        issued = 8.0 * heads / kv_heads * unique  # eight Q tiles for each head
        return memory.sweeps(RTX, issued, unique, unique, sequences * one, heads * one, kv_heads * one, 188 * one, one)

    held = sweeps(64, 188, 4, 1)
    assert held.dram_bytes == 64 * 2**20
    assert 0.9 < held.from_l2 < 1.0
    # Twice the L2: every sweep, and each of four heads in its turn, reads all of it.
    lost = sweeps(256, 188, 4, 1)
    assert lost.dram_bytes == 4 * 8 * 256 * 2**20
    assert lost.from_l2 == 0.0
    # Four heads in flight together, and four Q tiles of each, wait for the same bytes.
    together = sweeps(256, 47, 4, 1)
    assert together.dram_bytes == 8 * 256 * 2**20
    rows = sweeps(256, 47 / 4, 4, 1)
    assert rows.dram_bytes == 2 * 256 * 2**20
    assert together.from_l2 == rows.from_l2 == 0.0


@pytest.mark.parametrize(
    ("kib", "gb_s"), [(91_648, 5243), (100_352, 4294), (110_080, 1075), (120_832, 880), (132_608, 850)]
)
def test_a_loop_over_more_than_an_l2_in_one_part_runs_at_the_rate_measured_on_an_l40(kib: int, gb_s: int) -> None:
    l40s = load_gpu("l40s")
    missed = 1.0 - memory.resident_share(l40s, np.array([kib * 1024.0]), 1.0)[0]
    assert 845.0 / max(missed, 845.0 / 5243.0) == pytest.approx(gb_s, rel=0.02)


def test_an_l2_in_two_parts_holds_ever_less_and_beyond_its_size_nothing() -> None:
    h100 = load_gpu("h100")
    sizes = np.array([h100.l2_effective_bytes, 0.5 * (h100.l2_effective_bytes + h100.l2_bytes), h100.l2_bytes])
    assert memory.resident_share(h100, sizes, 1.0) == pytest.approx([1.0, 0.5, 0.0])


def test_a_tile_of_which_the_l2_has_lost_some_waits_for_dram() -> None:
    def seconds_a_key(cached: int, gpu: GPU) -> float:
        decoding = Workload((1,), 5, 128, heads_kv=1, batch=2, cached=cached, dtype="bf16")
        return (
            predict(decoding, "causal", gpu, "sglang-triton", conditions=Conditions(graph=True)).kernel_time_s / cached
        )

    slow = replace(RTX, dram_latency_s=2.0 * RTX.dram_latency_s)
    held, lost, far = (seconds_a_key(keys, slow) / seconds_a_key(keys, RTX) for keys in (65_535, 131_071, 1_048_575))
    assert held < 1.05
    assert lost == pytest.approx(far, rel=0.05)


def test_ctas_that_share_an_sm_wait_within_their_work() -> None:
    shared = call(Band(UNLIMITED, 0), 64)
    assert shared.in_flight[0] == 2.0
    later = seconds(replace(shared, waits=shared.waits + 1.0)) - seconds(shared)
    tiles = float(shared.visited @ shared.count) * 64 / RTX.sms
    assert 1.0 <= later / (tiles * RTX.l2_latency_s / 2.0) < 1.2  # a little of it from DRAM, and once more at the end


def test_without_a_compiler_a_tile_waits_for_keys_then_values_and_masks_and_tests_are_counted() -> None:
    told = call(Band(128, 0))
    untold = replace(told, **{name: np.zeros(1) for name in COMPILED})
    once, twice = (seconds(untold, replace(SGLANG, tile_round_trips=n)) for n in (1.0, 2.0))
    assert twice > once
    assert seconds(replace(untold, tests=np.zeros(1))) < once


def test_a_prompt_of_one_token_runs_the_kernel_of_prompts() -> None:
    def rows(tokens: int, cached: int) -> tuple[float, float, float]:
        workload = Workload((tokens,), 16, 64, heads_kv=2, cached=cached)
        tiles = resolve_tiles(SGLANG, Band(UNLIMITED, 0), workload, None, None)
        work = kernel_work(SGLANG, Band(UNLIMITED, 0), workload, tiles)
        calls = single_call(RTX, SGLANG, workload, Band(UNLIMITED, 0), tiles, work, DEFAULT_CONDITIONS)
        return float(calls.tile_q[0]), float(calls.packed[0]), float(forecast(RTX, SGLANG, calls).splits[0])

    assert rows(1, 0) == (64, 1, 1)
    tile, packed, splits = rows(1, 4095)
    assert (tile, packed) == (16, 8)
    assert splits > 1
    one = Workload((1,), 16, 64, heads_kv=2)
    assert use_of(RTX, "sglang-triton", one, "sglang").phase == "prefill"
    assert use_of(RTX, "triton", one, "vllm").phase == "decode"


def test_decoding_goes_over_a_list_of_a_windows_keys() -> None:
    window, causal = Band(128, 0), Band(UNLIMITED, 0)
    assert decoding(4000, 1, window).visited.tolist() == [4.0]  # 128 keys from the first on, whereever that lies
    assert decoding(100, 1, window).visited.tolist() == decoding(100, 1, causal).visited.tolist() == [4.0]


def decoding(cached: int, batch: int, pattern: Band, kv_dtype: str = "") -> Calls:
    workload = Workload((1,), 32, 128, batch=batch, heads_kv=4, cached=cached, kv_dtype=kv_dtype or None)
    tiles = resolve_tiles(SGLANG, pattern, workload, None, None)
    work = kernel_work(SGLANG, pattern, workload, tiles)
    return single_call(RTX, SGLANG, workload, pattern, tiles, work, DEFAULT_CONDITIONS)


def test_a_windows_keys_are_cut_as_all_keys_would_be() -> None:
    # 16 sequences of 4 key heads are 64 CTAs on 188 SMs: from 128 keys on three parts, of 2^15 keys eight.
    window = Band(127, 0)
    short, long = (float(forecast(RTX, SGLANG, decoding(keys - 1, 16, window)).splits[0]) for keys in (128, 1 << 15))
    assert (short, long) == (2.0, 4.0)  # four tiles of 32 keys: by two for three parts, one each for eight


def test_vllms_grid_has_q_tiles_that_no_sequence_has() -> None:
    """total_num_q_blocks is tokens // BLOCK_Q + sequences: twice as many as sequences for 16 heads of a key head."""
    vllm = load_profile("triton", RTX, "vllm")
    none = replace(vllm, splitting=replace(vllm.splitting, searches=False))

    def added_s(heads: int) -> float:
        workload = Workload((1,), 4 * heads, 192, batch=2048, heads_kv=4, cached=7, dtype="fp8")
        tiles = resolve_tiles(vllm, Band(UNLIMITED, 0), workload, None, None)
        work = kernel_work(vllm, Band(UNLIMITED, 0), workload, tiles)
        calls = single_call(RTX, vllm, workload, Band(UNLIMITED, 0), tiles, work, DEFAULT_CONDITIONS)
        return float(forecast(RTX, vllm, calls).kernel_s[0] - forecast(RTX, none, calls).kernel_s[0])

    least_s = 4 * 2048 / (RTX.dispatch_ctas_per_clock * RTX.clock_hz)
    assert added_s(16) > added_s(2) + 0.9 * least_s  # both run one program, which hides a search alike


def test_a_window_lies_in_the_last_of_vllms_segments() -> None:
    vllm = load_profile("triton", RTX, "vllm")

    def tiles_s(cached: int) -> float:
        workload = Workload((1,), 8, 192, heads_kv=1, cached=cached, dtype="fp8")
        tiles = resolve_tiles(vllm, Band(127, 0), workload, None, None)
        work = kernel_work(vllm, Band(127, 0), workload, tiles)
        found = forecast(RTX, vllm, single_call(RTX, vllm, workload, Band(127, 0), tiles, work, DEFAULT_CONDITIONS))
        assert float(found.splits[0]) == 16.0
        return float(found.compute_s[0]) if found.compute_s is not None else 0.0

    one_each, all_in_one = tiles_s(511), tiles_s(16383)  # segments of a tile, and of 32
    cycles = vllm.tile_for(1, 192, 1, 8, "fp8", "fp8", True).compiled.cycles
    assert all_in_one - one_each == pytest.approx(3 * cycles / RTX.clock_hz, rel=0.1)


def test_what_a_window_touches_decides_whether_the_l2_has_it() -> None:
    # 8 sequences of 131,072 keys are 2 GiB, the last 1,024 of each 16 MiB in all.
    touched, few = (decoding(keys - 1, 8, Band(1023, 0)) for keys in (1 << 17, 1 << 13))
    assert seconds(touched) < 1.02 * seconds(few)


def test_what_tells_where_keys_lie_takes_room_in_the_l2_too() -> None:
    calls = decoding(8063, 8, Band(UNLIMITED, 0))  # 126 MiB of keys and values, where the L2 has 128
    none, listed = (
        forecast(RTX, replace(SGLANG, serving=replace(SGLANG.serving, index_bytes=size)), calls).traffic
        for size in (0.0, 64.0)
    )
    more = float(listed.unique_bytes[0] - none.unique_bytes[0])
    assert more == 8 * 8063 * 64
    assert float(listed.dram_bytes[0] - none.dram_bytes[0]) > 5.0 * more  # keys that it drives out


def test_a_grid_of_eight_parts_costs_what_they_are_launched_for() -> None:
    many = decoding(3, 2048, Band(UNLIMITED, 0))  # all of it in the L2
    eight, one = (
        forecast(RTX, replace(SGLANG, splitting=replace(SGLANG.splitting, grid_parts=parts)), many) for parts in (8, 0)
    )
    assert float(eight.splits[0]) == 1.0
    idle = 7 * 2048 * 4
    slots = RTX.sms * float(many.in_flight[0])
    idle_s = idle * max(RTX.l2_latency_s / slots, 1.0 / (RTX.dispatch_ctas_per_clock * RTX.clock_hz))
    assert eight.parts["merge"][0] > 0.0
    assert one.parts["merge"][0] == 0.0
    added_s = float(eight.kernel_s[0] - one.kernel_s[0] - eight.parts["merge"][0])
    assert 0.8 * idle_s < added_s < 1.2 * idle_s


def test_a_prompt_over_an_fp8_cache_runs_the_kernel_built_for_one_on_keys_of_16_bits() -> None:
    def prompt(kv_dtype: str) -> Calls:
        workload = Workload((4096,), 8, 256, heads_kv=8, kv_dtype=kv_dtype)
        tiles = resolve_tiles(SGLANG, Band(UNLIMITED, 0), workload, None, None)
        work = kernel_work(SGLANG, Band(UNLIMITED, 0), workload, tiles)
        return single_call(RTX, SGLANG, workload, Band(UNLIMITED, 0), tiles, work, DEFAULT_CONDITIONS)

    sixteen, eight = prompt("bf16"), prompt("fp8")
    assert eight.kv_bytes == sixteen.kv_bytes == 2.0
    assert eight.cycles != sixteen.cycles


def test_ctas_that_share_an_sm_fill_each_others_gaps_but_only_where_there_are_enough() -> None:
    many, few = call(Band(UNLIMITED, 0), heads=64), call(Band(UNLIMITED, 0), tokens=64, heads=4)
    for calls, gains in ((many, True), (few, False)):
        alone = seconds(replace(calls, in_flight=np.ones(1)))
        assert (seconds(replace(calls, in_flight=np.full(1, 2.0))) < 0.9 * alone) is gains


def test_new_keys_are_read_as_the_layer_before_hands_them_over() -> None:
    pattern = Band(UNLIMITED, 0)
    for cached, expected in ((0, 2.0), (4096, 1.5)):
        workload = Workload((4096,), 8, 128, kv_dtype="fp8", cached=cached)
        tiles = resolve_tiles(SGLANG, pattern, workload, None, None)
        work = kernel_work(SGLANG, pattern, workload, tiles)
        calls = single_call(RTX, SGLANG, workload, pattern, tiles, work, DEFAULT_CONDITIONS)
        assert calls.kv_bytes[0] == expected


def test_head_dims_are_run_at_the_power_of_two_that_holds_them() -> None:
    causal = Band(UNLIMITED, 0)
    assert (call(causal, 192).run_dim[0], call(causal, 192).run_dim_v[0]) == (192, 256)
    # Below the head dim of 192 that prompts split in two there is none that they do.
    assert (call(causal, 160).run_dim[0], call(causal, 160).tile_q[0]) == (256, call(causal, 256).tile_q[0])
    vllm = load_profile("triton", RTX, "vllm")
    assert (call(causal, 192, profile=vllm).run_dim[0], call(causal, 192, profile=vllm).run_dim_v[0]) == (256, 256)


def test_sglang_appends_keys_and_values_of_different_head_dims_apart() -> None:
    def append_s(head_dim_v: int) -> float:
        workload = Workload((1,), 8, 192, batch=4, cached=31, head_dim_v=head_dim_v)
        conditions = Conditions(graph=True, appends=True, engine="sglang")
        return predict(workload, "causal", RTX, "sglang-triton", conditions=conditions).parts_s["append"]

    assert append_s(128) - append_s(192) > 5e-6
