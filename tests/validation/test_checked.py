"""The errors that forecasts without fitted constants tell of are those of the curated table, and of its runs alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncast.simulator.calibration import Use
from attncast.simulator.checked import checked
from attncast.validation.checked import AT_LEAST_S, checked_runs, write_checked
from attncast.validation.measured import load_curated
from attncast.validation.problem import problem_of


def test_the_packaged_errors_are_those_of_the_curated_table():
    kernels = ("cudnn", "fa4", "natten", "xqa")
    found = checked_runs([run for run in load_curated() if run.kernel in kernels])
    assert len(found) > 8
    for use, of in found.items():
        packaged = checked()[use]
        assert (of.rows, str(of.seen)) == (packaged.rows, str(packaged.seen))
        assert (of.mape, of.bias) == pytest.approx((packaged.mape, packaged.bias), abs=2e-5)
    assert {use for use in checked() if use.kernel in kernels} == set(found)


def test_runs_are_counted_by_hand(tmp_path):
    runs = [run for run in load_curated() if (run.gpu, run.kernel) == ("b200", "fa4")][:3]
    engine = next(run for run in load_curated() if run.conditions.engine and run.time_s < AT_LEAST_S)
    exact = float(problem_of(runs[:1]).seconds()[0])
    twice = [
        replace(run, id=str(index), time_s=time_s)
        for index, run, time_s in ((0, runs[0], exact), (1, runs[0], 2 * exact))
    ]
    found = checked_runs([*twice, engine])
    (use, of) = next(iter(found.items()))
    assert len(found) == 1  # an engine's short call says nothing of the kernel
    assert use == Use("b200", "fa4", "", use.phase, use.dtype)
    assert (of.rows, of.mape, of.bias) == pytest.approx((2, 0.25, -0.25))
    write_checked(tmp_path / "found.csv", found)
    lines = (tmp_path / "found.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1] == f"b200,fa4,,{use.phase},{use.dtype},2,0.25000,-0.25000,{of.seen}"
