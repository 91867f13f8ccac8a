"""What a GPU without rows takes over from the others."""

from __future__ import annotations

import math

import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator.calibration import BOUNDS, Constants, Use
from attncast.simulator.carry import OTHER_BUILD, OTHER_DTYPE, OTHER_ENGINE, PRIOR, carried_constants, carried_interval
from attncast.simulator.profile import load_profile

H200 = Use("h200", "fa3", "vllm", "prefill", "16-bit")
H100 = Use("h100", "fa3", "vllm", "prefill", "16-bit")


def carried(use, names, fits, engine="vllm"):
    return carried_constants(use, load_profile(use.kernel, load_gpu(use.gpu), engine), names, fits)


def test_the_same_program_gives_its_ratio_to_the_prior():
    prior = load_profile("fa3", load_gpu("h200"), "vllm").round_trips
    found = carried(H200, ["round_trips"], {H100: {"round_trips": 2 * prior}})
    assert found == pytest.approx({"round_trips": prior * (2 + PRIOR) / (1 + PRIOR)})


def test_dram_is_the_gpus_own_and_so_are_fits_of_the_gpu_itself():
    fits = {H100: {"dram_efficiency": 0.5, "call_s": 4e-6}, H200: {"call_s": 9e-6}}
    assert carried(H200, ["dram_efficiency", "call_s", "key_s"], fits) == {"call_s": pytest.approx(4e-6)}
    assert carried(H200, ["call_s"], {H200: {"call_s": 9e-6}}) is None


def test_overlap_carries_between_builds_of_one_program_only():
    a100 = Use("a100", "fa3", "vllm", "prefill", "16-bit")  # its kernels are FlashAttention-2's kind
    prior = load_profile("fa3", load_gpu("h200"), "vllm")
    found = carried(H200, ["overlap", "round_trips"], {a100: {"overlap": 0.1, "round_trips": 8.0}})
    other = load_profile("fa3", load_gpu("a100"), "vllm")
    assert found["overlap"] == pytest.approx(prior.overlap)
    ratio = (OTHER_BUILD * 8.0 / other.round_trips + PRIOR) / (OTHER_BUILD + PRIOR)
    assert found["round_trips"] == pytest.approx(prior.round_trips * ratio)


def test_kernels_of_a_family_wait_for_memory_alike():
    fa2 = Use("a100", "fa2", "vllm", "prefill", "16-bit")
    xqa = Use("a100", "xqa", "vllm", "prefill", "16-bit")
    prior = load_profile("fa3", load_gpu("h200"), "vllm").round_trips
    assert carried(H200, ["round_trips"], {fa2: {"round_trips": 12.0}})["round_trips"] > 1.2 * prior
    assert carried(H200, ["round_trips"], {xqa: {"round_trips": 12.0}})["round_trips"] == pytest.approx(prior)


def test_an_engines_costs_are_the_mean_of_the_nearest():
    fp8 = Use("h100", "fa3", "vllm", "prefill", "8-bit")
    sglang = Use("b200", "trtllm", "sglang", "prefill", "16-bit")
    fits = {H100: {"call_s": 4e-6}, fp8: {"call_s": 7e-6}, sglang: {"call_s": 20e-6}}
    weights = [1.0, OTHER_DTYPE, OTHER_BUILD * OTHER_ENGINE]
    mean = sum(w * t for w, t in zip(weights, (4e-6, 7e-6, 20e-6), strict=True)) / sum(weights)
    assert carried(H200, ["call_s"], fits) == {"call_s": pytest.approx(mean)}
    geometric = carried(H200, ["key_s"], {H100: {"key_s": 1e-10}, fp8: {"key_s": 1e-8}})["key_s"]
    assert geometric == pytest.approx(math.exp((math.log(1e-10) + 0.5 * math.log(1e-8)) / 1.5))


@pytest.mark.parametrize("name", ["query_rate", "rotation_efficiency"])
def test_a_pass_over_queries_is_each_engines_own(name):
    sglang = Use("h100", "fa3", "sglang", "prefill", "16-bit")
    assert carried(H200, [name, "call_s"], {sglang: {name: 0.5, "call_s": 4e-6}}) == {"call_s": pytest.approx(4e-6)}
    assert carried(H200, [name], {H100: {name: 0.5}}) == {name: pytest.approx(0.5)}
    decode = Use("h100", "fa3", "vllm", "decode", "16-bit")
    both = {H100: {name: 0.5}, decode: {name: 0.9, "call_s": 1e-6}}
    assert carried(H200, [name, "call_s"], both) == {name: pytest.approx(0.5)}
    only = {H100: {"call_s": 4e-6}, decode: {name: 0.9}}  # the same kernel in both phases
    assert carried(H200, [name], only) == {name: pytest.approx(0.9)}


def test_nothing_carries_from_another_phase_alone_or_an_unknown_gpu():
    decode = Use("h100", "fa3", "vllm", "decode", "16-bit")
    assert carried(H200, ["call_s", "overlap"], {decode: {"call_s": 4e-6, "overlap": 1.0}}) is None
    gone = Use("nowhere", "fa3", "vllm", "prefill", "16-bit")
    prior = load_profile("fa3", load_gpu("h200"), "vllm").overlap
    assert carried(H200, ["overlap"], {gone: {"overlap": 2.0}}) == {"overlap": pytest.approx(prior)}


def test_the_interval_is_that_of_the_kernels_left_out_rows():
    def constants(left_out):
        return Constants({}, 0.1, 50, 0.05, "data", "today", "a test", left_out_interval=left_out)

    fa2 = Use("a100", "fa2", "vllm", "prefill", "16-bit")
    fits = {H100: constants(0.2), Use("b200", "fa3", "vllm", "decode", "16-bit"): constants(0.4), fa2: constants(0.9)}
    assert carried_interval(H200, fits) == pytest.approx(0.3)
    assert carried_interval(H200, {fa2: constants(0.9)}) == pytest.approx(0.9)
    assert carried_interval(H200, {H100: constants(0.0)}) is None


def test_another_kernel_of_a_family_counts_less_than_another_program_of_the_same_kernel():
    prior = load_profile("fa3", load_gpu("h200"), "vllm").round_trips
    ratios = []
    for name in ("fa3", "fa2"):
        other = Use("a100", name, "vllm", "prefill", "16-bit")
        its_prior = load_profile(name, load_gpu("a100"), "vllm").round_trips
        ratios.append(carried(H200, ["round_trips"], {other: {"round_trips": 3 * its_prior}})["round_trips"] / prior)
    for found, weight in zip(ratios, (OTHER_BUILD, OTHER_BUILD**2), strict=True):
        assert found == pytest.approx((3 * weight + PRIOR) / (weight + PRIOR))


@pytest.mark.parametrize("name", ["rotation_efficiency", "key_s"])
def test_a_value_on_its_bound_does_not_decide_a_geometric_mean(name):
    decode = Use("h100", "fa3", "vllm", "prefill", "8-bit")
    bounds = BOUNDS[name]
    inside = math.sqrt(bounds.low * bounds.high)
    for bound in (bounds.low, bounds.high):
        assert carried(H200, [name], {H100: {name: inside}, decode: {name: bound}}) == {name: pytest.approx(inside)}
        assert carried(H200, [name], {decode: {name: bound}}) == {name: pytest.approx(bound)}  # nothing better is known
    on_bound = carried(H200, ["call_s"], {H100: {"call_s": 4e-6}, decode: {"call_s": BOUNDS["call_s"].low}})
    assert on_bound["call_s"] < 4e-6  # as good as nothing, which an arithmetic mean takes as it is


def test_decoding_carries_as_the_program_that_decodes():
    use = Use("b200", "flashinfer", "sglang", "decode", "16-bit")
    rtx = Use("rtx-pro-6000", "flashinfer", "sglang", "decode", "16-bit")
    profile = load_profile("flashinfer", load_gpu("b200"), "sglang").of_phase(True)
    prior = load_profile("flashinfer", load_gpu("rtx-pro-6000"), "sglang").round_trips
    found = carried_constants(use, profile, ["round_trips"], {rtx: {"round_trips": 2 * prior}})
    ratio = (2 * OTHER_BUILD + PRIOR) / (OTHER_BUILD + PRIOR)
    assert found == {"round_trips": pytest.approx(profile.round_trips * ratio)}
