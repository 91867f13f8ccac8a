"""Sweeps give what single predictions give, all at once."""

from __future__ import annotations

import math

import pytest

from attncast import InputError
from attncast.simulator import Conditions, predict
from attncast.simulator.sweep import load_sweep, run_group

FILE = """
gpus = ["h100", "a100"]
kernels = ["auto", "fa2"]
patterns = ["causal", "window left={left} right=0", "na window={size} stride={size}"]
[workload]
grid = [1024, 3000, "8192"]
heads = 8
heads_kv = [2, 8]
head_dim = [64, 128]
[values]
left = [100, 1023]
size = [256, 2048]
[conditions]
graph = true
"""


@pytest.fixture
def groups(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(FILE)
    return load_sweep(path)


def _predicted(group, workload):
    """What predict says: an estimate and no problem, or none and the problem."""
    try:
        return predict(workload, group.pattern, group.gpu, group.kernel, conditions=Conditions(graph=True)), ""
    except InputError as error:
        return None, str(error)


def test_every_row_is_what_predict_says(groups):
    assert len(groups) == 2 * 2 * 5
    assert len({group.key for group in groups}) == len(groups)
    run = refused = 0
    for group in groups:
        rows = run_group(group)
        assert len(rows) == 12
        for row, workload in zip(rows, group.workloads, strict=True):
            expected, problem = _predicted(group, workload)
            assert row.problem == problem
            if expected is None:
                assert math.isnan(row.time_s)
                refused += 1
                continue
            run += 1
            assert row.kernel == expected.kernel
            assert row.time_s == pytest.approx(expected.time_s, rel=1e-12)
            assert (row.low_s, row.high_s) == pytest.approx((expected.time_low_s, expected.time_high_s), rel=1e-12)
            assert row.kernel_time_s == pytest.approx(expected.kernel_time_s, rel=1e-12)
            assert row.speedup == pytest.approx(expected.speedup, rel=1e-12)
            assert row.baseline == expected.baseline.kernel
            assert row.bound_by == expected.bound_by
            assert row.density == pytest.approx(expected.work.pairs / expected.work.dense_pairs)
    # A window of 2048 does not fit 1024 tokens, and FlashAttention-2 runs no neighborhood.
    assert run > 150
    assert refused > 30


def test_the_values_of_a_row_are_those_in_its_pattern(groups):
    found = {(group.pattern, run_group(group)[0].values) for group in groups if group.gpu.key == "h100"}
    assert ("window left=1023 right=0", "left=1023") in found
    assert ("causal", "") in found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("gpus", "gpu"), "did you mean 'gpus'"),
        (('"h100"', '"h10"'), "unknown GPU 'h10'"),
        (("head_dim = [64, 128]", ""), "no workload 'head_dim'"),
        (("heads = 8", "head = 8"), "did you mean 'heads'"),
        (("left={left}", "left={lef}"), "did you mean 'left'"),
        (("size = [256, 2048]", "size = [256, 2048]\nspare = 3"), "values 'spare'"),
        (("left = [100, 1023]", "left = []"), "expected a value or a list of values"),
        (("graph = true", "graph = 1"), "expected true or false"),
        (('"causal"', '"causl"'), "did you mean 'causal'"),
        (("gpus = [", "gpus = [["), "is not TOML"),
        (('gpus = ["h100", "a100"]', "gpus = []"), "expected a list of names"),
        (("left={left}", "left={left"), "cannot be read"),
        (("heads_kv = [2, 8]", "heads_kv = [3]"), "expected a divisor of 8"),
    ],
)
def test_a_wrong_file_is_named_with_what_was_expected(tmp_path, change, said):
    path = tmp_path / "s.toml"
    text = FILE.replace(*change)
    assert text != FILE
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        load_sweep(path)


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_sweep(tmp_path / "none.toml")
