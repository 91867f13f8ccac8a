"""What must hold of any forecast, whatever the kernel: found broken by asking for calls at random."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attncast import InputError, Workload, parse_pattern, predict
from attncast.hwmodels import load_gpu
from attncast.simulator.advise import advise
from attncast.simulator.batch import stack
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import engine_conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.profile import load_profile


@pytest.mark.parametrize(
    ("gpu", "workload", "pattern"),
    [
        ("rtx5090", Workload(2, 32, 40, batch=17, heads_kv=2, cached=4096, dtype="fp8"), "causal"),
        ("l40s", Workload(5, 16, 128, batch=16, heads_kv=1, cached=2816, dtype="fp8"), "window left=4096 right=0"),
        ("h200", Workload(4, 12, 112, batch=6, heads_kv=2, cached=1024, kv_dtype="fp8"), "window left=2 right=5"),
    ],
)
def test_segments_of_unequal_q_tiles_take_as_long_alone_as_among_others(gpu, workload, pattern):
    conditions = engine_conditions("vllm", workload)
    estimate = predict(workload, pattern, gpu, "triton", conditions=conditions)
    assert estimate.splits > 1
    model, band = load_gpu(gpu), parse_pattern(pattern)
    profile = load_profile("triton", model, "vllm")
    tiles = resolve_tiles(profile, band, workload, None, None)
    work = kernel_work(profile, band, workload, tiles)
    assert work.visited.size > 1
    call = single_call(model, profile, workload, band, tiles, work, conditions)
    np.testing.assert_allclose(forecast(model, profile, stack([call, call])).time_s, estimate.time_s, rtol=1e-12)
    assert math.isfinite(estimate.time_s)


@pytest.mark.parametrize("kernel", ["trtllm", "fa3", "cudnn"])
def test_a_kernel_is_no_faster_than_itself(kernel):
    token = Workload(1, 32, 128, batch=32, heads_kv=8, cached=8191)
    estimate = predict(token, "dense", "a100" if kernel == "fa3" else "h100", kernel, baseline=kernel)
    assert estimate.speedup == pytest.approx(1.0, rel=1e-12)
    assert estimate.baseline.kernel == estimate.kernel


@pytest.mark.parametrize(
    ("kernel", "gpu", "most"), [("mmha", "h100", 1), ("xqa", "a100", 8), ("trtllm-decode", "b200", 8)]
)
def test_a_kernel_that_only_decodes_takes_no_prompt(kernel, gpu, most):
    for asked in ({"kernel": kernel}, {"baseline": kernel}):
        with pytest.raises(
            InputError, match=f"kernel '{kernel}' only decodes: expected at most {most} new tokens?, not 2,048"
        ):
            predict(Workload(2048, 32, 128, heads_kv=8), "causal", gpu, **asked)
    assert predict(Workload(most, 32, 128, heads_kv=8, cached=2048), "causal", gpu, kernel).kernel == kernel


@pytest.mark.parametrize(("gpu", "head_dim"), [("b300", 192), ("b200", 192), ("gb200", 256)])
def test_what_users_would_run_has_tiles_for_the_grid_and_the_head_dim(gpu, head_dim):
    # Our Triton kernel takes head dim 192 on a line of tokens, but not on a plane.
    plane, line = Workload("64x64", 8, head_dim), Workload(4096, 8, head_dim)
    assert predict(plane, "na window=16x16 stride=8x8", gpu).kernel == "flex"
    assert advise(plane, load_gpu(gpu), 0.1).best.kernel == "flex"
    assert predict(line, "na window=256 stride=64", gpu).kernel == "triton"
    with pytest.raises(InputError, match=rf"no kernel on {gpu} takes 'fp8' with head dim {head_dim}: natten"):
        predict(Workload("64x64", 8, head_dim, dtype="fp8"), "na window=16x16", gpu)


@pytest.mark.parametrize(
    ("gpu", "kernel"), [("h100", "fa3"), ("a100", "fa2"), ("b200", "trtllm"), ("rtx5090", "flashinfer")]
)
def test_keys_outside_a_window_are_not_read_however_many_q_tiles_there_are(gpu, kernel):
    window = "window left=511 right=0"
    few, many = (
        predict(Workload(64, 64, 128, batch=8, heads_kv=8, cached=cached), window, gpu, kernel)
        for cached in (1024, 131072)
    )
    assert many.traffic_bytes["unique"] == pytest.approx(few.traffic_bytes["unique"], rel=0.01)
    assert many.time_s < 1.05 * few.time_s


def test_a_window_reads_what_lies_in_it():
    work = Workload(2048, 8, 128, batch=4, cached=1 << 17)
    read = predict(work, "window left=1023 right=0", "a100", "fa2").traffic_bytes["unique"]
    around = 2 * 4 * 8 * 2048 * 128 * 2
    keys = 2048 + 1023
    assert around + 2 * 4 * 8 * keys * 128 * 2 <= read <= around + 2 * 4 * 8 * (keys + 128) * 128 * 2
