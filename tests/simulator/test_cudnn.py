"""cuDNN's programs: which one runs a call, and what Ampere's, whose sums are 128 columns wide, takes for wider heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast import Workload, predict
from attncast.hwmodels import load_gpu
from attncast.simulator import pipes
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import Conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.patterns import parse_pattern
from attncast.simulator.profile import OlderCalls, load_profile
from attncast.simulator.sweep import load_sweep, run_group
from attncast.simulator.tile_shape import TileShape

COLD = Conditions(warm_l2=False)


def decode(gpu: str, tokens: int, batch: int = 1):
    workload = Workload(tokens, 64, 128, heads_kv=8, kv_grid=(8192,), batch=batch)
    return predict(workload, "causal", gpu, "cudnn", conditions=COLD)


def call(gpu: str, tokens: int = 4096, head_dim: int = 128, **rest):
    return Workload(tokens, 16, head_dim, **rest), load_profile("cudnn", load_gpu(gpu))


@pytest.mark.parametrize("gpu", ["a100", "b200"])
def test_only_calls_of_one_token_decode(gpu):
    """cudnn-frontend's decode sweep: 8 and 16 new tokens take the same time, and several times that of one."""
    one, few, more = (decode(gpu, tokens) for tokens in (1, 8, 16))
    assert one.splits > 1
    assert few.splits == more.splits == 1
    assert few.time_s == pytest.approx(more.time_s, rel=0.01)
    assert few.time_s > 4 * one.time_s


# Kernels that cuDNN 9.27 names when it plans such a call without a device: ..._flash_fprop_..._QxKEYSxDIM, where Q is of a
# group of four warps, of which Hopper's, Blackwell's and RTX Blackwell's programs have two unless the head dim is too wide.
PLANS = [
    ("a100", {"tokens": 4096}, "sm_80", (64, 64)),
    ("a100", {"tokens": 4096, "head_dim": 64}, "sm_80", (128, 64)),
    ("a100", {"tokens": 4096, "head_dim": 256}, "sm_80", (64, 64)),
    ("a100", {"tokens": 4096, "head_dim": 192, "head_dim_v": 128}, "sm_80", (64, 64)),
    ("a100", {"tokens": 1, "heads_kv": 2, "cached": 8191}, "sm_80", (16, 128)),
    ("a100", {"tokens": 8, "heads_kv": 2, "cached": 8184}, "sm_80", (64, 64)),
    ("h100", {"tokens": 4096}, "sm_90", (128, 128)),
    ("h100", {"tokens": 4096, "dtype": "fp8"}, "sm_90", (128, 256)),
    ("h100", {"tokens": 8, "heads_kv": 2, "cached": 8184}, "sm_90", (128, 128)),
    ("h100", {"tokens": 1, "heads_kv": 2, "cached": 8191}, "sm_80", (16, 128)),
    ("h100", {"tokens": 512, "head_dim": 512}, "sm_80", (64, 64)),
    ("b200", {"tokens": 4096}, "sm_100", (256, 128)),
    ("b200", {"tokens": 4096, "head_dim": 256}, "sm_100", (128, 128)),
    ("b200", {"tokens": 512, "head_dim": 512}, "sm_100", (128, 128)),
    ("b200", {"tokens": 300}, "sm_100", (256, 128)),
    ("b200", {"tokens": 128}, "sm_80", (64, 64)),
    ("b200", {"tokens": 64, "cached": 8128}, "sm_80", (64, 64)),
    ("b200", {"tokens": 65, "cached": 8127}, "sm_100", (256, 128)),
    ("b200", {"tokens": 2, "cached": 8190}, "sm_80", (64, 64)),
    ("b200", {"tokens": 1, "heads_kv": 2, "cached": 8191}, "sm_100", (8, 128)),
    ("b200", {"tokens": 1, "heads_kv": 1, "cached": 8191, "head_dim": 256}, "sm_80", (16, 128)),
    ("rtx-pro-6000", {"tokens": 2048}, "sm_120", (128, 64)),
    ("rtx-pro-6000", {"tokens": 1024}, "sm_80", (64, 64)),
    ("rtx-pro-6000", {"tokens": 4096, "head_dim": 256}, "sm_80", (64, 64)),
    ("rtx-pro-6000", {"tokens": 1, "heads_kv": 2, "cached": 8191}, "sm_80", (16, 128)),
]


@pytest.mark.parametrize(("gpu", "sizes", "arch", "tiles"), PLANS)
def test_programs_are_those_that_cudnn_plans(gpu, sizes, arch, tiles):
    workload, profile = call(gpu, **sizes)
    program = profile.program_of(workload)
    assert arch in program.archs
    (rows,), (keys,) = resolve_tiles(program, parse_pattern("causal"), workload, None, None)
    assert (rows, keys) == tiles


def test_bounds_of_older_calls_are_inclusive():
    few = OlderCalls(least_tokens=2, most_tokens=64)
    assert [few.hold(tokens, 9999, 64) for tokens in (1, 2, 64, 65)] == [False, True, True, False]
    assert [OlderCalls(most_keys=128).hold(1, keys, 64) for keys in (128, 129)] == [True, False]
    assert [OlderCalls(least_dim=129).hold(1, 1, dim) for dim in (128, 129)] == [False, True]


def test_fp8_has_no_program_of_ampere():
    workload, profile = call("b200", tokens=8, cached=8184, dtype="fp8")
    assert profile.program_of(workload) is profile


def test_a_sweep_runs_the_same_programs(tmp_path):
    """Its rows, in a forecast for each program, are those of predict."""
    path = tmp_path / "few.toml"
    path.write_text(
        'gpus = ["b200"]\nkernels = ["cudnn"]\npatterns = ["causal"]\n'
        "[workload]\ngrid = [1, 8, 4096]\ncached = 8192\nheads = 64\nheads_kv = 8\nhead_dim = 128\n"
    )
    (group,) = load_sweep(path)
    for row, workload in zip(run_group(group), group.workloads, strict=True):
        estimate = predict(workload, "causal", "b200", "cudnn", conditions=group.conditions)
        assert row.time_s == pytest.approx(estimate.time_s, rel=1e-9)


def seconds(sizes, **differs):
    """Time on an A100, with what differs of the tile that a call gets."""
    gpu = load_gpu("a100")
    workload, profile = call("a100", **sizes)
    tiles = tuple(replace(choice, **differs) for choice in profile.tiles)
    profile = replace(profile, tiles=tiles)
    pattern = parse_pattern("dense")
    shapes = resolve_tiles(profile, pattern, workload, None, None)
    work = kernel_work(profile, pattern, workload, shapes)
    return forecast(gpu, profile, single_call(gpu, profile, workload, pattern, shapes, work, COLD))


def test_scores_are_computed_once_for_each_128_columns_of_values():
    """Keys of 256 and values of 128 columns: one CTA for a Q tile; of 256 columns, two that do the same work each."""
    one = seconds({"head_dim": 256, "head_dim_v": 128})
    two = seconds({"head_dim": 256})
    assert two.ctas[0] == 2 * one.ctas[0]
    for pipe in ("tensor", "exp", "smem"):
        assert two.limits[pipe][0] == pytest.approx(2 * one.limits[pipe][0], rel=1e-9)
    whole = seconds({"head_dim": 256}, value_columns=0)
    assert whole.limits["exp"][0] == pytest.approx(one.limits["exp"][0], rel=1e-9)
    assert two.limits["tensor"][0] == pytest.approx(1.5 * whole.limits["tensor"][0], rel=1e-9)
    assert two.traffic.unique_bytes[0] == whole.traffic.unique_bytes[0]
    assert two.traffic.issued_bytes[0] > whole.traffic.issued_bytes[0]


def test_queries_that_come_again_are_written_and_read_with_each_tile():
    stays, streams = (seconds({"head_dim": 256}, streams_queries=flag) for flag in (False, True))
    tiles = 2 * 16 * (4096 / 64) ** 2 / 108  # of an SM
    again = 2 * 64 * 256 * 2 / 128  # bytes of 64 rows, written and read, at 128 bytes per clock
    took = (streams.limits["smem"] - stays.limits["smem"])[0] * streams.clock_hz[0]
    assert took == pytest.approx(tiles * again, rel=1e-6)
    assert streams.traffic.issued_bytes[0] > stays.traffic.issued_bytes[0]


def test_told_shared_memory_says_how_many_ctas_fit():
    gpu, profile = load_gpu("a100"), load_profile("cudnn", load_gpu("a100"))
    tile = TileShape(*(np.array([float(n)]) for n in (64, 64, 64, 512, 128, 2, 2, 1)))
    told = replace(tile, shared_bytes=np.array([40960.0]))
    assert pipes.resident_ctas(gpu, profile, tile)[0] == 1
    assert pipes.resident_ctas(gpu, profile, told)[0] == 4


def test_a_quarter_of_the_exponentials_is_emulated_on_blackwell():
    """Pairs of the last eight of sixteen scores, up to the 72nd of 128."""
    emulated = [score for score in range(128) if score // 2 * 2 % 16 >= 8 and score // 2 * 2 < 128 // 16 * 9]
    assert load_profile("cudnn", load_gpu("b200")).emulated_exp == len(emulated) / 128


@pytest.mark.parametrize("kernel", ["fa4", "cudnn"])
def test_blackwells_ctas_are_alone_on_their_sm(kernel):
    """The same pairs in sequences of an eighth the length have eight times the CTAs, and as many beginnings and ends."""
    long, short = (
        predict(Workload(tokens, heads, 128, batch=batch), "dense", "b200", kernel, conditions=COLD)
        for tokens, heads, batch in ((8192, 37, 1), (1024, 37, 64))  # whole waves of 148 SMs
    )
    assert long.parts_s["tiles"] == pytest.approx(short.parts_s["tiles"], rel=0.01)
    assert short.parts_s["schedule"] == pytest.approx(8 * long.parts_s["schedule"], rel=0.1)
