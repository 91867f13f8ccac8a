"""What FlashInfer's planner and kernels do, against their rules written out: tiles, occupancy, split keys; engines' appends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncast.hwmodels import load_gpu
from attncast.simulator import Conditions, Workload, parse_pattern, predict
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import append_by_ctas, append_thread, engine_conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.instructions import WIDEN_ALU, WIDEN_FP32, WIDEN_SHUFFLED_BYTES
from attncast.simulator.memory import append_seconds, convert_seconds, resident_share, store_seconds
from attncast.simulator.pipes import TileShape, merged_bytes, resident_ctas, tile_pipes
from attncast.simulator.profile import load_profile
from attncast.simulator.schedule import makespan, planned_splits

GPU = load_gpu("rtx-pro-6000")
SLOW = replace(GPU, dram_latency_s=10 * GPU.dram_latency_s)
KIB = 1024


def planner_tile(rows: int, dim: int, kv_bytes: int) -> tuple[int, int]:
    """Rows and keys of a CTA: FA2DetermineCtaTileQ, then the most MMA steps of keys beside Q (prefill.cuh) of 8, 4, 2 and 1."""
    tile_q = 128 if rows > 64 and dim < 256 else 64 if rows > 16 else 16
    row_warps = 1 if tile_q == 16 else 4
    key_warps, steps_of_q = 4 // row_warps, 2 if tile_q == 128 else 1
    held, step = tile_q * dim * 2, 2 * dim * 16 * key_warps * kv_bytes
    fewest = row_warps // 2 if kv_bytes == 1 and row_warps > 2 else 1
    room = GPU.smem_bytes_per_sm // (2 if GPU.smem_bytes_per_sm >= 2 * (held + fewest * step) else 1)
    most = min((room - held) // step, 8 // steps_of_q)
    return tile_q, max(n for n in (8, 4, 2, 1) if n <= most) * 16 * key_warps


@pytest.mark.parametrize("engine", ["", "vllm", "sglang"])
@pytest.mark.parametrize("kv_dtype", ["bf16", "fp8"])
@pytest.mark.parametrize("dim", [64, 128, 192, 256])
@pytest.mark.parametrize(
    ("tokens", "gqa"), [(1, 4), (1, 16), (1, 24), (1, 128), (16, 1), (16, 4), (64, 1), (65, 1), (4096, 8)]
)
def test_tiles_follow_the_planner(engine, kv_dtype, dim, tokens, gqa):
    profile = load_profile("flashinfer", GPU, engine)
    read = "bf16" if engine == "sglang" and tokens > 8 else kv_dtype
    choice = profile.tile_for(1, dim, tokens, gqa, "bf16", read)
    expected = planner_tile(tokens * gqa, dim, 1 if read == "fp8" else 2)
    if (dim, read) == (64, "fp8") and tokens * gqa <= 16:
        expected = (16, 128)  # as its calls look, not the 256 of the rule
    assert (choice.q[0], choice.kv[0]) == expected


@pytest.mark.parametrize(("dim", "gqa"), [(d, g) for d in (64, 128, 256) for g in (1, 2, 3)])
def test_sglang_decodes_few_heads_on_cuda_cores(dim, gqa):
    """Keys of a step and CTAs of an SM from decode.cuh's thread layout; tensor cores from four heads on, and on fp8 caches."""
    profile = load_profile("flashinfer", GPU, "sglang")
    choice = profile.tile_for(1, dim, 1, gqa, "bf16", "bf16")
    columns = dim // max(8, dim // 32)
    depth, keys_each = max(128, columns * gqa) // (columns * gqa), 4 if gqa == 1 else 1
    keys, threads = keys_each * gqa * depth, columns * gqa * depth
    held = 2 * 2 * keys * dim * 2 + max(keys_each * max(128, columns * gqa) * 8, 2 * gqa * depth * 4)
    fitting = min(GPU.smem_bytes_per_sm // (held + KIB), GPU.max_threads_per_sm // threads)
    assert (choice.cuda_cores, choice.q[0], choice.kv[0], choice.in_flight) == (True, gqa, keys, fitting)
    assert not profile.tile_for(1, dim, 1, gqa, "bf16", "fp8").cuda_cores
    assert not profile.tile_for(1, dim, 1, 4, "bf16", "bf16").cuda_cores
    assert not load_profile("flashinfer", GPU, "vllm").tile_for(1, dim, 1, gqa, "bf16", "bf16").cuda_cores


def searched_parts(batch: int, q_tiles: int, kv_heads: int, keys: int, slots: int) -> int:
    """PrefillBinarySearchKVChunkSize on equal sequences and pages of one key: parts of the chunk that it finds."""
    low, high = min(128, keys), keys
    while low < high:
        chunk = (low + high) // 2
        if batch * q_tiles * -(-keys // chunk) > slots // kv_heads:
            low = chunk + 1
        else:
            high = chunk
    return -(-keys // low)


@settings(max_examples=300)
@given(st.integers(1, 300), st.integers(1, 40), st.sampled_from([1, 2, 3, 8, 12, 40]), st.integers(1, 500))
def test_planned_splits_are_the_binary_search(batch, q_tiles, kv_heads, tiles):
    keys, slots = 64 * tiles, 2 * GPU.sms
    ctas = np.array([float(batch * q_tiles * kv_heads)])
    found = planned_splits(
        ctas, np.array([float(slots)]), np.array([float(tiles)]), np.array([64.0]), np.array([float(kv_heads)])
    )
    assert found[0] == searched_parts(batch, q_tiles, kv_heads, keys, slots)


def shape(rows: int, keys: int, dim: int, kv_bytes: float) -> TileShape:
    return TileShape(*(np.array([float(v)]) for v in (rows, rows, keys, dim, dim, 2, kv_bytes, 1)))


def test_an_sm_holds_as_many_ctas_as_its_shared_memory():
    profile = load_profile("flashinfer", GPU)
    assert resident_ctas(GPU, profile, shape(128, 32, 128, 2))[0] == 2  # 32 + 16 KiB each
    assert resident_ctas(GPU, profile, shape(16, 64, 256, 2))[0] == 1  # 8 + 64 KiB
    # Four warps share the keys of 16 rows and exchange 64 KiB of results, more than the 40 KiB of their tiles.
    assert merged_bytes(profile, shape(16, 64, 256, 1))[0] == 64 * KIB
    assert resident_ctas(GPU, profile, shape(16, 64, 256, 1))[0] == 1
    assert merged_bytes(profile, shape(64, 16, 256, 2))[0] == 0
    assert merged_bytes(load_profile("fa2", GPU), shape(16, 64, 256, 2))[0] == 0


def test_places_of_each_call_as_one_by_one():
    cost, count = np.array([3.0, 1.0, 5.0]), np.array([10.0, 40.0, 400.0])
    places = np.array([4.0, 300.0])
    together = makespan(cost, count, np.array([0, 2]), places, False)
    alone = [makespan(cost[a:b], count[a:b], np.array([0]), int(n), False)[0] for a, b, n in ((0, 2, 4), (2, 3, 300))]
    assert together.tolist() == alone


def test_sglang_prefill_reads_the_keys_it_is_handed():
    """Its attention is the 16-bit one whatever the cache; only appending differs. With a history it reads the cache."""

    def kernel_s(kv_dtype, engine, cached=0):
        w = Workload(4096, 32, 128, batch=4, heads_kv=8, dtype="bf16", kv_dtype=kv_dtype, cached=cached)
        return predict(w, "causal", GPU, "flashinfer", conditions=engine_conditions(engine, w)).kernel_time_s

    assert kernel_s("fp8", "sglang") == kernel_s("bf16", "sglang")
    assert kernel_s("fp8", "vllm") != kernel_s("bf16", "vllm")
    assert kernel_s("fp8", "sglang", 64) != kernel_s("bf16", "sglang", 64)


def test_two_ctas_on_an_sm_take_less_than_twice_as_long_as_one():
    """Each does one thing after the other; the second one fills the first one's gaps, but for the slowest pipe."""

    def run_s(heads):
        w = Workload(128, heads, 128, heads_kv=heads, dtype="bf16", cached=128)
        profile, pattern = load_profile("flashinfer", GPU, "vllm"), parse_pattern("causal")
        tiles = resolve_tiles(profile, pattern, w, None, None)
        work = kernel_work(profile, pattern, w, tiles)
        call = single_call(GPU, profile, w, pattern, tiles, work, engine_conditions("vllm", w))
        costs = forecast(GPU, profile, call, splits=np.ones(1))
        return float(costs.parts["tiles"][0]), float(costs.compute_s[0])

    (steady, one), (twice, two) = run_s(GPU.sms), run_s(2 * GPU.sms)
    assert 1.2 * one < two < 1.8 * one
    assert twice == pytest.approx(2 * steady)  # the slowest pipe's work
    fewer = run_s(GPU.sms // 2)
    assert fewer[1] == pytest.approx(one, rel=0.02)  # alone is alone


def test_merging_takes_a_turn_for_each_token_and_head_or_part():
    def merge_s(kernel, engine, tokens, heads, keys):
        w = Workload(tokens, heads, 128, heads_kv=1, dtype="bf16", cached=keys - tokens)
        estimate = predict(w, "causal", GPU, kernel, conditions=engine_conditions(engine, w))
        return estimate.parts_s["merge"], estimate.splits

    few, some = merge_s("flashinfer", "vllm", 64, 8, 8192), merge_s("flashinfer", "vllm", 128, 8, 8192)
    assert few[1] > 1
    assert some[1] > 1
    turn_s = 10 * GPU.dram_latency_s / (GPU.sms * (GPU.max_threads_per_sm // 128))
    assert some[0] - few[0] >= 64 * 8 * turn_s
    short, long = merge_s("fa2", "vllm", 1, 8, 8192), merge_s("fa2", "vllm", 1, 8, 65536)
    assert long[1] > short[1] > 1
    assert long[0] - short[0] >= 0.4 * GPU.dram_latency_s * (long[1] - short[1])


def test_appending_waits_where_registers_leave_one_cta_on_an_sm():
    tokens, moving = np.array([1e5]), np.array([1e-6])

    def each_s(elements, registers, heads=0.0):
        some, more = (
            append_seconds(
                GPU, moving, n * tokens, np.array([elements]), np.array([registers]), np.array([100.0]), heads
            )
            for n in (1, 2)
        )
        return float((more - some)[0]) / 1e5

    chain_s = (
        (100 + 100) * 4 / GPU.clock_hz
    )  # instructions of 4 cycles before the first key, and of a key and its value
    trips_s = GPU.l2_latency_s + 2 * GPU.dram_latency_s  # its slot, keys, values
    waits_s = trips_s + chain_s
    assert each_s(512.0, 72.0) == pytest.approx(waits_s / GPU.sms)  # 65536 // (512 x 72) = 1
    # Warps that take a head each go round twice for 17 to 32 heads.
    assert each_s(2048.0, 72.0, 16.0) == each_s(2048.0, 72.0)
    again_s = 2 * GPU.dram_latency_s + 100 * 4 / GPU.clock_hz
    assert each_s(2048.0, 72.0, 17.0) == pytest.approx((waits_s + again_s) / GPU.sms)
    assert each_s(4096.0, 72.0) == each_s(512.0, 72.0)  # 512 threads at most
    # 65536 // (256 x 72) = 3, whose 24 warps all look their slot up: 6 cycles of a scheduler for an instruction of each.
    assert each_s(256.0, 72.0) == pytest.approx((waits_s + 100 * 2 / GPU.clock_hz) / GPU.sms / 3)
    assert each_s(512.0, 0.0) == pytest.approx(2 * GPU.dram_latency_s / GPU.sms / 3)  # 1536 // 512 by threads
    # Three CTAs of 16 warps on four schedulers: an instruction of each takes 12 cycles, more than the 4 until the next may run.
    busy_s = trips_s + (100 * 12 + 100 * 12) / GPU.clock_hz
    assert each_s(512.0, 32.0, 16.0) == pytest.approx(busy_s / GPU.sms / 3)
    assert each_s(512.0, 32.0, 4.0) == pytest.approx((waits_s + 100 * 8 / GPU.clock_hz) / GPU.sms / 3)
    # A CTA for each token, however short it is, has to be handed out.
    fast = replace(GPU, l2_latency_s=1e-12, dram_latency_s=1e-12)
    handed_s = 1e5 / (GPU.dispatch_ctas_per_clock * GPU.clock_hz)
    assert (
        append_seconds(fast, 0 * moving, tokens, *(np.array([n]) for n in (512.0, 0.0, 0.0)))[0] == handed_s
    )  # no latency
    # Many bytes hide it.
    assert append_seconds(GPU, np.array([1.0]), tokens, *(np.array([n]) for n in (512.0, 72.0, 80.0)))[0] == 1.0
    near, far = (
        append_seconds(GPU, moving, tokens, *(np.array([n]) for n in (512.0, 72.0, 80.0, 0.0, share)))[0]
        for share in (1.0, 0.0)
    )
    assert far - near == pytest.approx(2.0 * (GPU.dram_latency_s - GPU.l2_latency_s) * (1 + 1e5 / GPU.sms))
    (narrow, more), (wide, fewer) = (append_thread("vllm", "sm_100", size) for size in (1, 2))
    assert narrow > wide > 0
    assert more > fewer > 0
    assert append_thread("sglang", "sm_100", 1) == (0.0, 0.0)


def test_a_warp_for_each_token_waits_twice_and_large_rows_take_more_warps():
    def each_s(row_bytes, moving_s=0.0, gpu=SLOW):
        sizes = (row_bytes, 0.0, gpu.clock_hz)
        some, more = (
            store_seconds(gpu, np.array([moving_s]), np.array([n]), *(np.array([size]) for size in sizes))[0]
            for n in (1e5, 2e5)
        )
        return (more - some) / 1e5

    places = SLOW.sms * SLOW.max_threads_per_sm // 32
    assert each_s(256.0) == pytest.approx(2 * SLOW.dram_latency_s / places)
    assert each_s(1024.0) == pytest.approx(2 * each_s(256.0))
    assert each_s(2048.0) == pytest.approx(4 * each_s(256.0)) == each_s(4096.0)
    assert each_s(1280.0) == each_s(256.0)  # no whole number of 1024 bytes
    assert each_s(256.0, moving_s=1.0) == 0.0  # bytes set the pace
    # Of memory as fast as it is, warps come as their CTAs are handed out, four warps to each.
    assert each_s(256.0, gpu=GPU) == pytest.approx(1.0 / 4 / (GPU.dispatch_ctas_per_clock * GPU.clock_hz))


def test_ctas_that_convert_a_token_come_as_fast_as_they_are_handed_out():
    def seconds(tokens, heads=1.0, moving_s=0.0, share=1.0):
        sizes = (np.array([size]) for size in (moving_s, tokens, heads, share, GPU.clock_hz))
        return convert_seconds(GPU, *sizes)[0]

    def each_s(heads, **more):
        return (seconds(2e5, heads, **more) - seconds(1e5, heads, **more)) / 1e5

    handed_s = 1.0 / (GPU.dispatch_ctas_per_clock * GPU.clock_hz)
    assert each_s(1.0) == pytest.approx(2 * handed_s) == each_s(8.0)  # keys and values
    assert each_s(9.0) == pytest.approx(4 * handed_s)
    assert each_s(1.0, moving_s=1.0) == 0.0  # bytes set the pace
    # A single CTA waits for memory once, however near it is.
    assert seconds(1.0, share=0.0) - seconds(1.0) == pytest.approx(GPU.dram_latency_s - GPU.l2_latency_s)


def test_sglang_converts_by_ctas_only_for_tensorrt_llms_kernels_and_a_cache_of_8_bits():
    assert append_by_ctas("sglang", "tensorrt-llm", 1)
    assert not append_by_ctas("sglang", "tensorrt-llm", 2)
    assert not append_by_ctas("sglang", "flash-attention", 1)
    assert not append_by_ctas("vllm", "tensorrt-llm", 1)
    b200, tokens = load_gpu("b200"), 65536

    def append_s(dtype, engine):
        workload = Workload((1024,), 1, 64, heads_kv=1, batch=tokens // 1024, dtype=dtype)
        conditions = Conditions(graph=True, appends=True, engine=engine)
        return predict(workload, "causal", b200, "trtllm", conditions=conditions).parts_s["append"]

    least_s = 2 * tokens / (b200.dispatch_ctas_per_clock * b200.clock_max_hz)
    assert append_s("fp8", "sglang") > least_s > append_s("bf16", "sglang")


def test_appending_what_the_l2_holds_needs_no_dram():
    warm = np.ones(1)
    assert resident_share(GPU, np.array([0.5 * GPU.l2_effective_bytes]), warm)[0] == 1
    assert resident_share(GPU, np.array([2.0 * GPU.l2_effective_bytes]), warm)[0] == 0
    assert resident_share(GPU, np.array([0.5 * GPU.l2_effective_bytes]), 0 * warm)[0] == 0

    def append_s(warm_l2):
        w = Workload(1024, 8, 128, batch=4, heads_kv=8, dtype="bf16")
        return predict(w, "causal", GPU, "flashinfer", conditions=engine_conditions("sglang", w, warm_l2)).parts_s[
            "append"
        ]

    assert append_s(True) < append_s(False)


def test_sglang_deals_its_prompts_to_the_sms_of_b200_as_if_they_were_not_causal():
    b200, causal = load_gpu("b200"), parse_pattern("causal")

    def uneven(engine: str, tokens: int) -> float:
        """Time of the SM that ends last over the mean."""
        call = Workload(batch=148, heads=64, heads_kv=8, grid=(tokens,), head_dim=128, dtype="bf16")
        found = predict(call, causal, b200, "flashinfer", conditions=Conditions(engine=engine, warm_l2=True))
        return (found.parts_s["tiles"] + found.parts_s["schedule"]) / found.parts_s["tiles"]

    # Four Q tiles of 256 in 1,024 tokens, and 148 is a multiple of four: some SMs have none but the longest, of 8 KV tiles
    # where the mean is 5. Five tiles of 1,280 tokens have no common divisor with it: every SM gets its share of each length.
    assert uneven("sglang", 1024) > 1.3 * uneven("", 1024)
    assert uneven("sglang", 1280) < 1.05 * uneven("", 1280)


def test_a_merge_waits_for_parts_of_which_32_are_in_flight():
    profile = load_profile("flashinfer", GPU, "sglang")
    assert profile.merging.part_trips == pytest.approx(1 / (128 / (128 / 8) * 4))  # 128 threads of 8 elements, 4 stages


def tile_pipes_of(profile, gpu, rows, kv_bytes):
    shape = TileShape(*(np.array([float(n)]) for n in (rows, 16, 64, 128, 128, 2, kv_bytes, 0)))
    return tile_pipes(gpu, profile, profile.operations, shape, np.array([gpu.tensor_flops_per_clock_per_sm["bf16"]]))


@pytest.mark.parametrize(("rows", "readers"), [(16, 1), (64, 4), (128, 4)])
def test_every_warp_that_reads_8_bit_keys_widens_them(rows, readers):
    """Rows are divided among four warps, each of which converts all keys and values for itself; of 16 rows keys are."""
    profile = load_profile("flashinfer", GPU, "vllm")
    plain, widened = (tile_pipes_of(profile, GPU, rows, size) for size in (2, 1))
    elements = readers * 64 * (128 + 128)
    assert widened["alu"] - plain["alu"] == pytest.approx(elements * WIDEN_ALU / GPU.alu_per_clock_per_sm)
    assert widened["fp32"] - plain["fp32"] == pytest.approx(elements * WIDEN_FP32 / GPU.fp32_fma_per_clock_per_sm)
    saved = 64 * (128 + 128) * (1 + readers)  # written once and read by each
    shuffled = elements * WIDEN_SHUFFLED_BYTES - saved
    assert widened["smem"] - plain["smem"] == pytest.approx(shuffled / GPU.smem_bytes_per_clock_per_sm)


def test_blackwells_prompts_and_decoding_are_two_programs():
    b200 = load_gpu("b200")
    profile = load_profile("flashinfer", b200, "sglang")
    decoding = profile.of_phase(True)
    assert profile.of_phase(False) is profile
    assert (profile.products.operands, decoding.products.operands) == ("async", "registers")
    assert decoding.decode_tiles == profile.decode_tiles
    assert decoding.serving == profile.serving
    # mma.sync takes four times as long over 16 rows as tcgen05's rate says.
    tensor = tile_pipes_of(decoding, b200, 16, 2)["tensor"]
    assert tensor == pytest.approx(4 * 4 * 16 * 64 * 128 / b200.tensor_flops_per_clock_per_sm["bf16"])
    # One token is not a prompt to SGLang where something is cached.
    graph = engine_conditions("sglang", Workload(1, 8, 128))
    for cached in (0, 1023):
        found = predict(
            Workload(1, 8, 128, heads_kv=1, cached=cached, batch=4), "causal", b200, "flashinfer", conditions=graph
        )
        assert (found.q_tile == (16,)) == (cached > 0)
