"""How TensorRT-LLM decodes before Blackwell: which of its kernels runs, into how many parts, and what a part costs."""

from dataclasses import replace

import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator import Workload, parse_pattern, steps
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import Conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.predict import predict
from attncast.simulator.profile import load_profile

WINDOW = "window left=127 right=0"
CALL = Conditions(graph=True, warm_l2=True, appends=True, rotates=True)


def decode(batch, heads, kv_heads, cached, head_dim=128, kv_dtype=None):
    shape = {"batch": batch, "heads": heads, "heads_kv": kv_heads, "grid": (1,), "cached": cached, "head_dim": head_dim}
    return Workload(**shape, dtype="bf16", kv_dtype=kv_dtype)


def costs(kernel, workload, pattern="causal", gpu="h100"):
    model, family = load_gpu(gpu), parse_pattern(pattern)
    profile = load_profile(kernel, model, "", workload.kv_dtype)
    tiles = resolve_tiles(profile, family, workload, None, None)
    work = kernel_work(profile, family, workload, tiles)
    call = single_call(model, profile, workload, family, tiles, work, CALL)
    return profile, call, forecast(model, profile, call)


@pytest.mark.parametrize(
    ("gpu", "workload", "kernel"),
    [
        ("h100", decode(32, 8, 1, 63), "mmha"),  # 32 parts: four times as many are fewer than 132 SMs
        ("h100", decode(64, 8, 1, 63), "xqa"),
        ("h100", decode(4, 8, 1, 2047), "xqa"),  # 64 parts of 128 keys
        ("a100", decode(32, 8, 1, 63), "xqa"),  # 108 SMs
        ("a100", decode(16, 8, 1, 63), "mmha"),
        ("h100", decode(1, 8, 1, 63, kv_dtype="fp8"), "xqa"),  # it has a kernel of its own for such a cache
        ("h100", decode(512, 8, 8, 2047), "mmha"),  # one query head for each key head
        ("h100", decode(64, 64, 1, 2047), "mmha"),  # more of them than 32
    ],
)
def test_few_parts_or_odd_heads_go_to_mmha(gpu, workload, kernel):
    assert predict(workload, "causal", gpu, "trtllm").kernel == kernel


def test_a_window_costs_the_parts_of_the_whole_history_in_16_bits_alone():
    """H100, one sequence, 2 and 64 Ki keys, a window of 128: 13 and 18 us in 16 bits, 9 and 9 in 8 (aiconfigurator)."""
    wide, narrow = (decode(16, 16, 2, keys, 64) for keys in (65535, 2047))
    assert costs("xqa", wide, WINDOW)[2].time_s > 1.2 * costs("xqa", narrow, WINDOW)[2].time_s
    wide, narrow = (decode(16, 16, 2, keys, 64, "fp8") for keys in (65535, 2047))
    assert costs("xqa", wide, WINDOW)[2].time_s == pytest.approx(costs("xqa", narrow, WINDOW)[2].time_s)


def test_an_fp8_cache_has_no_empty_parts():
    _, _, found = costs("xqa", decode(1, 2, 1, 65535, 64, "fp8"), WINDOW)
    assert found.splits.tolist() == [2]  # the window lies in two tiles of 64 keys
    _, _, found = costs("xqa", decode(1, 2, 1, 65535, 64), WINDOW)
    assert found.splits.tolist() == [64]


def test_the_last_cta_merges_without_a_launch():
    _, _, found = costs("xqa", decode(1, 8, 1, 131071))
    _, _, one = costs("xqa", decode(1, 8, 1, 127))
    assert (found.splits[0], one.splits[0], one.parts["merge"][0]) == (91, 1, 0)
    # 91 parts two at a time, and their maxima eight at a time, a little over half a DRAM latency each.
    steps = 91 * (1 / 2 + 1 / 8) * 0.6 * load_gpu("h100").dram_latency_s
    assert found.parts["merge"][0] == pytest.approx(steps, rel=0.2)


@pytest.mark.parametrize(
    ("head_dim", "group", "ctas"), [(64, 8, 4), (64, 32, 3), (128, 5, 3), (128, 32, 2), (256, 8, 2), (256, 12, 1)]
)
def test_registers_decide_how_many_ctas_share_an_sm(head_dim, group, ctas):
    profile, call, _ = costs("xqa", decode(4, group, 1, 1023, head_dim, "fp8"))
    assert (call.in_flight[0] or profile.in_flight) == ctas


def test_a_cta_that_rotates_its_queries_itself_takes_longer_for_more_of_them():
    times = [costs("xqa", decode(1024, group, 1, 1, 128, "fp8"))[2].time_s[0] for group in (9, 16)]
    assert times[0] < times[1]


def test_mmha_runs_whole_turns_but_warps_without_a_key_do_nothing():
    """Head dim 128: 16 keys at once, four times over keys, eight over values; up to 8 cached keys one warp of two idles."""
    found = {n: costs("mmha", decode(33, 16, 16, n))[2].compute_s[0] for n in (1, 8, 9, 32, 64, 65, 72, 73)}
    assert found[1] == pytest.approx(found[8])
    assert found[8] < found[9] == pytest.approx(found[32]) == pytest.approx(found[64])
    assert found[64] < found[65] == pytest.approx(found[72])
    assert found[72] < found[73]


def test_scores_in_shared_memory_leave_room_for_fewer_ctas():
    """6 bytes a key: four CTAs of 8,192 keys share an SM of H100, and two of 16,384: more than twice as long."""
    four, two = (costs("mmha", decode(16, 128, 1, keys, 64))[2].compute_s[0] for keys in (8191, 16383))
    assert two > 2.05 * four


def test_heads_that_share_keys_wait_less_for_them():
    """The first of 128 heads fetches a key from DRAM; the others find it in the L2."""
    own, shared = (costs("mmha", decode(2048, 128, heads, 255))[2].compute_s[0] for heads in (128, 1))
    assert shared < 0.95 * own


def test_mmha_rotates_and_appends_without_a_pass_before_it():
    gpu = load_gpu("h100")
    assert costs("mmha", decode(8, 8, 8, 255))[2].parts["append"][0] < 0.1 * gpu.graph_launch_s
    assert costs("xqa", decode(8, 8, 1, 255))[2].parts["append"][0] > gpu.graph_launch_s


def test_parts_of_mmha_are_added_up_by_many_threads_at_once():
    """Three memory latencies, and a step for each 64 parts' maxima and another for their outputs: 3 and 129 parts."""
    two, many = (costs("mmha", decode(1, 1, 1, keys))[2] for keys in (1023, 65535))
    assert (two.splits[0], many.splits[0]) == (3, 129)
    trip = load_gpu("h100").dram_latency_s
    assert two.parts["merge"][0] == pytest.approx((3 + 2 * 0.6) * trip, rel=0.1)
    assert many.parts["merge"][0] == pytest.approx((3 + 6 * 0.6) * trip, rel=0.1)


def test_a_tile_of_few_keys_takes_xqa_as_long_as_a_full_one():
    """Each of four warps has 64 keys of its own and its scheduler: only what is loaded grows."""
    one, full = (costs("xqa", decode(512, 16, 8, keys, 64))[2].compute_s[0] for keys in (1, 63))
    assert one == pytest.approx(full)


def test_xqa_waits_longer_for_wide_heads():
    """Keys come 64 columns at a time, one step ahead: 256 columns take one memory latency more than 128."""
    profile, call, _ = costs("xqa", decode(512, 16, 8, 1, 256))
    assert steps.staged_trips(profile, call) == 1
    profile, call, _ = costs("xqa", decode(512, 16, 8, 255, 256))  # and then as many steps over keys: another
    assert steps.staged_trips(profile, call) == 2
    for head_dim in (64, 128):
        profile, call, _ = costs("xqa", decode(512, 16, 8, 255, head_dim))
        assert steps.staged_trips(profile, call) == 0


def test_a_last_wave_of_few_ctas_costs_mmha_a_wave():
    """144 CTAs of 1,024 threads on 132 SMs, against 132: half as long again at least, whatever the memory does."""
    two_waves, one_wave = (costs("mmha", decode(1, heads, heads, 32767, 256))[2].time_s[0] for heads in (16, 12))
    assert two_waves > 1.5 * one_wave * 12 / 16


@pytest.mark.parametrize(("head_dim", "rotary_dim", "itself"), [(64, 0, True), (64, 128, False), (128, 128, True)])
def test_xqa_rotates_itself_where_no_more_dims_are_rotated_than_a_head_has(head_dim, rotary_dim, itself):
    workload = decode(32, 8, 1, 1023, head_dim, kv_dtype="fp8")
    gpu = load_gpu("h100")
    profile = load_profile("xqa", gpu, "", "fp8")
    tiles = resolve_tiles(profile, parse_pattern("causal"), workload, None, None)
    work = kernel_work(profile, parse_pattern("causal"), workload, tiles)
    call = single_call(
        gpu, profile, workload, parse_pattern("causal"), tiles, work, replace(CALL, rotary_dim=rotary_dim)
    )
    assert bool(call.fused[0]) is itself
    assert bool(call.rotate_bytes[0]) is not itself
