"""What TensorRT-LLM's prompt kernels and the pass before them do, as read in their code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator import Workload, parse_pattern, predict
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import engine_conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.profile import load_profile

HOPPER, BLACKWELL = load_gpu("h100"), load_gpu("b200")


def arrays(
    gpu,
    tokens=2048,
    batch=8,
    dtype="bf16",
    pattern="causal",
    heads=32,
    heads_kv=8,
    dim=64,
    engine="trtllm",
    rotary_dim=0,
):
    workload = Workload((tokens,), heads, dim, heads_kv=heads_kv, batch=batch, dtype=dtype)
    profile, band = load_profile("trtllm", gpu), parse_pattern(pattern)
    tiles = resolve_tiles(profile, band, workload, None, None)
    work = kernel_work(profile, band, workload, tiles)
    conditions = replace(engine_conditions(engine, workload), rotary_dim=rotary_dim)
    return profile, single_call(gpu, profile, workload, band, tiles, work, conditions)


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


def test_hoppers_overlap_is_what_flash_attention_3_takes_without_its_own():
    # arXiv 2407.08608, ablation: 4 sequences of 8448 tokens, 16 heads of 128, not causal, without pipelining in a warpgroup.
    workload = Workload((8448,), 16, 128, batch=4, dtype="fp16")
    assert predict(workload, "dense", "h100", "trtllm").time_s == pytest.approx(4.02e-3, rel=0.01)


@pytest.mark.parametrize(("tokens", "tiles"), [(1, 2), (64, 2), (65, 2), (128, 2), (129, 6), (192, 6)])
def test_hoppers_last_q_tile_goes_on_to_the_diagonal_of_its_last_row(tokens, tiles):
    _, calls = arrays(HOPPER, tokens=tokens, dim=256)  # tiles of 128 rows and of 64 keys
    assert (calls.tile_q[0], calls.tile_kv[0]) == (128, 64)
    assert (calls.visited * calls.count).sum() == tiles
    assert (calls.full < calls.visited).all()
    _, calls = arrays(BLACKWELL, tokens=tokens, dim=256)
    assert (calls.visited * calls.count).sum() == (1 if tokens <= 128 else 3)


@pytest.mark.parametrize(("gpu", "tokens", "said"), [("h100", 64, True), ("h100", 256, False), ("b200", 64, False)])
def test_tiles_of_no_key_are_told(gpu, tokens, said):
    notes = predict(Workload(tokens, 8, 256), "causal", gpu, "trtllm").notes
    assert any("KV tiles of no key" in note for note in notes) == said


@pytest.mark.parametrize("gpu", [HOPPER, BLACKWELL])
def test_the_one_key_of_a_prompt_of_one_token_is_told_from_those_of_its_tile_that_are_not(gpu):
    profile, calls = arrays(gpu, tokens=1)
    unmasked = replace(profile, masking=replace(profile.masking, first=False))
    alone = replace(calls, full=calls.visited)
    assert forecast(gpu, profile, alone).limits["mask"][0] > forecast(gpu, unmasked, alone).limits["mask"][0] == 0.0


@pytest.mark.parametrize(("dim", "dtype", "tokens"), [(64, "bf16", 1), (128, "bf16", 128), (192, "fp8", 1000)])
def test_a_tiles_queries_come_from_the_l2_once_the_last_tiles_are_done_with(dim, dtype, tokens):
    shape = {"heads": 1, "heads_kv": 1, "dim": dim, "dtype": dtype, "pattern": "dense"}
    profile, calls = arrays(HOPPER, tokens=tokens, batch=HOPPER.sms, **shape)
    assert profile.products.one_query_buffer
    ahead = replace(profile, products=replace(profile.products, one_query_buffer=False))
    waits, hidden = (forecast(HOPPER, each, replace(calls, locked_hz=np.array([1e9]))) for each in (profile, ahead))
    cycles = 128 * dim * calls.query_bytes[0] / HOPPER.l2_bandwidth_bytes_s * HOPPER.sms * HOPPER.clock_hz
    q_tiles = calls.count.sum()  # of each SM
    assert waits.compute_s[0] - hidden.compute_s[0] == pytest.approx(q_tiles * cycles / 1e9, rel=1e-6)


def test_every_query_head_loads_its_keys_and_stores_are_made_once():
    # A query head of 64 dims: itself, its keys and values, what it becomes; 8 bytes for each pair of dims that it rotates.
    head_bytes, stored_bytes = 4 * 64 * 2 + 8 * 64 / 2, 2 * 64 * 2
    for heads_kv in (1, 8, 32):
        _, calls = arrays(BLACKWELL, tokens=2048, batch=8, heads=32, heads_kv=heads_kv)
        assert calls.rotate_traffic_bytes[0] == 8 * 2048 * (32 * head_bytes + heads_kv * stored_bytes)
    _, calls = arrays(BLACKWELL, tokens=2048, batch=8, heads=32, heads_kv=8, dtype="fp8")  # queries and cache in 8 bits
    assert calls.rotate_traffic_bytes[0] == 8 * 2048 * (32 * (head_bytes - 64) + 8 * stored_bytes / 2)


def test_queries_are_rotated_at_a_share_of_the_l2s_bandwidth_and_no_faster_than_dram_moves_them():
    def append_s(share):
        profile, calls = arrays(BLACKWELL, heads_kv=1)
        found = forecast(BLACKWELL, replace(profile, rotation_efficiency=share), calls)
        return found.parts["append"][0], calls.rotate_traffic_bytes[0] / BLACKWELL.l2_bandwidth_bytes_s, calls

    slow_s, at_peak_s, calls = append_s(0.05)
    slower_s, _, _ = append_s(0.04)
    assert slower_s - slow_s == pytest.approx(at_peak_s * (1 / 0.04 - 1 / 0.05), rel=0.01)
    least_s = calls.rotate_bytes[0] / BLACKWELL.dram_bandwidth_bytes_s
    assert append_s(1000.0)[0] > least_s


def test_fewer_rotated_dims_need_fewer_angles():
    def append_s(rotary_dim):
        profile, calls = arrays(BLACKWELL, rotary_dim=rotary_dim)
        return forecast(BLACKWELL, replace(profile, rotation_efficiency=0.1), calls).parts["append"][0]

    assert append_s(0) == append_s(64)
    assert append_s(32) < append_s(64)
    assert append_s(128) - append_s(64) == pytest.approx(2.0 * (append_s(64) - append_s(32)))


def test_keys_of_a_token_are_appended_without_a_cta_for_each_where_queries_are_rotated():
    together, apart = (cost(BLACKWELL, tokens=4096, engine=engine).parts["append"][0] for engine in ("trtllm", "vllm"))
    assert together < apart


def test_empty_rows_of_a_tile_are_not_written():
    few, half, full = (cost(BLACKWELL, tokens=tokens, batch=64).compute_s[0] for tokens in (16, 64, 128))
    assert few < half < full


@pytest.mark.parametrize("tokens", [16, 2048])
def test_two_ctas_share_a_tile_of_head_dim_512_on_blackwell(tokens):
    """Each has half of the values' columns, and all the rest of it."""
    profile, calls = arrays(BLACKWELL, tokens=tokens, dim=512)
    assert (calls.value_parts[0], calls.run_dim[0], calls.run_dim_v[0]) == (2, 512, 256)
    both = forecast(BLACKWELL, profile, calls)
    assert both.ctas[0] == 2 * cost(BLACKWELL, tokens=tokens, dim=256).ctas[0]
    # As a head of its own would take that has values of 256 columns.
    _, halves = arrays(BLACKWELL, tokens=tokens, dim=512, heads=64, heads_kv=16)
    halves = replace(halves, value_parts=np.ones(1), dim_v=halves.dim_v / 2)
    assert both.compute_s[0] == pytest.approx(forecast(BLACKWELL, profile, halves).compute_s[0], rel=0.01)
