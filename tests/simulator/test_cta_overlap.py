"""CTAs that share an SM fill each other's gaps; queries are quantised by SMs, not by DRAM alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast import Conditions, Workload, predict
from attncast.hwmodels import load_gpu
from attncast.simulator import passes, pipes
from attncast.simulator.pipes import PIPES, resident_ctas, tile_cycles
from attncast.simulator.profile import load_profile
from attncast.simulator.tile_shape import TileShape
from attncast.simulator.tiles import Floats

A100 = load_gpu("a100")
PAGED = load_profile("fa2", A100, "vllm")


def shape(rows=64, keys=128, dim=128, **more: float) -> TileShape:
    sizes = (rows, rows, keys, dim, dim, 2, 2, 1)
    return TileShape(*(np.array([float(n)]) for n in sizes), **{name: np.array([float(n)]) for name, n in more.items()})


def cycles(profile, tile: TileShape) -> tuple[Floats, Floats, Floats]:
    """Of a full tile for a CTA beside the others that fit, over their number; of its slowest pipe; and of all of them."""
    found = tile_cycles(A100, profile, profile.operations, tile, np.array([2048.0]))
    parts = np.array([found.pipes[name] for name in PIPES])
    assert found.chain is not None
    return found.chain[0], parts.max(0), parts.sum(0)


def test_each_of_n_ctas_overlaps_n_times_as_well():
    tile = shape()
    assert resident_ctas(A100, PAGED, tile)[0] == 2  # 16 KiB of Q, 64 of K and V
    both, slowest, whole = cycles(PAGED, tile)
    assert both == pytest.approx(slowest + 0.5 * PAGED.overlap * (whole - slowest))
    alone, _, _ = cycles(PAGED, shape(resident=1))
    assert alone == pytest.approx(slowest + PAGED.overlap * (whole - slowest))
    assert cycles(PAGED, shape(resident=2))[0] == both
    # At head dim 256 only one fits, whatever the grid.
    assert resident_ctas(A100, PAGED, shape(keys=64, dim=256))[0] == 1
    assert cycles(PAGED, shape(keys=64, dim=256))[0] == cycles(PAGED, shape(keys=64, dim=256, resident=1))[0]


def test_a_cta_of_eight_warps_overlaps_itself_and_reads_operands_more_often():
    profile = load_profile("fa3", A100)
    four, eight = shape(rows=128, keys=64), shape(rows=128, keys=64, threads=256)
    cycles_of = {
        name: tile_cycles(A100, profile, profile.operations, tile, np.array([2048.0]))
        for name, tile in (("four", four), ("eight", eight))
    }
    written_and_read = cycles_of["eight"].pipes["smem"] / cycles_of["four"].pipes["smem"]
    assert written_and_read == pytest.approx((1 + 8) / (1 + 4))
    parts = np.array([cycles_of["eight"].pipes[name] for name in PIPES])
    slowest, whole = parts.max(0), parts.sum(0)
    assert cycles_of["eight"].chain is not None
    beside = cycles_of["eight"].chain[0]
    assert beside == pytest.approx(slowest + profile.overlap / 4 * (whole - slowest))
    assert pipes.combine(profile, cycles_of["eight"].pipes) > beside


def test_a_second_cta_on_an_sm_costs_less_than_the_first():
    def span_s(ctas: int) -> float:
        workload = Workload(64, 1, 128, batch=ctas, cached=4032)  # one Q tile of 64 rows for each sequence
        found = predict(workload, "dense", A100, "fa2", conditions=Conditions(engine="vllm")).dispatch
        assert found is not None
        return found.span_s

    few, each, two = (span_s(ctas) for ctas in (A100.sms // 2, A100.sms, 2 * A100.sms))
    assert each == pytest.approx(few, rel=0.02)  # one on each SM: as long as alone
    assert 1.2 * each < two < 1.9 * each


def test_queries_are_quantised_no_faster_than_dram_moves_them():
    clock_hz = np.array([A100.clock_hz])
    size = np.array([1e9])
    at_peak = size / A100.dram_bandwidth_bytes_s
    plain = passes._quantising_seconds(A100, PAGED, size, clock_hz)
    assert plain == pytest.approx(at_peak / A100.dram_efficiency)
    slow = passes._quantising_seconds(A100, replace(PAGED, query_rate=5.0), size, clock_hz)
    assert slow == pytest.approx(size / (5.0 * A100.sms * clock_hz))
    assert passes._quantising_seconds(A100, replace(PAGED, query_rate=64.0), size, clock_hz) == pytest.approx(at_peak)
