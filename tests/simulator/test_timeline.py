"""The timeline of a forecast's schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast.simulator import Workload, predict
from attncast.simulator.schedule import Dispatch
from attncast.simulator.timeline import timeline

CALLS = {
    "even": (Workload((30, 48, 80), 24, 128), "na window=18x24x24 stride=16x8x8", "h100"),
    "longest first": (Workload(8192, 32, 128), "causal", "h100"),
    "ragged": (Workload(8192, 32, 128, batch=2), "causal", "a100"),
    "split keys": (Workload(1, 32, 128, cached=8191, batch=4), "causal", "h100"),
    "one CTA": (Workload(16, 1, 128), "dense", "a100"),
}


@pytest.mark.parametrize("name", CALLS)
def test_events_fill_the_forecast_span_without_overlap(name):
    workload, pattern, gpu = CALLS[name]
    estimate = predict(workload, pattern, gpu)
    found = timeline(estimate.dispatch)
    parts = estimate.parts_s
    # What the SMs take, before memory outlasts them: the parts that are theirs.
    assert found.end_s == pytest.approx(estimate.dispatch.span_s, rel=1e-9)
    if parts["memory"] == 0:
        assert found.end_s == pytest.approx(parts["tiles"] + parts["schedule"], rel=1e-9)
    assert (found.start_s + found.duration_s).max() == pytest.approx(found.end_s, rel=1e-9)
    assert found.ctas.sum() == round(estimate.dispatch.count.sum())
    # The formula for the end of a schedule stands for schedules like this one.
    assert found.stretch == pytest.approx(1.0, abs=0.1)
    for sm in np.unique(found.sm):
        mine = found.sm == sm
        ends = found.start_s[mine] + found.duration_s[mine]
        assert (found.start_s[mine][1:] >= ends[:-1] - 1e-12).all()


def test_a_kernel_that_starts_with_its_shortest_ctas_ends_with_its_longest():
    found = timeline(predict(Workload(4096, 32, 128), "causal", "h100", "sglang-triton").dispatch)
    for sm in np.unique(found.sm):
        visited = (found.visited / found.ctas)[found.sm == sm]
        assert visited.size > 1
        assert (np.diff(visited) >= 0).all()


def test_merging_keeps_sums():
    dispatch = Dispatch(np.array([3.0, 1.0]), np.array([6.0, 2.0]), np.array([500.0, 700.0]), 7, "longest", 0.5, 0.0)
    dispatch = replace(dispatch, span_s=320.0)
    whole, merged = timeline(dispatch), timeline(dispatch, max_events=100)
    assert whole.sm.size == 1200
    assert whole.ctas_per_event == 1
    assert merged.sm.size <= 110
    assert merged.ctas.sum() == 1200
    assert merged.visited.sum() == pytest.approx(whole.visited.sum()) == 500 * 6 + 700 * 2
    assert merged.duration_s.sum() == pytest.approx(whole.duration_s.sum())
    assert merged.end_s == whole.end_s == pytest.approx(320.0)


def test_too_many_ctas_are_handed_out_several_at_a_time():
    dispatch = Dispatch(
        np.array([2.0, 1.0]), np.array([2.0, 1.0]), np.array([1.5e6, 10.0]), 100, "longest", 0.0, 30000.0
    )
    found = timeline(dispatch)
    assert found.ctas.sum() == 1_500_010
    assert found.sm.size < 21_000
    assert found.end_s == pytest.approx(30000.0)
