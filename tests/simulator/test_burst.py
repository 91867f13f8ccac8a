"""CTAs that begin together and ask for their first operands at once: what DRAM must bring, and whom it keeps waiting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator import memory, parse_pattern, pipes, schedule
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import Conditions
from attncast.simulator.cta_life import burst_cycles
from attncast.simulator.forecast import forecast
from attncast.simulator.profile import load_profile
from attncast.simulator.workload import Workload

H100 = load_gpu("h100")
FNA = load_profile("natten", H100)
LONG = Workload(32768, 1, 128, dtype="fp16")
TILE = 128 * 128 * 2.0  # bytes of a Q tile, and of the keys of a KV tile


def call(pattern: str, warm: bool = False, workload: Workload = LONG, profile=FNA):
    found = parse_pattern(pattern)
    tiles = resolve_tiles(profile, found, workload, None, None)
    work = kernel_work(profile, found, workload, tiles)
    return single_call(H100, profile, workload, found, tiles, work, Conditions(warm_l2=warm))


def waits(calls, profile=FNA, splits: float = 1.0, cold: float = 1.0):
    traffic = memory.Traffic(*np.zeros((3, 1)), cold=np.array([cold]))
    q_tiles = np.array([calls.count.sum()])
    one = np.ones(1)
    return float(burst_cycles(H100, profile, calls, q_tiles, splits * one, one, traffic, H100.clock_hz * one)[0])


@pytest.mark.parametrize("stride", [1, 256, 2048])
def test_the_first_wave_asks_for_as_many_tiles_as_by_brute_force(stride):
    leaders = np.minimum(np.arange(132) * 128 // stride * stride + stride // 2, 32767)
    distinct = len({max(leader - 1024, 0) // 128 for leader in leaders})
    brought_s = memory.dram_seconds(H100, np.array((132 + distinct) * TILE))
    expected = brought_s * H100.clock_hz - memory.l2_cycles(H100, np.array(2 * TILE))
    assert waits(call(f"na window=2048 stride={stride}")) == pytest.approx(expected, rel=0.02)


def test_nothing_is_waited_for_that_the_l2_holds():
    calls = call("na window=2048")
    assert waits(calls, cold=0.0) == 0.0
    assert waits(calls, cold=0.5) < 0.5 * waits(calls)
    assert waits(calls, replace(FNA, products=replace(FNA.products, exposed_ends=False))) == 0.0


def test_heads_that_share_keys_and_parts_of_their_own():
    wide = Workload(2048, 32, 128, heads_kv=4, dtype="bf16")
    profile = replace(load_profile("fa2", H100), in_flight=1)
    for order in ("launch", "longest-first"):
        each = replace(profile, order=order)
        dense, alone = (call("dense", workload=replace(wide, heads_kv=heads), profile=each) for heads in (4, 32))
        assert waits(dense, each) < waits(alone, each)
        assert waits(dense, each) < waits(dense, each, splits=8.0)


def test_later_waves_wait_again_only_where_ctas_begin_with_them():
    calls = call("na window=2048")
    fresh, going_on = (replace(FNA, products=replace(FNA.products, tile_ctas=tile_ctas)) for tile_ctas in (True, False))
    burst_s = waits(calls) / H100.clock_hz
    warm_s, once_s, again_s = (
        forecast(H100, profile, each).time_s[0]
        for profile, each in ((fresh, call("na window=2048", warm=True)), (going_on, calls), (fresh, calls))
    )
    assert again_s - once_s == pytest.approx(burst_s, rel=0.05)  # 256 CTAs: two waves
    assert warm_s < once_s < again_s


def test_keys_of_their_own_cost_only_a_cold_call():
    times = {
        (stride, warm): forecast(H100, FNA, call(f"na window=2048 stride={stride}", warm=warm)).time_s[0]
        for stride in (256, 2048)
        for warm in (False, True)
    }
    assert times[256, False] > times[2048, False] > times[2048, True]
    small = Workload(8192, 1, 128, dtype="fp16")  # fits the L2
    near, far = (forecast(H100, FNA, call(f"na window=2048 stride={s}", True, small)).time_s[0] for s in (256, 2048))
    assert near == pytest.approx(far)


def test_ctas_that_differ_do_not_keep_step():
    row, count = np.array([0, 1, 3]), np.array([4.0, 1.0, 3.0, 1.0, 1.0])
    alike = schedule.keeping_step(np.array([5.0, 8.0, 2.0, 10.0, 9.5]), count, row)
    assert alike == pytest.approx([1.0, 0.0, 1.0 - 0.025 / schedule.EVEN])


def test_masks_counted_for_each_number_of_axes():
    ones = np.ones(3)
    tile = pipes.TileShape(128 * ones, 128 * ones, 128 * ones, *(ones,) * 4, axes=np.array([1.0, 2.0, 3.0]))
    cycles = pipes.mask_alu_cycles(H100, FNA, tile)
    assert cycles == pytest.approx(128 * 128 / 64 * np.array([5.0, 5.9, 8.3]))
