"""The suites that come with attncast: readable, sized as they say, and each sparse case beside its dense partner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast import InputError, parse_pattern
from attncast.hwmodels import load_gpu
from attncast.kernels.space import KernelConfig
from attncast.kernels.static import estimate_configs
from attncast.simulator.patterns import Band
from attncast.validation.measure.case import BANDS, Case, config_text, read_config
from attncast.validation.measure.libraries import LIBRARIES
from attncast.validation.measure.sizing import forecast_s, part_of, read_part, size
from attncast.validation.measure.suites import load_suite, suite_names

H100 = load_gpu("h100")


@pytest.mark.parametrize("name", ["smoke", "dense", "sparse", "decode", "configs"])
@pytest.mark.parametrize("small", [False, True])
def test_every_case_can_be_asked_for(name, small):
    cases = load_suite(name).cases(H100, small=small)
    assert len({case.id for case in cases}) == len(cases) > 10
    for case in cases:
        pattern = parse_pattern(case.pattern)
        pattern.check(case.workload)
        assert isinstance(pattern, Band) == (case.kind in BANDS)
        assert LIBRARIES[case.kernel].takes(case)
        assert Case.from_dict(case.to_dict()) == case
        if small:
            assert case.batch * case.heads * case.workload.tokens * case.workload.kv_tokens <= 2**23
    assert suite_names()[0] == "smoke"


@pytest.mark.parametrize("name", ["smoke", "dense", "sparse", "decode", "configs"])
def test_suites_take_the_time_that_they_say(name):
    suite = load_suite(name)
    found = size(suite.cases(H100), H100, suite.sample_seconds)
    assert found.unknown == 0
    assert found.seconds <= suite.seconds <= 480
    assert found.gpu_s > 1


def test_tiny_cases_try_the_same_kernels_and_patterns():
    for name in suite_names():
        suite = load_suite(name)
        whole, small = (
            {(case.kernel, case.kind, case.measures, case.dtype, case.head_dim, case.config)
             for case in suite.cases(H100, small=tiny)}
            for tiny in (False, True)
        )  # fmt: skip
        assert whole == small


def test_every_sparse_case_has_its_dense_partner():
    cases = set(load_suite("sparse").cases(H100))
    kinds = set()
    for case in cases:
        if case.kind in ("na", "blocks", "window"):
            kinds.add(case.kind)
            partner = "causal" if case.kind == "window" else "dense"
            # NATTEN runs its dense calls on cuDNN; the partner of a call with the permutation needs none.
            kernel = "sdpa-cudnn" if case.kernel == "natten" else case.kernel
            assert replace(case, pattern=partner, measures="kernel", kernel=kernel) in cases
    assert kinds == {"na", "blocks", "window"}


def test_the_dense_suite_spans():
    cases = load_suite("dense").cases(H100)
    assert {case.head_dim for case in cases} == {64, 128}
    assert {case.dtype for case in cases} == {"bf16", "fp16"}
    assert {"512", "32768"} <= {case.grid for case in cases}
    assert any(case.heads != case.heads_kv for case in cases)
    for kernel in ("sdpa-flash", "sdpa-cudnn", "flex", "attncast"):
        assert {case.pattern for case in cases if case.kernel == kernel} == {"dense", "causal"}


def test_configurations_are_all_that_are_not_hopeless():
    cases = load_suite("configs").cases(H100)
    for head_dim, count in ((64, 82), (128, 70)):
        own = [case for case in cases if case.head_dim == head_dim and case.pattern == "causal"]
        assert len(own) == count
        knobs = [read_config(case.config) for case in own]
        fits = estimate_configs(
            H100,
            [
                KernelConfig(
                    "attention", head_dim, "bf16", "causal", k.block_m, k.block_n, k.num_warps, k.num_stages, k.use_tma
                )
                for k in knobs
            ],
        )
        assert not np.asarray(fits.hopeless).any()
        assert [config_text(k) for k in knobs] == [case.config for case in own]
    specialised = [case for case in load_suite("configs").cases(load_gpu("b200")) if "WARP_SPECIALIZE=1" in case.config]
    assert specialised
    assert not any("WARP_SPECIALIZE=1" in case.config for case in cases)


def test_parts_are_of_about_the_same_length():
    suite = load_suite("configs")
    cases = suite.cases(H100)
    parts = [part_of(cases, (number, 4), H100, suite) for number in (1, 2, 3, 4)]
    assert [case for part in parts for case in part] == cases
    seconds = [size(part, H100, suite.sample_seconds).seconds for part in parts]
    assert max(seconds) < 1.2 * min(seconds)
    assert read_part("2/5") == (2, 5)
    for text in ("0/5", "6/5", "2", "2/", "a/b", "-1/2"):
        with pytest.raises(InputError, match="expected k/n"):
            read_part(text)


def test_forecasts_know_the_cache_and_the_permutation():
    case = next(case for case in load_suite("sparse").cases(H100) if case.kind == "na" and case.kernel == "attncast")
    assert forecast_s(case, H100) < forecast_s(replace(case, measures="call"), H100)


def test_an_unknown_suite():
    with pytest.raises(InputError, match=r"unknown suite 'smokey': expected one of .*; did you mean 'smoke'"):
        load_suite("smokey")
