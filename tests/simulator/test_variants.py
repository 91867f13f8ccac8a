"""Which tiles a kernel uses: by engine, dtype of the cache, window; what promotion and a full L2 cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast import Workload, parse_pattern, predict
from attncast.hwmodels import load_gpu
from attncast.simulator import memory, pipes
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import Conditions, engine_conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.profile import load_profile
from attncast.simulator.sweep import Group, run_group

WINDOW = "window left=127 right=0"
CAUSAL = parse_pattern("causal")


def tiles(kernel, gpu, workload, pattern="causal", engine=""):
    return resolve_tiles(load_profile(kernel, load_gpu(gpu), engine), parse_pattern(pattern), workload, None, None)


def test_an_engine_has_its_own_build_of_a_kernel_and_others_the_common_one():
    prompt = Workload(4096, 32, 128, heads_kv=8)
    assert tiles("fa2", "a100", prompt) == tiles("fa2", "a100", prompt, engine="sglang") == ((128,), (64,))
    # A paged cache is read by the split-KV kernel, whose tiles have 64 rows.
    assert tiles("fa2", "a100", prompt, engine="vllm") == ((64,), (128,))
    assert load_profile("fa2", load_gpu("a100"), "vllm") != load_profile("fa2", load_gpu("a100"))


def test_a_window_or_an_8_bit_cache_may_have_tiles_of_its_own():
    token = Workload(1, 32, 64, batch=8, heads_kv=4, cached=4095)
    assert tiles("fa3", "h100", token, engine="vllm") == ((64,), (192,))
    assert tiles("fa3", "h100", token, WINDOW, engine="vllm") == ((192,), (160,))
    prompt = Workload(4096, 32, 128, heads_kv=8)
    assert tiles("flashinfer", "rtx5090", prompt) == ((128,), (32,))
    assert tiles("flashinfer", "rtx5090", replace(prompt, kv_dtype="fp8")) == ((128,), (64,))


def test_a_window_that_cuts_costs_fp8_prompts_of_tensorrt_more_in_every_tile():
    """Also in those that it does not mask, but not in the build of head dim 128 whose output is fp8."""

    def of_a_tile(pattern, head_dim, dtype="fp8", quantises=False):
        workload = Workload(16384, 16, head_dim, batch=8, heads_kv=2, dtype=dtype)
        found = predict(workload, pattern, "h100", "trtllm", conditions=Conditions(quantises=quantises))
        return found.parts_s["tiles"] / found.work.visited_total

    wide = "window left=8191 right=0"
    for head_dim in (64, 192, 256):
        assert of_a_tile(wide, head_dim) > 1.5 * of_a_tile("causal", head_dim)
    assert of_a_tile(wide, 128) < 1.1 * of_a_tile("causal", 128)
    assert of_a_tile(wide, 128, quantises=True) > 1.5 * of_a_tile("causal", 128, quantises=True)
    assert of_a_tile(wide, 64, "bf16") < 1.1 * of_a_tile("causal", 64, "bf16")
    all_keys = "window left=16383 right=0"  # the kernel without a window runs
    assert of_a_tile(all_keys, 64) == pytest.approx(of_a_tile("causal", 64))


def test_promoting_fp8_products_costs_more_the_wider_the_head():
    """vLLM's two-level accumulation: at head dim 256 two accumulators spill (its pull request 122: twice as slow)."""
    gpu = load_gpu("h100")
    vllm, sglang = (load_profile("fa3", gpu, engine) for engine in ("vllm", "sglang"))
    # What else the builds differ in: vLLM's stalls at masks and gathers rows of queries.
    tiles = tuple(replace(choice, mask_stall=0.0) for choice in vllm.tiles)
    vllm = replace(vllm, tiles=tiles, packing=replace(vllm.packing, gather_cycles=0.0))

    def ratio(head_dim, dtype):
        workload = Workload(8192, 16, head_dim, batch=2, heads_kv=4, dtype=dtype)
        runs = []
        for profile in (vllm, sglang):
            tiles = resolve_tiles(profile, CAUSAL, workload, None, None)
            work = kernel_work(profile, CAUSAL, workload, tiles)
            calls = single_call(gpu, profile, workload, CAUSAL, tiles, work, Conditions())
            runs.append(float(forecast(gpu, profile, calls).kernel_s[0]))
        return runs[0] / runs[1]

    assert ratio(128, "bf16") == pytest.approx(1.0)
    assert 1.0 < ratio(128, "fp8") < ratio(192, "fp8") < ratio(256, "fp8")
    assert ratio(256, "fp8") > 1.5


# Of an L2 in two parts all stays where every SM reaches it, and nothing beyond the whole; of one in one part what an L40 was
# measured to keep (see memory.LOOPED).
@pytest.mark.parametrize(("gpu", "ends"), [("h100", None), ("b200", None), ("rtx-pro-6000", (0.932, 1.349))])
def test_nothing_stays_in_an_l2_that_a_loop_overflows(gpu, ends):
    model = load_gpu(gpu)
    all_stays, none_stays = ends or (1.0, model.l2_bytes / model.l2_effective_bytes)

    def from_dram(factor):
        sizes = np.array([model.l2_effective_bytes * factor])
        zero, one = np.zeros(1), np.ones(1)
        return memory.traffic(model, zero, zero, sizes, one, one, sizes, one).dram_bytes[0] / sizes[0]

    assert from_dram(all_stays) == 0.0
    assert from_dram(none_stays) == 1.0
    between = [from_dram(factor) for factor in np.linspace(all_stays, none_stays, 9)]
    assert between == sorted(set(between))  # ever more


def test_a_sweep_asks_the_kernel_that_serves_decoding():
    token = Workload(1, 32, 128, batch=16, heads_kv=8, cached=8191)
    conditions = engine_conditions("trtllm", token)
    group = Group(load_gpu("b200"), "trtllm", "causal", {}, (token,), conditions)
    (row,) = run_group(group)
    single = predict(token, "causal", "b200", "trtllm", conditions=conditions)
    assert (row.kernel, row.time_s) == (single.kernel, pytest.approx(single.time_s, rel=1e-12))
    assert row.kernel == "trtllm-decode"


def test_transposing_v_in_fp8_costs_shared_memory_and_nothing_in_16_bits():
    profile = load_profile("fa3", load_gpu("h100"))
    gpu = load_gpu("h100")

    def shared(dtype, transposes):
        workload = Workload(8192, 16, 256, heads_kv=4, dtype=dtype)
        changed = replace(profile, products=replace(profile.products, transposes_fp8=transposes))
        calls = single_call(
            gpu, changed, workload, CAUSAL, ((128,), (128,)), CAUSAL.tile_work(workload, (128,), (128,)), Conditions()
        )
        return forecast(gpu, changed, calls).limits["smem"][0]

    assert shared("bf16", True) == shared("bf16", False)
    assert shared("fp8", True) > shared("fp8", False)


def test_flash_attention_2_copies_queries_and_output_where_it_packs_several_key_heads():
    """seqlenq_ngroups_swapped: vLLM takes 6 us more for a token of several key heads on A100, but not under a window."""

    def seconds(heads, kv_heads, pattern="causal", gpu="a100"):
        token = Workload(1, heads, 128, batch=4, heads_kv=kv_heads, cached=31)
        return predict(token, pattern, gpu, "fa2", conditions=Conditions(graph=True, engine="vllm")).parts_s["permute"]

    assert seconds(16, 4) == pytest.approx(6e-6, rel=0.1)
    assert seconds(16, 4, gpu="rtx-pro-6000") == pytest.approx(4e-6, rel=0.2)
    assert seconds(16, 1) == seconds(16, 16) == seconds(16, 4, WINDOW) == 0


def test_narrow_values_leave_tensor_memory_room_for_two_q_tiles():
    wide, narrow = (Workload(4096, 16, 192, heads_kv=16, head_dim_v=dim) for dim in (None, 128))
    assert tiles("cudnn", "b200", narrow) == ((256,), (128,))
    assert tiles("cudnn", "b200", wide) == ((128,), (128,))
    gpu = load_gpu("b200")
    single = pipes.combine(load_profile("cudnn", gpu), {name: np.ones(1) for name in pipes.PIPES}, np.ones(1))
    paired = pipes.combine(load_profile("cudnn", gpu), {name: np.ones(1) for name in pipes.PIPES}, np.zeros(1))
    assert single > paired  # softmax has no other tile's products to hide behind
