"""Predictions: parts, limits, invariants; sweeps equal single predictions."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncast import Conditions, InputError, Workload, parse_pattern, predict
from attncast.hwmodels import gpu_names, load_gpu
from attncast.simulator.advice import advice
from attncast.simulator.batch import band_classes, stack
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.cascades import names as cascade_names
from attncast.simulator.estimate import end_to_end
from attncast.simulator.forecast import forecast
from attncast.simulator.patterns.band import UNLIMITED, Band
from attncast.simulator.profile import load_profile, profile_names

from ..paths import SHARED

HUNYUAN = Workload("30x48x80", 24, 128, dtype="fp16")
DECODE_ONLY = ("mmha", "trtllm-decode", "xqa")
GNA = "na window=18x24x24 stride=16x8x8"


@pytest.mark.parametrize("gpu", gpu_names())
@pytest.mark.parametrize("pattern", ["dense", "causal", "window left=2047 right=0", GNA])
def test_every_gpu_forecasts_every_pattern(gpu, pattern):
    estimate = predict(HUNYUAN, pattern, gpu)
    assert math.fsum(estimate.parts_s.values()) == estimate.time_s
    assert all(value >= 0 for value in estimate.parts_s.values())
    assert 0 < estimate.time_low_s < estimate.time_s < estimate.time_high_s
    assert estimate.kernel_time_s <= estimate.time_s
    # No forecast beats the tensor cores at the clock of the stated peak.
    flops = 4 * estimate.work.pairs * HUNYUAN.heads * HUNYUAN.head_dim
    assert estimate.kernel_time_s > flops / load_gpu(gpu).peak_flops("fp16")


@pytest.mark.parametrize("kernel", profile_names())
def test_every_profile_runs_on_the_gpus_it_names(kernel):
    ran = 0
    for gpu in gpu_names():
        try:
            profile = load_profile(kernel, load_gpu(gpu))
        except InputError:
            continue
        pattern = "dense" if "band" in profile.patterns else "na window=9"
        tokens = 1 if kernel in DECODE_ONLY else 4096
        assert predict(Workload(tokens, 8, 64), pattern, gpu, kernel).kernel in {kernel, profile.serving.other_heads}
        ran += 1
        assert profile.cascade in cascade_names()
        assert 0 <= profile.overlap <= 1
        assert profile.overlap_source
    assert ran


def test_memory_bound_decode_takes_the_time_of_its_bytes():
    # 32 sequences x 8 heads x 8192 keys x 128 x 2 tensors x 2 bytes = 1.07 GB
    workload = Workload(1, 32, 128, batch=32, heads_kv=8, cached=8191)
    estimate = predict(workload, "causal", "h100", conditions=Conditions(graph=True))
    gpu = load_gpu("h100")
    floor = 32 * 8 * 8192 * 128 * 2 * 2 / gpu.dram_bandwidth_bytes_s
    assert estimate.bound_by == "dram"
    assert floor < estimate.time_s < 1.3 * floor


def test_memory_does_not_pace_a_last_wave_of_few():
    # FlashAttention-2 on an A100: 216 CTAs are a wave, and 8 key heads of 32 sequences are 256 of them, of 27 to a wave's 31.
    times = {}
    for batch in (27, 32, 54):
        workload = Workload(1, 32, 128, batch=batch, heads_kv=8, cached=16383)
        times[batch] = predict(workload, "causal", "a100", "fa2", conditions=Conditions(graph=True)).parts_s
    run = {batch: parts["tiles"] + parts["schedule"] + parts["memory"] for batch, parts in times.items()}
    assert run[54] == pytest.approx(2 * run[27], rel=0.01)
    assert run[32] > 1.1 * run[27] * 32 / 27
    assert run[32] < run[54]


def test_splitting_the_keys_fills_an_empty_gpu():
    workload = Workload(1, 8, 128, heads_kv=1, cached=131071)
    estimate = predict(workload, "causal", "h100", "fa3")
    assert estimate.splits > 64
    assert estimate.parts_s["merge"] > 0


@given(st.integers(1, 4000), st.integers(0, 3000), st.sampled_from(["a100", "h100", "b200", "rtx5090"]))
@settings(max_examples=60)
def test_more_keys_never_cost_less(queries, cached, gpu):
    # With the number of splits fixed: a split that becomes possible may well save time.
    small = predict(Workload(queries, 64, 128, batch=8, cached=cached), "causal", gpu)
    large = predict(Workload(queries, 64, 128, batch=8, cached=cached + 128), "causal", gpu)
    assert large.time_s >= small.time_s * (1 - 1e-9)


@given(st.integers(0, 4000))
@settings(max_examples=40)
def test_a_much_wider_window_costs_more(left):
    # Not any wider one: a window that ends on a tile's edge may well be cheaper than a narrower one that does not.
    narrow, wide = (predict(Workload(16384, 16, 128), Band(w, 0), "h100").time_s for w in (left, 2 * left + 256))
    assert wide > narrow


def test_masks_cost_only_where_the_kernel_masks():
    tiles = {"q_tile": "2x8x8", "kv_tile": "2x8x8"}
    masked = predict(HUNYUAN, "na window=18x24x24", "h100", "natten", **tiles)
    free = predict(HUNYUAN, GNA, "h100", "natten", **tiles)
    assert free.limits_s["mask"] == 0
    # NATTEN masks every visited tile of the first, so time grows by more than the tiles.
    assert masked.kernel_time_s / free.kernel_time_s > masked.work.visited_total / free.work.visited_total


def test_cutlass_kernel_prefers_the_tiles_that_natten_tuned_on_a100():
    default = predict(HUNYUAN, GNA, "a100", "natten", q_tile="4x4x4", kv_tile="4x4x4")
    tuned = predict(HUNYUAN, GNA, "a100", "natten", q_tile="2x8x4", kv_tile="2x8x8")
    assert default.work.visited_total * 64 / (tuned.work.visited_total * 128) < 1.2  # nearly the same work
    assert default.kernel_time_s > 1.8 * tuned.kernel_time_s  # measured: 2.5x


def test_a_sweep_equals_single_predictions():
    gpu = load_gpu("h100")
    profile = load_profile("fa3", gpu)
    workloads = [
        Workload(n, 16, 128, batch=b, heads_kv=4, cached=c) for n, b, c in [(1, 64, 900), (300, 2, 0), (5000, 1, 77)]
    ]
    pattern = Band(right=0)
    calls = []
    for workload in workloads:
        tiles = resolve_tiles(profile, pattern, workload, None, None)
        work = kernel_work(profile, pattern, workload, tiles)
        calls.append(single_call(gpu, profile, workload, pattern, tiles, work, Conditions()))
    together = forecast(gpu, profile, stack(calls))
    for index, workload in enumerate(workloads):
        alone = predict(workload, pattern, gpu, "fa3")
        assert together.time_s[index] == pytest.approx(alone.time_s, rel=1e-12)
        for name, value in alone.parts_s.items():
            assert together.parts[name][index] == pytest.approx(value, rel=1e-9, abs=1e-15)


def test_bands_in_bulk_equal_single_bands():
    rng = np.random.default_rng(0)
    shapes = [(int(q), int(q + c), int(w), int(tq), int(tk)) for q, c, w, tq, tk in zip(
        rng.integers(1, 8000, 40), rng.integers(0, 900, 40), rng.integers(0, 3000, 40),
        rng.choice([64, 128, 192], 40), rng.choice([32, 64, 128], 40), strict=True,
    )]  # fmt: skip
    queries, keys, left, tile_q, tile_kv = (np.array(column) for column in zip(*shapes, strict=True))
    packed = rng.choice([1, 4, 6], 40)
    visited, full, count, row = band_classes(queries, keys, left, np.int64(0), tile_q, tile_kv, packed)
    ends = np.append(row[1:], visited.size)
    for index, (q, k, w, tq, tk) in enumerate(shapes):
        part = slice(row[index], ends[index])
        work = Band(w, 0).tile_work(Workload(q, 1, 64, kv_grid=(k,)), (tq,), (tk,), packed=int(packed[index]))
        assert (visited[part] @ count[part], full[part] @ count[part]) == (work.visited_total, work.full_total)
        assert visited[part].max() == work.visited_max
        assert count[part].sum() == work.q_tiles
    assert keys.max() < UNLIMITED


def test_end_to_end_is_amdahl():
    assert end_to_end(10.0, 0.5, 1.0) == pytest.approx(1 / 0.55)
    estimate = predict(HUNYUAN, GNA, "b200", attention_share=0.607, sparse_share=0.7)
    assert estimate.end_to_end is not None
    assert estimate.end_to_end.speedup == pytest.approx(1 / (1 - 0.607 * 0.7 * (1 - 1 / estimate.speedup)))


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the collected data (../shared) is not here")
def test_the_papers_simulated_end_to_end_column():
    with (SHARED / "data/gna_paper_tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 22
    for row in rows:
        pattern = parse_pattern(f"na window={row['window']} stride={row['stride']}")
        sparse_share = 1 - int(row["sa_steps"]) / int(row["steps"])
        estimate = predict(
            Workload(row["shape"], 24, 128, dtype="fp16"), pattern, "b200", q_tile=row["q_tile"], kv_tile=row["kv_tile"],
            attention_share=float(row["sa_fraction"]), sparse_share=sparse_share,
        )  # fmt: skip
        assert estimate.end_to_end is not None
        assert estimate.end_to_end.bound_tiles_max == pytest.approx(float(row["paper_e2e_sim"]), abs=0.016), row
        assert estimate.end_to_end.bound_flop == pytest.approx(float(row["paper_e2e_flop"]), abs=0.016), row


def test_advice_finds_the_tiles_and_strides_that_need_no_mask():
    gpu = load_gpu("h100")
    for text, wanted in ((GNA, "2x8x8 | 2x8x8"), ("na window=18x24x24", "stride 2x8x8")):
        pattern = parse_pattern(text)
        estimate = predict(HUNYUAN, pattern, gpu)
        sentence = advice(estimate, HUNYUAN, pattern, gpu)
        assert wanted in sentence
        assert "no masks" in sentence


@pytest.mark.parametrize(
    ("gpu", "kernel", "workload", "pattern", "conditions", "wanted"),
    [
        # One token has no order to keep: FlashAttention-2 copies heads that share keys side by side.
        ("a100", "fa2", Workload(1, 64, 128, 64, 4, cached=200), "causal", Conditions(), "Copying query heads that share keys"),
        ("l40s", "flashinfer", Workload(256, 16, 64, 4, kv_dtype="fp8"), "dense", Conditions(), "Merging the results of split"),
        ("h100", "triton", Workload(1, 1, 32), "dense", Conditions(), "or launch it in a CUDA graph."),
        ("h100", "triton", Workload(1, 1, 32), "dense", Conditions(graph=True), "give each call more work."),
        ("b300", "fa4", Workload(379, 8, 32, 16, cached=2), "causal", Conditions(), "smaller tiles would leave fewer pairs"),
        ("a100", "natten", HUNYUAN, "na window=3x3x3", Conditions(), "no stride or tile of this kernel avoids it"),
        ("h100", "auto", Workload(8192, 8, 128), "sparsed steps=1", Conditions(), "Choosing blocks takes"),
    ],
)  # fmt: skip
def test_advice_is_about_what_takes_the_time(gpu, kernel, workload, pattern, conditions, wanted):
    model, wished = load_gpu(gpu), parse_pattern(pattern)
    estimate = predict(workload, wished, model, kernel, conditions=conditions)
    assert wanted in advice(estimate, workload, wished, model, conditions)


def test_choosing_blocks_is_charged():
    workload = Workload(32768, 32, 128)
    chosen = predict(workload, "sparge density=0.3", "h100")
    assert chosen.parts_s["select"] > load_gpu("h100").launch_s
    assert chosen.time_s - chosen.kernel_time_s == pytest.approx(chosen.parts_s["select"])
    assert predict(workload, "causal", "h100").parts_s["select"] == 0


def test_a_schedule_of_layers_is_the_mean_of_their_times():
    workload = Workload(32768, 32, 128)
    dense, window = (predict(workload, text, "h100") for text in ("dense", "window left=1023 right=0"))
    both = predict(workload, "layers 12*dense + 48*window left=1023 right=0", "h100", attention_share=0.5)
    assert both.time_s == pytest.approx(0.2 * dense.time_s + 0.8 * window.time_s)
    assert both.time_s == math.fsum(both.parts_s.values())
    assert "20% dense" in both.notes[0]
    assert both.end_to_end is not None
    assert both.end_to_end.speedup == pytest.approx(end_to_end(both.speedup, 0.5, 1.0))


def test_heads_of_a_mixture_share_a_launch():
    workload = Workload(32768, 32, 128)
    causal, window = (predict(workload, text, "h100", "flex") for text in ("causal", "window left=1023 right=0"))
    both = predict(workload, "heads 8*causal + 24*window left=1023 right=0", "h100", "flex")
    assert both.parts_s["launch"] == causal.parts_s["launch"]
    assert both.parts_s["tiles"] == pytest.approx(
        0.25 * causal.parts_s["tiles"] + 0.75 * window.parts_s["tiles"], rel=1e-3
    )


def test_a_kernel_whose_tiles_wait_for_themselves_is_bound_by_no_pipe():
    workload = Workload(8192, 32, 128, heads_kv=8)
    one_stage, pipelined = (predict(workload, "causal", "h100", kernel) for kernel in ("sglang-triton", "fa3"))
    assert (one_stage.bound_by, pipelined.bound_by) == ("chain", "tensor")
    assert one_stage.limits_s["tensor"] < 0.25 * one_stage.parts_s["tiles"]
    assert "one after the other" in advice(one_stage, workload, parse_pattern("causal"), load_gpu("h100"))


def test_a_tile_of_one_axis_may_be_a_number_and_a_dtype_torchs_own():
    workload = Workload(4096, 8, 128)
    by_number = predict(workload, q_tile=128, kv_tile=64)
    assert (by_number.q_tile, by_number.kv_tile) == ((128,), (64,))
    with pytest.raises(InputError, match=r"q tile 1\.5 cannot be read"):
        predict(workload, q_tile=1.5)

    class Half:
        def __str__(self):
            return "torch.float16"

    assert Workload(4096, 8, 128, dtype=Half()).dtype == "fp16"
    with pytest.raises(InputError, match="unknown dtype 'None'"):
        Workload(4096, 8, 128, dtype=None)


def test_a_tensor_that_does_not_fit_is_said():
    estimate = predict(Workload(2**28, 32, 128), "window left=1023 right=0", "h100")
    assert any("GB; h100 has 80 GB" in note for note in estimate.notes)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"pattern": "na window=31x48x80"}, ["'31x48x80'", "'30x48x80'", "axis 0"]),
        ({"pattern": "na window=8x8x8 stride=9x8x8"}, ["'9x8x8'", "from 1 to 8"]),
        ({"pattern": "na window=8x8"}, ["'8x8'", "2 axes", "has 3"]),
        ({"pattern": "na window=16x8x8 dilation=2x1x1"}, ["times dilation 2", "at most 15"]),
        ({"pattern": "wndow left=3"}, ["'wndow'", "did you mean 'window'"]),
        ({"pattern": "window lft=3"}, ["'lft'", "did you mean 'left'"]),
        ({"pattern": "window left=x"}, ["'x'", "whole number"]),
        ({"pattern": "window left=1 left=2"}, ["twice"]),
        ({"pattern": "na window=0x8x8"}, ["'0x8x8'", "at least 1"]),
        ({"pattern": "na window=8x8x8 causal=1x2x0"}, ["'1x2x0'", "0 or 1"]),
        ({"gpu": "h10"}, ["'h10'", "did you mean 'h100'"]),
        ({"kernel": "fa4"}, ["'fa4'", "h100", "fa3"]),
        ({"kernel": "fa5"}, ["'fa5'", "did you mean"]),
        ({"kernel": "fa3", "pattern": "na window=8x8x8"}, ["'fa3'", "dense, causal and window"]),
        ({"q_tile": "4x8", "pattern": "na window=8x8x8"}, ["'4x8'", "2 axes"]),
        ({"q_tile": "40x80x80", "pattern": "na window=8x8x8"}, ["256,000", "at most"]),
        ({"attention_share": 1.5}, ["1.5", "0 to 1"]),
        ({"attention_share": float("nan")}, ["nan", "0 to 1"]),
    ],
)
def test_bad_input_is_one_sentence_that_quotes_it(kwargs, words):
    with pytest.raises(InputError) as error:
        predict(HUNYUAN, **{"pattern": "dense", "gpu": "h100", **kwargs})
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"grid": 10**12}, ["1,000,000,000,000", "at most"]),
        ({"grid": "30xx80"}, ["'30xx80'"]),
        ({"grid": "1x2x3x4"}, ["1 to 3"]),
        ({"grid": (0, 5)}, ["'0x5'", "at least 1"]),
        ({"grid": 4.5}, ["4.5"]),
        ({"heads": 0}, ["heads 0"]),
        ({"heads": 24, "heads_kv": 7}, ["24", "7", "did you mean 8"]),
        ({"head_dim": 10**6}, ["head_dim 1000000"]),
        ({"dtype": "bf61"}, ["'bf61'", "did you mean 'bf16'"]),
        ({"cached": -1}, ["cached -1"]),
        ({"grid": "8x8", "cached": 5}, ["1-D"]),
        ({"cached": 5, "kv_grid": (7,)}, ["both"]),
        ({"cached": 2**31 - 2}, ["32-bit"]),
    ],
)
def test_bad_workloads_are_refused(kwargs, words):
    with pytest.raises(InputError) as error:
        Workload(**{"grid": 64, "heads": 4, "head_dim": 64, **kwargs})
    for word in words:
        assert word in str(error.value)
