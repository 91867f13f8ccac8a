"""Held-out errors, baselines and their command."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from attncast import InputError
from attncast.cli.validate import validate as command
from attncast.validation.measured import DATA, load_runs, save_runs
from attncast.validation.statistics import line_errors, summarise
from attncast.validation.validate import validate


@pytest.fixture(scope="module")
def serving():
    return [run for run in load_runs(DATA / "serving.csv") if run.gpu in ("h100", "b200")]


@pytest.fixture(scope="module")
def found(serving):
    return validate(serving, "serving.csv")


def test_a_summary_by_hand():
    summary = summarise(np.array([0.1, -0.3, 0.2, -0.1]))
    assert (summary.n, summary.worst) == (4, pytest.approx(0.3))
    assert (summary.mape, summary.median, summary.bias) == pytest.approx((0.175, 0.15, 0.0))


def test_the_line_finds_a_line_and_is_fitted_on_the_other_folds():
    light = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    fold = np.array([0, 1, 0, 1, 0, 1])
    assert line_errors(light, 2.0 * light + 3.0, fold) == pytest.approx(np.zeros(6), abs=1e-9)
    measured = 2.0 * light + 3.0
    measured[fold == 0] *= 2.0
    errors = line_errors(light, measured, fold)
    assert errors[fold == 0] == pytest.approx(np.full(3, -0.5))  # from constants that saw none of these rows
    assert errors[fold == 1] == pytest.approx(np.full(3, 1.0))


def test_held_out_errors_beat_the_baselines(found):
    assert set(found.held_out) == {("b200", "flashinfer"), ("h100", "fa3")}
    for key, summary in found.held_out.items():
        assert summary.mape < 0.25
        assert summary.mape < found.line[key].mape < found.speed_of_light[key].mape
        assert found.decode[key].n < summary.n
    assert 0.6 < found.coverage_80 < 0.95
    assert found.left_out  # triton and flashinfer on h100 have too few rows


def test_no_forecast_is_faster_than_light(found):
    for summary in found.speed_of_light.values():
        assert summary.bias < 0


def test_a_gpu_left_out_takes_the_constants_of_the_others(serving):
    as_h200 = [
        dataclasses.replace(r, gpu="h200", time_s=r.time_s * 0.9)
        for r in serving
        if (r.gpu, r.kernel) == ("h100", "fa3")
    ]
    found = validate([*serving, *as_h200], "two GPUs")
    assert set(found.left_out_gpu) == {("h100", "fa3"), ("h200", "fa3")}
    assert found.left_out_gpu["h200", "fa3"].mape != found.held_out["h200", "fa3"].mape


def test_speedups_of_windows_come_from_pairs_of_one_shape(serving):
    fa3 = [run for run in serving if (run.gpu, run.kernel) == ("h100", "fa3")]
    windows = [dataclasses.replace(run, pattern="window left=127 right=0", time_s=run.time_s / 2) for run in fa3]
    found = validate([*fa3, *windows], "pairs")
    assert found.speedup["h100", "fa3"].n == len(fa3)
    assert ("h100", "fa3") not in validate(fa3, "no pairs").speedup


def test_the_command(tmp_path, serving):
    rows = tmp_path / "rows.csv"
    save_runs(rows, [run for run in serving if run.kernel == "fa3"])
    done = CliRunner().invoke(command, ["--rows", str(rows), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.output)
    assert document["schema"] == 1
    assert set(document["held_out"]["h100"]["fa3"]) == {"n", "mape", "median", "p90", "worst", "bias"}
    assert set(document) >= {"left_out_gpu", "speedup", "decode", "baselines", "coverage_80"}
    assert "h100 fa3" in CliRunner().invoke(command, ["--rows", str(rows), "--above", "200us"]).output
    for arguments in (["--above", "50"], ["--above", "-1us"], ["--leave-out-gpu", "a100"]):
        assert isinstance(CliRunner().invoke(command, ["--rows", str(rows), *arguments]).exception, InputError)
