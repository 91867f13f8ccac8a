"""The search for a neighborhood pattern."""

from __future__ import annotations

import math

import pytest

from attncast import InputError, Workload, predict
from attncast.hwmodels import load_gpu
from attncast.simulator.advise import SLACK, advise

HUNYUAN = Workload("30x48x80", 24, 128, dtype="fp16")


def test_hunyuan_on_h100_needs_no_coarse_stride():
    # NATTEN's users take stride 16x8x8 for this window: 2x8x8 visits the same 81 tiles.
    found = advise(HUNYUAN, load_gpu("h100"), 0.09, window="18x24x24")
    assert (found.best.pattern.stride, found.best.q_tile, found.best.kv_tile) == ((2, 8, 8), (2, 8, 8), (2, 8, 8))
    assert (found.best.visited, found.best.masked) == (81, False)
    coarse = predict(HUNYUAN, "na window=18x24x24 stride=16x8x8", "h100", "natten", q_tile="2x8x8", kv_tile="2x8x8")
    assert coarse.work.visited_max == 81
    # The same tiles to the last one; but more Q tiles begin with keys of their own, for which the first CTAs of a wave wait.
    best = predict(HUNYUAN, found.best.pattern, "h100", "natten", q_tile="2x8x8", kv_tile="2x8x8")
    assert best.time_s == pytest.approx(found.best.time_s)
    assert (best.work.visited_total, best.work.full_total) == (coarse.work.visited_total, coarse.work.full_total)
    assert best.work.starts > coarse.work.starts
    assert coarse.time_s < best.time_s < 1.002 * coarse.time_s
    says = " / ".join(sentence for _, sentence in found.alternatives)
    assert "visits the same 81 tiles as 2x8x8 and gains nothing" in says
    assert "a true sliding window" in says
    assert "row order" in says


@pytest.mark.parametrize("gpu", ["a100", "h100", "b200"])
@pytest.mark.parametrize("coverage", [0.02, 0.3, 1.0])
def test_every_option_keeps_the_share_and_is_what_predict_says(gpu, coverage):
    workload = Workload("16x32x32", 8, 64)
    found = advise(workload, load_gpu(gpu), coverage)
    for option in (found.best, *found.windows):
        assert coverage <= option.coverage + 1e-9
        assert option.coverage <= SLACK * coverage + 1e-9 or option.coverage == found.best.coverage
        assert option.coverage == pytest.approx(math.prod(option.pattern.window) / workload.tokens)
        tiles = {"q_tile": option.q_tile, "kv_tile": option.kv_tile}
        estimate = predict(workload, option.pattern, gpu, option.kernel, **tiles)
        assert estimate.time_s == pytest.approx(option.time_s)
        assert option.visited == estimate.work.visited_max
        assert option.time_s >= found.best.time_s / 1.006


def test_less_coverage_is_never_slower():
    times = [advise(HUNYUAN, load_gpu("b200"), share).best.time_s for share in (0.05, 0.1, 0.2, 0.4)]
    assert times == sorted(times)


def test_one_axis_is_a_search_too():
    found = advise(Workload(32768, 8, 128), load_gpu("h100"), 1 / 16)
    assert found.best.pattern.window == (2048,)
    assert found.best.pattern.stride == (256,)  # the finest without masks: NATTEN documents this stride for the case


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"coverage": 0.0}, ["coverage 0", "0.09"]),
        ({"coverage": float("nan")}, ["nan"]),
        ({"coverage": 0.1, "window": "31x8x8"}, ["'31x8x8'", "axis 0"]),
        ({"coverage": 0.1, "kernel": "fa3"}, ["'fa3'"]),
    ],
)
def test_bad_searches_are_refused(arguments, words):
    with pytest.raises(InputError) as error:
        advise(HUNYUAN, load_gpu("h100"), **arguments)
    for word in words:
        assert word in str(error.value)
