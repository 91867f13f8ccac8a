"""CTAs handed out section by section, against an event simulation."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.calls import Calls
from attncast.simulator.conditions import engine_conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.patterns.band import UNLIMITED, Band
from attncast.simulator.profile import load_profile
from attncast.simulator.schedule import makespan
from attncast.simulator.sections import SECTION_BYTES, section_heads, stretch
from attncast.simulator.workload import Workload

ONE = np.zeros(1, dtype=np.int64)
H100 = load_gpu("h100")
FA3 = load_profile("fa3", H100, "vllm")


def simulated(cost, count, heads, sequences, section, sms):
    free = [0.0] * sms
    for _ in range(sequences):
        for first in range(0, heads, section):
            for own, times in zip(cost, count, strict=True):
                for _ in range(int(times) * min(section, heads - first)):
                    heapq.heappush(free, heapq.heappop(free) + own)
    return max(free)


def stretched(cost, count, heads, sequences, section, sms):
    arrays = (np.array([float(n)]) for n in (heads, sequences, section))
    return stretch(np.array(cost, float), np.array(count, float), ONE, *arrays, sms)[0]


@pytest.mark.parametrize(("heads", "sequences", "section"), [(3, 2, 1), (5, 2, 2), (8, 3, 8), (4, 4, 4)])
def test_a_section_after_the_other_takes_what_the_simulation_does(heads, sequences, section):
    cost, count = [64.0, 48.0, 16.0, 4.0], [1, 2, 2, 1]  # whole levels, so that nothing is rounded
    real = simulated(cost, count, heads, sequences, section, 20)
    every = makespan(np.array(cost), np.array(count, float) * heads * sequences, ONE, 20, True)[0]
    assert every * stretched(cost, count, heads, sequences, section, 20) == pytest.approx(real)


def test_nothing_changes_where_one_wave_holds_all_or_all_are_alike():
    assert stretched([64.0, 1.0], [1, 1], 5, 1, 1, 10) == 1.0
    assert stretched([64.0, 64.0], [1, 1], 50, 1, 1, 10) == 1.0
    assert stretched([64.0, 1.0], [1, 1], 500, 1, 1, 10) == 1.0  # so many that it would not matter


def call(tokens: int, heads_kv: int, heads: int = 32, batch: int = 1) -> Calls:
    workload = Workload((tokens,), heads, 128, heads_kv=heads_kv, batch=batch)
    pattern = Band(UNLIMITED, 0)
    tiles = resolve_tiles(FA3, pattern, workload, None, None)
    work = kernel_work(FA3, pattern, workload, tiles)
    return single_call(H100, FA3, workload, pattern, tiles, work, engine_conditions("vllm", workload))


def test_a_section_has_as_many_heads_as_fit_its_share_of_the_l2():
    one = np.ones(1)
    for tokens, heads in ((1024, 16), (2048, 8), (4096, 4), (8192, 2), (16384, 1), (131072, 1)):
        assert tokens * 2 * 128 * 2 * heads <= SECTION_BYTES or heads == 1
        assert section_heads(call(tokens, 32), one)[0] == heads
    assert section_heads(call(1024, 2), one)[0] == 2
    assert section_heads(call(1024, 32), 2 * one)[0] == 1  # parts come head by head


def test_a_call_of_two_waves_takes_longer_than_with_the_longest_first():
    calls = call(1536, 4, heads=4, batch=8)
    ours, best = (forecast(H100, replace(FA3, order=order), calls) for order in ("sections", "longest-first"))
    assert ours.time_s[0] > 1.02 * best.time_s[0]
    assert sum(ours.parts.values())[0] == pytest.approx(ours.time_s[0])
