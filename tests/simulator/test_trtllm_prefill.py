"""What TensorRT-LLM's prompt kernels and the pass before them do, as read in their code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator import Workload, parse_pattern
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import engine_conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.profile import load_profile

HOPPER, BLACKWELL = load_gpu("h100"), load_gpu("b200")


def arrays(gpu, tokens=2048, batch=8, dtype="bf16", pattern="causal", heads=32, heads_kv=8, dim=64, engine="trtllm"):
    workload = Workload((tokens,), heads, dim, heads_kv=heads_kv, batch=batch, dtype=dtype)
    profile, band = load_profile("trtllm", gpu), parse_pattern(pattern)
    tiles = resolve_tiles(profile, band, workload, None, None)
    work = kernel_work(profile, band, workload, tiles)
    return profile, single_call(gpu, profile, workload, band, tiles, work, engine_conditions(engine, workload))


def cost(gpu, **shape):
    profile, calls = arrays(gpu, **shape)
    return forecast(gpu, profile, calls)


@pytest.mark.parametrize(
    ("dim", "dtype", "run"), [(192, "bf16", 192), (192, "fp8", 256), (96, "bf16", 128), (80, "fp8", 128)]
)
def test_hopper_pads_head_dims_to_rows_of_128_bytes(dim, dtype, run):
    _, calls = arrays(HOPPER, dim=dim, dtype=dtype)
    assert calls.run_dim[0] == calls.run_dim_v[0] == run


@pytest.mark.parametrize("gpu", [HOPPER, BLACKWELL])
def test_a_window_compares_a_bound_more_than_the_diagonal(gpu):
    _, causal = arrays(gpu)
    _, window = arrays(gpu, pattern="window left=127 right=0")
    _, wide = arrays(gpu, pattern="window left=4095 right=0")
    assert window.axes[0] == causal.axes[0] + 1
    assert wide.axes[0] == causal.axes[0]  # it holds all keys


def test_rotating_queries_hides_the_keys_of_a_group():
    def append_s(heads_kv):
        profile, calls = arrays(BLACKWELL, heads_kv=heads_kv)
        return forecast(BLACKWELL, replace(profile, query_rate=14.0), calls).parts["append"][0]

    assert append_s(1) == append_s(4)
    assert append_s(32) > append_s(4)  # more bytes than the queries take to rotate


def test_keys_of_a_token_are_appended_without_a_cta_for_each_where_queries_are_rotated():
    together, apart = (cost(BLACKWELL, tokens=4096, engine=engine).parts["append"][0] for engine in ("trtllm", "vllm"))
    assert together < apart


def test_empty_rows_of_a_tile_are_not_written():
    few, half, full = (cost(BLACKWELL, tokens=tokens, batch=64).compute_s[0] for tokens in (16, 64, 128))
    assert few < half < full
