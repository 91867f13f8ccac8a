"""What serving engines' calls of FlashAttention-3 add to attention, and which kernel they run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator import Conditions, memory, parse_pattern, predict
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import engine_conditions, engine_names, small_kernels
from attncast.simulator.forecast import forecast
from attncast.simulator.kernel_choice import _choices
from attncast.simulator.profile import KernelProfile, load_profile
from attncast.simulator.schedule import fullest_waves, kv_splits
from attncast.simulator.tile_table import TileChoice
from attncast.simulator.workload import Workload

H100 = load_gpu("h100")
VLLM = load_profile("fa3", H100, "vllm")


def decode(batch: int, cached: int, heads_kv: int = 4) -> Workload:
    return Workload(
        batch=batch, heads=8 * heads_kv, heads_kv=heads_kv, grid=(1,), cached=cached, head_dim=128, dtype="bf16"
    )


def test_a_window_of_all_keys_runs_the_kernel_without_one() -> None:
    window = parse_pattern("window left=127 right=0")
    tiles = {cached: resolve_tiles(VLLM, window, decode(4, cached), None, None) for cached in (127, 128)}
    assert tiles[127] == ((64,), (128,))  # one warpgroup: 128 keys, all in the window
    assert tiles[128] == ((128,), (128,))
    fa2 = load_profile("fa2", load_gpu("a100"))
    assert not fa2.masking.drops_wide_windows  # it looks at the argument


def test_few_rows_run_on_one_warpgroup_in_prompts_too() -> None:
    def tiles(tokens: int, heads: int = 8, head_dim: int = 128) -> tuple[tuple[int, ...], tuple[int, ...]]:
        call = Workload(batch=4, heads=heads, heads_kv=8, grid=(tokens,), head_dim=head_dim, dtype="fp8")
        return resolve_tiles(VLLM, parse_pattern("causal"), call, None, None)

    assert tiles(64) == tiles(32, heads=16) == ((64,), (96,))
    assert tiles(65) == tiles(32, heads=24) == ((128,), (192,))
    assert tiles(64, head_dim=192) == ((128,), (96,))


def test_captured_calls_split_up_to_their_bound() -> None:
    def splits(most: float) -> float:
        one = np.array([1.0])
        return float(kv_splits("balanced", one, 132, 1024 * one, 128 * one, most * one)[0])

    assert splits(32.0) == 32.0
    assert splits(np.inf) > 32.0


def test_keys_outside_a_window_count_towards_the_share_but_not_towards_the_bound() -> None:
    one = np.array([1.0])
    # 2 tiles in the window of 1,024: a captured call takes its bound, another never splits so few.
    assert kv_splits("balanced", one, 132, 2 * one, 128 * one, 32 * one, 1024 * one)[0] == 32.0
    assert fullest_waves(one, 132, 2 * one)[0] == 1.0


def test_captured_calls_always_merge() -> None:
    graph = Conditions(graph=True, appends=True, engine="vllm")
    for batch, merges in ((512, True), (1024, False)):
        found = predict(decode(batch, 15), "causal", H100, "fa3", conditions=graph)
        assert found.splits == 1
        assert (found.parts_s["merge"] > 0) == merges


def test_ampere_runs_another_tile_where_the_kernel_for_split_keys_does() -> None:
    ampere = load_profile("fa3", load_gpu("a100"), "sglang")
    causal = parse_pattern("causal")
    # Four tiles of 112 keys are not split, five are.
    assert resolve_tiles(ampere, causal, decode(4, 447), None, None) == ((128,), (64,))
    assert resolve_tiles(ampere, causal, decode(4, 448), None, None) == ((128,), (112,))


def cycles(profile: KernelProfile, workload: Workload, pattern: str = "causal") -> float:
    """SM cycles of a call of the kernel alone."""
    band = parse_pattern(pattern)
    tiles = resolve_tiles(profile, band, workload, None, None)
    work = kernel_work(profile, band, workload, tiles)
    found = forecast(H100, profile, single_call(H100, profile, workload, band, tiles, work, Conditions()))
    return float((found.compute_s * found.clock_hz)[0])


def test_vllm_branches_around_each_score_that_it_masks() -> None:
    def smooth(choice: TileChoice) -> TileChoice:
        return replace(choice, mask_stall=0.0)

    without = replace(VLLM, tiles=tuple(map(smooth, VLLM.tiles)), decode_tiles=tuple(map(smooth, VLLM.decode_tiles)))

    def stall(workload: Workload, pattern: str = "causal") -> float:
        return cycles(VLLM, workload, pattern) - cycles(without, workload, pattern)

    # 33 sequences of 4 key heads: a CTA for each SM. A thread has 64 scores of a tile of 128 keys, whose first one is masked
    # though all of its keys are there.
    assert stall(decode(33, 127)) == pytest.approx(13 * 64)
    assert stall(decode(33, 1023), "window left=255 right=0") == 0.0
    # One token of head dim 64 has no causal mask.
    assert stall(Workload(batch=33, heads=32, heads_kv=4, grid=(1,), cached=191, head_dim=64, dtype="bf16")) == 0.0


def test_vllm_asks_for_the_rows_of_four_eight_or_sixteen_heads_at_once() -> None:
    at_once = replace(VLLM, packing=replace(VLLM.packing, gather_cycles=0.0))

    def gathered(heads: int, dim_v: int = 192) -> float:
        # 132 Q tiles of 128 rows, so that no keys are split.
        grid = (132 * 128 // heads,)
        call = Workload(batch=132, heads=heads, heads_kv=1, grid=grid, head_dim=192, head_dim_v=dim_v, dtype="bf16")
        return (cycles(VLLM, call) - cycles(at_once, call)) / 132

    assert gathered(4) == gathered(8) == gathered(16) == 0.0
    assert gathered(1) == pytest.approx(1203)
    assert gathered(2) == pytest.approx(1203)
    assert gathered(8, dim_v=128) == pytest.approx(1203)
    # 64 tokens of two sequences fill few SMs: the kernel for split keys.
    few = Workload(batch=2, heads=8, heads_kv=1, grid=(64,), cached=8128, head_dim=192, dtype="bf16")
    assert cycles(VLLM, few) - cycles(at_once, few) == pytest.approx(1203)


def prompt(batch: int, tokens: int) -> Workload:
    return Workload(batch=batch, heads=16, heads_kv=2, grid=(tokens,), head_dim=256, dtype="bf16")


def test_a_merge_with_nothing_to_do_takes_its_ctas_turns() -> None:
    # 512 tokens of 2 key heads fill half of the SMs: vLLM's build launches the kernel for split keys, whatever the batch is,
    # and then 2 x 512 x 16 / 8 CTAs of its merge for each sequence, 8 on an SM, which find one part: half of four latencies.
    graph = Conditions(graph=True, appends=True, engine="vllm")
    merge_s = [
        predict(prompt(batch, 512), "causal", H100, "fa3", conditions=graph).parts_s["merge"] for batch in (64, 128)
    ]
    # And they walk over the sequences before their own, 32 in an L2 latency: half of them, on average.
    waves = [batch * 2048 / (132 * 8) for batch in (64, 128)]
    walks = [(wave - 1 / wave) / 2 * batch / 32 for wave, batch in zip(waves, (64, 128), strict=True)]
    own_s = (waves[1] - waves[0]) * 2 * H100.dram_latency_s
    assert merge_s[1] - merge_s[0] == pytest.approx(own_s + (walks[1] - walks[0]) * H100.l2_latency_s, rel=0.01)
    # SGLang's build looks at all tokens of the call.
    sglang = Conditions(graph=True, appends=True, engine="sglang")
    assert predict(prompt(64, 512), "causal", H100, "fa3", conditions=sglang).parts_s["merge"] == 0.0


def test_a_window_is_read_from_its_first_key() -> None:
    # 24 tokens of 8 heads fill 192 rows; with 127 keys before the first they need 151: one tile of 160.
    work = parse_pattern("window left=127 right=0")
    eight = Workload(batch=1, heads=8, heads_kv=1, grid=(16384,), head_dim=64, dtype="bf16")
    assert kernel_work(VLLM, work, eight, ((192,), (160,))).visited_max == 1


def test_a_cta_waits_for_its_queries_and_first_keys_and_stages_its_output() -> None:
    own = load_profile("fa3", H100)
    hidden = replace(own, products=replace(own.products, exposed_ends=False))

    def exposed(workload: Workload) -> float:
        return cycles(own, workload) - cycles(hidden, workload)

    # A CTA of one tile for each SM: 32 KiB each of queries, keys and output.
    one = Workload(batch=132, heads=1, heads_kv=1, grid=(128,), head_dim=128, dtype="bf16")
    assert exposed(one) == pytest.approx(memory.l2_cycles(H100, 2 * 32768.0) + 2 * 32768 / 128, rel=1e-6)
    # Eight heads of one token in a tile of 64 rows, whose part of the output is stored in fp32 but staged in bf16.
    parts = memory.l2_cycles(H100, (8 * 128 + 128 * 128) * 2.0 + 8 * 128 * 4.0) - memory.l2_cycles(H100, 64 * 128 * 2.0)
    assert exposed(decode(1, 8191)) == pytest.approx(parts + 64 * 128 * 2 / 128, rel=1e-6)


def test_keys_and_values_of_unequal_head_dims_are_put_element_by_element() -> None:
    sglang = Conditions(graph=True, appends=True, engine="sglang")
    elements = 16384 * 8 * (192 + 128)
    assert memory.put_seconds(H100, elements) == pytest.approx(elements * 80 / (132 * 4 * 32 * H100.clock_hz))
    calls = [
        Workload(batch=1, heads=64, heads_kv=8, grid=(tokens,), head_dim=192, head_dim_v=128, dtype="bf16")
        for tokens in (8192, 16384)
    ]
    half, whole = (predict(call, "causal", H100, "fa3", conditions=sglang).parts_s["append"] for call in calls)
    assert whole - half > memory.put_seconds(H100, elements / 2)


def test_a_sequence_costs_its_share_of_the_walk() -> None:
    # 31 sequences a memory latency, twice where keys may be split: 22.8 ns each; vLLM's rows ask for 18 to 25.
    graph = Conditions(graph=True, appends=True, engine="vllm")
    # The same tiles in the same waves: 132 sequences of 4 key heads, 528 of one.
    few, many = (
        predict(decode(batch, 15, heads_kv), "causal", H100, "fa3", conditions=graph)
        for batch, heads_kv in ((128, 4), (512, 1))
    )
    walked_s = (512 - 128) / 31 * 2 * H100.dram_latency_s
    assert many.parts_s["schedule"] - few.parts_s["schedule"] == pytest.approx(walked_s, rel=0.05)


@pytest.mark.parametrize(
    ("engine", "gpu", "prompt", "decoding"),
    [
        ("vllm", "a100", "fa2", "fa2"),
        ("vllm", "h100", "fa3", "fa3"),
        ("vllm", "b200", "trtllm", "trtllm-decode"),
        ("sglang", "a100", "flashinfer", "flashinfer"),
        ("sglang", "b200", "trtllm", "trtllm-decode"),
        ("sglang", "rtx-5090", "flashinfer", "flashinfer"),
        ("trtllm", "a100", "trtllm", "xqa"),
        ("trtllm", "h100", "trtllm", "xqa"),
        ("trtllm", "b200", "trtllm", "trtllm-decode"),
        ("trtllm-flashinfer", "b200", "trtllm", "trtllm-decode"),
        ("", "h100", "fa3", "fa3"),
        ("", "b200", "fa4", "fa4"),
    ],
)
def test_an_engine_runs_the_kernels_that_it_picks_by_itself(engine, gpu, prompt, decoding):
    shape = {"heads": 32, "head_dim": 128, "heads_kv": 8, "batch": 16, "dtype": "bf16"}
    for workload, kernel in ((Workload((1024,), **shape), prompt), (Workload((1,), cached=1023, **shape), decoding)):
        conditions = engine_conditions(engine, workload) if engine else Conditions()
        assert predict(workload, "causal", gpu, conditions=conditions).kernel == kernel


def test_every_engine_has_a_kernel_on_every_generation_and_falls_back_on_what_takes_a_call():
    shape = Workload((1024,), 8, 512, dtype="bf16")
    found = predict(shape, "causal", "h100", conditions=engine_conditions("sglang", shape)).kernel
    assert found in ("fa3", "sglang-triton")
    generations = set(_choices()) - {*engine_names(), "decode_only"}
    for engine in ("vllm", "sglang", "trtllm"):
        assert set(_choices()[engine]) == generations
    neighborhood = Workload((32, 32), 8, 128, dtype="bf16")
    assert (
        predict(neighborhood, "na window=8x8", "h100", conditions=engine_conditions("vllm", neighborhood)).kernel
        == "natten"
    )


@pytest.mark.parametrize(
    ("gpu", "kernel", "dtype", "kv_dtype", "engine", "kernels"),
    [
        ("b200", "trtllm-decode", "bf16", None, "sglang", 0),
        ("b200", "trtllm-decode", "fp8", None, "sglang", 5),  # a scale of its own for the queries
        ("b200", "trtllm-decode", "fp8", None, "vllm", 0),
        ("b200", "sglang-triton", "bf16", "fp8", "sglang", 2),  # keys, and values
        ("rtx-pro-6000", "flashinfer", "bf16", "fp8", "sglang", 2),
        ("rtx-pro-6000", "flashinfer", "bf16", "fp8", "vllm", 0),  # its append converts
        ("h100", "fa3", "fp8", None, "sglang", 2),
    ],
)
def test_each_kernel_of_an_engines_call_is_launched(gpu, kernel, dtype, kv_dtype, engine, kernels) -> None:
    call = Workload(batch=4, heads=8, heads_kv=2, grid=(1,), cached=255, head_dim=128, dtype=dtype, kv_dtype=kv_dtype)
    conditions = engine_conditions(engine, call)
    assert small_kernels(kernel, conditions, call) == kernels
    before = replace(conditions, engine="")
    assert small_kernels(kernel, before, call) == 0
    model, pattern = load_gpu(gpu), parse_pattern("causal")
    profile = load_profile(kernel, model, engine, kv_dtype or dtype)
    tiles = resolve_tiles(profile, pattern, call, None, None)
    own = single_call(model, profile, call, pattern, tiles, kernel_work(profile, pattern, call, tiles), conditions)
    none = replace(own, small_kernels=np.zeros(1))
    difference = forecast(model, profile, own).time_s - forecast(model, profile, none).time_s
    assert difference == pytest.approx(kernels * model.graph_launch_s)


def test_a_call_that_appends_nothing_converts_nothing() -> None:
    call = Workload(batch=4, heads=8, heads_kv=2, grid=(1,), cached=255, head_dim=128, dtype="bf16", kv_dtype="fp8")
    alone = replace(engine_conditions("sglang", call), appends=False)
    assert small_kernels("sglang-triton", alone, call) == 0
