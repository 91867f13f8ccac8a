"""Registers that a kernel spills: what of them DRAM takes, counted CTA by CTA."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator import memory
from attncast.simulator.advice import advice
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import Conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.patterns.band import UNLIMITED, Band
from attncast.simulator.predict import predict
from attncast.simulator.profile import load_profile
from attncast.simulator.workload import Workload

RTX = load_gpu("rtx-pro-6000")
SGLANG = load_profile("sglang-triton", RTX)
WINDOW = 1024
SERVED = Conditions(engine="sglang")


def called(batch: int, tokens: int, left: int = WINDOW):
    workload = Workload((tokens,), 16, 256, batch=batch, heads_kv=8, dtype="bf16")
    pattern = Band(left, 0)
    tiles = resolve_tiles(SGLANG, pattern, workload, None, None)
    work = kernel_work(SGLANG, pattern, workload, tiles)
    return single_call(RTX, SGLANG, workload, pattern, tiles, work, SERVED)


def stored_by_hand(batch: int, tokens: int) -> float:
    """Bytes that all threads store: each CTA's once, and those of each KV tile that a window touches."""
    (compiled,) = {
        tile.compiled
        for tile in SGLANG.tiles
        if tile.max_head_dim == 256 and tile.windowed and not tile.dtypes and not tile.kv_dtypes
    }
    assert compiled is not None
    stored = 0.0
    for first in range(0, tokens, 64):
        rows = range(first, min(first + 64, tokens))
        tiles = {key // 64 for row in rows for key in range(max(0, row - WINDOW), row + 1)}
        stored += compiled.end_stored_bytes + len(tiles) * compiled.stored_bytes
    return stored * compiled.threads * batch * 16


@pytest.mark.parametrize(("batch", "tokens"), [(16, 64), (2, 1500), (1, 3000)])
def test_frames_beyond_half_of_the_l2_are_written_to_dram(batch: int, tokens: int) -> None:
    calls = called(batch, tokens)
    spilled = forecast(RTX, SGLANG, calls).traffic
    kept = forecast(RTX, SGLANG, replace(calls, frame_bytes=np.zeros(1))).traffic
    assert spilled.register_bytes == pytest.approx(stored_by_hand(batch, tokens))
    assert spilled.dram_bytes - kept.dram_bytes == pytest.approx(spilled.register_bytes)


def test_a_few_ctas_keep_what_they_spill_in_the_l2() -> None:
    few = called(8, 64)  # 128 CTAs
    held = 128 * few.threads * few.frame_bytes
    assert held < memory.DIRTY * RTX.l2_bytes < held * RTX.sms / 128
    assert forecast(RTX, SGLANG, few).traffic.register_bytes == 0


@pytest.mark.parametrize(
    ("batch", "tokens", "dtype", "said"), [(32, 1024, "bf16", True), (32, 1024, "fp8", False), (8, 64, "bf16", False)]
)
def test_a_forecast_says_where_they_go(batch: int, tokens: int, dtype: str, said: bool) -> None:
    workload = Workload((tokens,), 16, 256, batch=batch, heads_kv=8, dtype=dtype)
    estimate = predict(workload, Band(WINDOW, 0), RTX, kernel="sglang-triton", conditions=SERVED)
    assert any("Registers spill" in note for note in estimate.notes) == said
    assert ("Spilled registers decide" in advice(estimate, workload, Band(WINDOW, 0), RTX, SERVED)) == said


@pytest.mark.parametrize(
    ("gpu", "held", "written"),
    [
        ("rtx-pro-6000", 0.49, 0),
        ("rtx-pro-6000", 0.51, 1),
        ("rtx5090", 0.51, 1),
        ("h100", 0.99, 0),
        ("h100", 1.01, 1),
        ("a100", 0.9, 0),
    ],
)
def test_what_an_l2_keeps_of_registers(gpu: str, held: float, written: float) -> None:
    """Nothing was measured of L2s in two parts: beyond the whole nothing else is possible."""
    model = load_gpu(gpu)
    assert memory.written_back(model, np.array([held * model.l2_bytes]), np.array([7.0])) == 7.0 * written


def test_time_grows_with_what_is_spilled() -> None:
    calls = called(64, 1024)
    times = [
        forecast(RTX, SGLANG, replace(calls, stored_bytes=np.array([float(stored)]))).time_s[0]
        for stored in (0, 1000, 2000, 4000)
    ]
    assert times == sorted(times)
    assert times[-1] > 1.5 * times[0]


def test_all_keys_are_no_window() -> None:
    """A prompt without a window runs a program of its own, that spills nothing."""
    assert called(64, 1024, UNLIMITED).frame_bytes == 0
