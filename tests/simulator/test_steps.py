"""CTAs that keep step: turns against the loops written out, waves against a simulation, and what memory adds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast.simulator import steps
from attncast.simulator.waiting import Ctas

NONE = np.zeros(1, dtype=np.bool_)


def turns_of_schedulers(keys: int, at_once: int, unroll: int, threads: int) -> int:
    """The loops of TensorRT-LLM's masked multi-head attention: warp turns of the busiest of four schedulers."""
    taken = [0] * 4
    keys_of_warp = at_once // (threads // 32)
    for warp in range(threads // 32):
        first = warp * keys_of_warp
        while first < keys:
            taken[warp % 4] += 1
            first += at_once * unroll
    return max(taken)


@given(st.integers(0, 5000), st.sampled_from([8, 16, 32]), st.sampled_from([4, 8]), st.sampled_from([256, 512, 1024]))
def test_the_busiest_scheduler_takes_as_many_turns_as_the_loops_say(keys, tile, unroll, threads):
    wide = threads // 256
    warps = threads / 32 / 4
    found = steps.busy_turns(np.array([float(keys)]), np.array([float(tile * wide)]), float(unroll), warps)
    assert found[0] * warps == pytest.approx(turns_of_schedulers(keys, tile * wide, unroll, threads))


def simulated(work: float, latency: float, ctas: int, sms: int, residents: int) -> float:
    """SMs that share their pipe evenly among the CTAs that are past their latency; a place that is free is filled at once."""
    ends = []
    for sm in range(sms):
        queue, now = len(range(sm, ctas, sms)), 0.0
        running: list[list[float]] = []  # latency and work left
        while queue or running:
            while queue and len(running) < residents:
                running.append([latency, work])
                queue -= 1
            working = [cta for cta in running if cta[0] <= 0]
            pace = 1.0 / max(len(working), 1)
            step = min(cta[1] / pace if cta[0] <= 0 else cta[0] for cta in running)
            for cta in running:
                if cta[0] <= 0:
                    cta[1] -= step * pace
                else:
                    cta[0] -= step
            now += step
            running = [cta for cta in running if cta[0] > 1e-9 or cta[1] > 1e-9]
        ends.append(now)
    return max(ends)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_ctas_that_are_alike_run_in_waves_whose_latencies_nothing_hides(ctas, sms, residents, work, latency):
    grid = Ctas(
        np.array([float(ctas)]), np.zeros(1, dtype=np.int64), np.ones(1), sms, np.array([float(residents)]), False, NONE
    )
    found = steps.span_cycles(np.array([work]), np.array([latency]), grid)[0]
    assert found == pytest.approx(simulated(work, latency, ctas, sms, residents), rel=1e-6)


def test_dram_idles_at_both_ends_and_at_the_first_change_of_waves():
    def paced(ctas):
        grid = Ctas(np.array([ctas]), np.zeros(1, dtype=np.int64), np.ones(1), 10, np.array([1.0]), False, NONE)
        memory, none = np.array([100.0 * ctas]), np.zeros(1)
        return steps.seconds_with_memory(memory, none, np.array([7.0]), none, grid)[0]

    assert [paced(ctas) - 100.0 * ctas for ctas in (10.0, 20.0, 80.0)] == pytest.approx([7.0, 14.0, 14.0])


def test_the_last_wave_takes_a_ctas_own_time_however_few_they_are():
    grid = Ctas(np.array([11.0]), np.zeros(1, dtype=np.int64), np.ones(1), 10, np.array([1.0]), False, NONE)
    work, life, waits = np.array([30.0]), np.array([2.0]), np.array([5.0])
    found = steps.seconds_with_memory(np.array([110.0]), work, life, waits, grid)[0]
    assert found == pytest.approx(100.0 + 2 * 2.0 + 35.0)
