"""Ranking: the machine model against compiled kernels, and one call against many."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from attncast.autotune import rank_machine as machine
from attncast.autotune.rank import feasible, few_classes, rank, take
from attncast.autotune.rank_machine import Knobs
from attncast.autotune.rank_sure import sure
from attncast.autotune.space_build import build
from attncast.hwmodels import load_gpu
from attncast.simulator import Workload, parse_pattern
from attncast.simulator.call import single_call
from attncast.simulator.forecast import forecast
from attncast.simulator.pipes import TileShape, tile_cycles
from attncast.simulator.predict import DEFAULT_CONDITIONS
from attncast.simulator.profile import load_profile

LONG = Workload((2048,), 16, 128)
NA = parse_pattern("na window=18x24x24 stride=16x8x8")


def knobs(rows, keys, warps, stages=2, tma=False, specialised=False, dim=128):
    columns = (np.array([value]) for value in (rows, keys, warps, stages, tma, specialised))
    return Knobs(*columns, dim, dim, 2)


# KvLoop.copies of compiled kernels (head dim 128, bf16, Triton 3.9): (copies of the scores, as the warps compute them).
@pytest.mark.parametrize(
    ("gpu", "tile", "copies"),
    [
        ("a100", (64, 32, 8), 2),
        ("a100", (16, 16, 4), 2),
        ("a100", (64, 64, 8), 1),
        ("a100", (128, 64, 8), 1),
        ("b200", (32, 16, 8), 4),
        ("b200", (64, 64, 8), 1),
        ("h100", (64, 64, 8), 2),
        ("h100", (16, 32, 8), 2),
        ("h100", (128, 64, 8), 1),
    ],
)
def test_copies_of_scores_are_those_of_the_compiled_loop(gpu, tile, copies):
    own = knobs(*tile)
    assert machine.score_copies(own, machine.paths(load_gpu(gpu), own))[0] == copies


# KvLoop.shared_bytes of the same kernels, with what cp.async writes.
@pytest.mark.parametrize(
    ("tile", "counted", "within"),
    [
        ((128, 64, 8), 330_752, 0.05),
        ((128, 32, 4), 120_320, 0.05),
        ((64, 64, 8), 342_016, 0.25),
        ((64, 32, 8), 248_832, 0.25),
        ((64, 32, 4), 137_216, 0.25),
    ],
)
def test_shared_memory_traffic_is_near_the_compiled_loop(tile, counted, within):
    own = knobs(*tile)
    modelled = machine._sync_bytes(own, machine.paths(load_gpu("a100"), own))[0]
    assert modelled == pytest.approx(counted, rel=within)


def test_streams_by_path():
    a100, h100, b200 = map(load_gpu, ("a100", "h100", "b200"))
    two = np.array([2.0])
    assert machine.streams(knobs(128, 64, 8), machine.paths(a100, knobs(128, 64, 8)), two)[0] == 4
    assert machine.streams(knobs(128, 64, 8), machine.paths(h100, knobs(128, 64, 8)), two)[0] == 2
    own = knobs(128, 128, 8, tma=True, specialised=True)
    assert machine.streams(own, machine.paths(b200, own), np.ones(1))[0] == 2
    # Two warps leave half of the schedulers idle.
    assert machine.streams(knobs(16, 64, 2), machine.paths(a100, knobs(16, 64, 2)), np.ones(1))[0] == 0.5


def test_overlap_lies_between_none_and_perfect():
    a = machine.overlap(np.array([0.5, 1.0, 2.0, 1000.0]))
    assert a.tolist() == [1.0, 1.0, 0.5, 0.001]


def test_a_longer_pipeline_never_waits_more():
    h100 = load_gpu("h100")
    tile, l2 = np.array([500.0]), np.array([400.0])
    waits = [
        machine.tile_wait_cycles(h100, own, machine.paths(h100, own), tile, l2, np.ones(1))[0]
        for own in (knobs(64, 32, 4, stages=stages) for stages in (1, 2, 3, 4, 5))
    ]
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > waits[-1]


def test_large_ctas_have_fewer_registers_for_a_thread():
    held = machine.held_by_estimate(load_gpu("a100"), knobs(256, 64, 16))
    assert held.registers[0] <= 128
    assert held.ctas[0] >= 1


def test_specialised_warps_share_the_registers_of_an_sm():
    b200 = load_gpu("b200")
    held = machine.held_by_estimate(b200, knobs(128, 64, 8, tma=True, specialised=True))
    assert (held.ctas[0], held.registers[0], bool(held.fits[0])) == (1, 96, True)  # 20 warps, as compiled
    held = machine.held_by_estimate(b200, knobs(128, 64, 4, tma=True, specialised=True))
    assert (held.registers[0], bool(held.fits[0])) == (168, False)  # compiled: 168 and 344 bytes spilled


@pytest.mark.parametrize("gpu", ["a100", "b200"])
@pytest.mark.parametrize("kernel", ["triton", "flex"])
def test_one_call_gives_what_each_alone_does(gpu, kernel):
    model, pattern = load_gpu(gpu), parse_pattern("causal")
    space = build(kernel, model, LONG, pattern)
    index, held = feasible(space, model, LONG)
    found = rank(space, model, LONG, DEFAULT_CONDITIONS, index, held)
    assert (np.diff(found.time_s) >= -1e-12).all()
    assert sorted(found.index) == sorted(index)
    for place in (0, found.index.size // 2, found.index.size - 1):
        at = int(np.flatnonzero(index == found.index[place])[0])
        alone = rank(space, model, LONG, DEFAULT_CONDITIONS, index[[at]], take(held, np.array([at]), index.size))
        assert alone.time_s[0] == pytest.approx(found.time_s[place], rel=1e-9)


@pytest.mark.parametrize("gpu", ["a100", "h100", "b200", "rtx5090"])
def test_more_work_never_costs_less(gpu):
    model = load_gpu(gpu)
    times = []
    for text in ("window left=255 right=0", "window left=1023 right=0", "causal", "dense"):
        space = build("triton", model, LONG, parse_pattern(text))
        index, held = feasible(space, model, LONG)
        found = rank(space, model, LONG, DEFAULT_CONDITIONS, index, held)
        times.append(dict(zip(found.index.tolist(), found.time_s, strict=True)))
    for fewer, more in itertools.pairwise(times):
        # Where all CTAs run at once the longest decides, and a causal one has masks and a second loop besides.
        assert all(fewer[i] <= more[i] * 1.05 for i in fewer)


def test_natten_on_a100_is_ranked_as_it_was_measured():
    """557 ms for 4x4x4 | 4x4x4, 222 ms for 2x8x4 | 2x8x8 (NATTEN profiler logs)."""
    workload, model = Workload((30, 48, 80), 24, 128, dtype="fp16"), load_gpu("a100")
    space = build("natten", model, workload, NA)
    index, held = feasible(space, model, workload)
    found = rank(space, model, workload, DEFAULT_CONDITIONS, index, held)
    place = {(space.config(i)["q_tile"], space.config(i)["kv_tile"]): n for n, i in enumerate(found.index.tolist())}
    tuned, default = place["2x8x4", "2x8x8"], place["4x4x4", "4x4x4"]
    assert tuned < 4
    assert found.time_s[default] / found.time_s[tuned] > 1.8
    assert found.time_s[tuned] <= 1.01 * found.time_s[0]


def test_decode_splits_a_small_batch_and_not_a_large_one():
    model, pattern = load_gpu("h100"), parse_pattern("causal")

    def best(batch):
        workload = Workload((1,), 32, 128, heads_kv=8, cached=8191, batch=batch)
        space = build("triton", model, workload, pattern)
        index, held = feasible(space, model, workload)
        found = rank(space, model, workload, DEFAULT_CONDITIONS, index, held)
        times = dict(zip(found.index.tolist(), found.time_s, strict=True))
        return space.config(int(found.index[0]))["splits"], times[0] / found.time_s[0]

    splits, gain = best(1)
    assert splits > 8
    assert gain > 3
    assert best(512)[1] < 1.1  # without a split it is as fast


def test_a_tile_that_is_told_replaces_the_model():
    model, pattern = load_gpu("h100"), parse_pattern("causal")
    profile = load_profile("triton", model)
    work = pattern.tile_work(LONG, (128,), (128,))
    call = single_call(model, profile, LONG, pattern, ((128,), (128,)), work, DEFAULT_CONDITIONS)
    shape = TileShape(
        call.tile_q, call.tile_q, call.tile_kv, call.dim, call.dim_v, call.query_bytes, call.kv_bytes, call.axes
    )
    own = tile_cycles(model, profile, profile.operations, shape, call.tensor_rate)
    plain = forecast(model, profile, call)
    assert forecast(model, profile, call, tile=own).time_s == plain.time_s
    slower = replace(own, full=2 * own.full, partial=2 * own.partial)
    assert forecast(model, profile, call, tile=slower).time_s > 1.5 * plain.time_s
    assert forecast(model, profile, call, splits=np.array([3.0])).splits == 3
    assert plain.splits == 1


def test_merged_classes_keep_the_work():
    work = parse_pattern("causal").tile_work(Workload((131_072,), 1, 64), (16,), (16,))
    few = few_classes(work)
    assert few.visited.size <= 32 < work.visited.size
    assert few.visited[0] == work.visited[0]
    for name in ("visited", "full"):
        assert (getattr(few, name) * few.count).sum() == pytest.approx((getattr(work, name) * work.count).sum())


def test_how_sure_a_ranking_is():
    apart = np.array([[0.0], [9.0]])
    assert sure(np.array([1.0]), np.zeros((1, 1))) == 1.0
    assert sure(np.array([1.0, 1.0]), apart) == pytest.approx(0.6, abs=0.05)  # a coin, and the 5% that do not count
    assert sure(np.array([1.0, 1.5]), apart) > 0.95
    assert sure(np.array([1.0, 1.2]), apart) > sure(np.array([1.0, 1.05]), apart)
    # Configurations that are nearly the same err together.
    assert sure(np.array([1.0, 1.01]), np.array([[0.0], [0.1]])) > 0.99
