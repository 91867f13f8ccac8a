"""Rows that cannot be true are found; rows that can are left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator import Workload
from attncast.validation.measured import DATA, MeasuredRun, load_runs
from attncast.validation.plausible import Claim, least_flop, pair_count, plausible, tensor_peak

RUN = MeasuredRun(
    "a", "h100", "fa3", "", 4, 32, 8, "8192", 0, 128, "bf16", "causal", "", "", "kernel", True, False, 1.0, "", ""
)  # fmt: skip


def brute(tokens, keys, left, right):
    shift = keys - tokens
    return sum(
        (left is None or k >= q + shift - left) and (right is None or k <= q + shift + right)
        for q in range(tokens)
        for k in range(keys)
    )


@pytest.mark.parametrize(
    ("text", "sides"), [("dense", (None, None)), ("causal", (None, 0)), ("window left=5 right=2", (5, 2))]
)
def test_pairs_are_those_of_the_mask(text, sides):
    workload = Workload((13,), 3, 64, batch=2, kv_grid=(20,))
    assert pair_count(text, workload) == 6 * brute(13, 20, *sides)


def test_operations_are_counted_by_hand():
    dense = replace(RUN, batch=1, heads=1, heads_kv=1, grid="1000", head_dim=100, pattern="dense")
    assert least_flop(dense) == 4 * 1000 * 1000 * 100
    assert least_flop(replace(dense, direction="bwd")) == 10 * 1000 * 1000 * 100
    assert least_flop(replace(dense, direction="fwdbwd")) == 14 * 1000 * 1000 * 100
    assert least_flop(replace(dense, head_dim_v=50)) == 3 * 1000 * 1000 * 100
    grid = replace(dense, grid="10x10", pattern="na window=4x6")
    assert least_flop(grid) == 4 * 100 * 24 * 100


def test_a_row_at_the_peak_passes_and_one_above_does_not():
    peak = tensor_peak(load_gpu("h100"), "bf16", "bf16")
    at_peak = replace(RUN, time_s=least_flop(RUN) / peak)
    kept, rejected = plausible([at_peak, replace(at_peak, time_s=at_peak.time_s / 1.05)])
    assert kept == [at_peak]
    assert rejected[0][1].startswith("above the tensor peak: ")
    # A kernel may quantise to the cache's dtype.
    assert plausible([replace(at_peak, time_s=at_peak.time_s / 1.5, kv_dtype="fp8")])[1] == []


def test_what_l2_can_hold_is_not_asked_of_dram():
    gpu = load_gpu("h100")
    decode = replace(
        RUN, batch=1, heads=8, heads_kv=8, grid="1", cached=4095, time_s=4e-6
    )  # 16.8 MB of keys and values
    assert plausible([decode])[1] == []
    assert plausible([replace(decode, warm=False)])[1][0][1].startswith("above the DRAM bandwidth")
    large = replace(decode, batch=64)
    bytes_least = 64 * 8 * 4096 * 2 * 128 * 2 + 2 * 64 * 8 * 128 * 2 - gpu.l2_bytes
    time_s = bytes_least / gpu.dram_bandwidth_bytes_s
    assert plausible([replace(large, time_s=time_s)])[1] == []
    assert len(plausible([replace(large, time_s=time_s / 1.05)])[1]) == 1
    # A window reads its own keys only.
    assert plausible([replace(large, time_s=time_s / 10, pattern="window left=127 right=0")])[1] == []


def test_a_time_below_one_memory_access_is_a_wrong_unit():
    tiny = replace(RUN, batch=1, heads=1, heads_kv=1, grid="16", time_s=5e-9)
    assert plausible([tiny])[1][0][1].startswith("below one memory access")


def test_a_claim_has_to_follow_from_its_own_numbers():
    run = replace(RUN, time_s=0.01)
    own = least_flop(run) / run.time_s
    for flops, rounding, wrong in ((own, 0, 0), (own * 1.019, 0, 0), (own * 1.03, 0, 1), (own * 1.03, 0.02, 0)):
        assert len(plausible([run], {"a": Claim(flops, least_flop(run), rounding)})[1]) == wrong


def test_the_curated_rows_can_be_true():
    for name in ("neighborhood", "serving"):
        runs = load_runs(DATA / f"{name}.csv")
        kept, rejected = plausible(runs)
        assert [reason for _, reason in rejected if "a100" not in reason] == []
        assert len(kept) + len(rejected) == len(runs)
    assert plausible([]) == ([], [])


def test_a_call_that_takes_three_times_as_long_as_all_next_larger_ones_is_refused():
    """Decoding on two axes, batch and cached tokens; a lone spike, and not what lies beside it."""

    def call(batch: int, cached: int, time_s: float) -> MeasuredRun:
        return replace(RUN, id=f"{batch}-{cached}", batch=batch, grid="1", cached=cached, time_s=time_s)

    sizes = [(batch, cached) for batch in (1, 2, 4) for cached in (127, 255, 511)]
    even = [call(batch, cached, 10e-6 + 1e-9 * batch * cached) for batch, cached in sizes]
    assert plausible(even)[1] == []

    def with_spike(batch: int, cached: int, time_s: float) -> list[str]:
        runs = [replace(run, time_s=time_s) if run.id == f"{batch}-{cached}" else run for run in even]
        return [run.id for run, reason in plausible(runs)[1] if reason.startswith("contradicts larger calls: ")]

    assert with_spike(2, 255, 40e-6) == ["2-255"]
    assert with_spike(2, 255, 30e-6) == []  # not three times as long
    assert with_spike(4, 255, 40e-6) == []  # of the largest batch: a single larger call is no proof
    assert with_spike(2, 255, 3e-6) == []  # one that is too fast accuses nobody: those below have others beside them
    # Another kernel, or another window, is another call.
    lone = replace(call(1, 127, 40e-6), pattern="window left=63 right=0")
    assert plausible([*even, lone])[1] == []
    # A kernel that takes a better program from some batch on is no spike where longer calls of its own batch are as slow.
    slow = [replace(run, time_s=4 * run.time_s) if run.batch == 1 else run for run in even]
    assert plausible(slow)[1] == []
